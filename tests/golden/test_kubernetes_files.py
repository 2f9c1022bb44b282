"""The files of a cluster's hosts, compared with the reviewed ones in `expected/`, and read by their programs.

After an intended change: `make golden UPDATE=1`, then review the difference.
"""

import json
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import yaml

from dev.review.render import render
from model.rendering import (
    KUBERNETES_TEMPLATES,
    kubernetes_endpoint_script,
    kubernetes_files,
    kubernetes_init_script,
    kubernetes_join_script,
    kubernetes_leave_script,
    kubernetes_network_script,
    kubernetes_packages_script,
    kubernetes_ready_script,
    kubernetes_remove_script,
    kubernetes_stop_api_server_script,
    kubernetes_version_script,
    local_endpoint_files,
)
from model.settings import Settings
from tests.golden import debian_13
from tests.golden.kubernetes_stacks import STACKS
from tests.unit.cluster_example import example_cluster, example_endpoint, example_node
from tests.unit.example import example_values

EXPECTED = Path(__file__).parent / "expected"
# One of each role: the others differ in name and address.
HOSTS = ["k8s-lb-0", "k8s-cp-0", "k8s-worker-0"]


@pytest.mark.parametrize("stack", STACKS)
def test_every_rendered_file_is_the_reviewed_one(stack: str, tmp_path: Path):
    render(Settings.parse(example_values(**STACKS[stack])), tmp_path)
    rendered = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    reviewed = {
        path: text
        for path, text in rendered.items()
        if path.parts[0] in HOSTS
        and path.suffix != ".py"
        and (path.parts[0] != "k8s-lb-0" or path.name in ("ca.pem", "haproxy.cfg"))
    }
    if os.environ.get("UPDATE"):
        shutil.rmtree(EXPECTED / stack, ignore_errors=True)
        for path, text in reviewed.items():
            (EXPECTED / stack / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(text, EXPECTED / stack / path)
    expected = {path.relative_to(EXPECTED / stack): path for path in (EXPECTED / stack).rglob("*") if path.is_file()}
    assert reviewed.keys() == expected.keys()
    for path, text in reviewed.items():
        assert text.read_text() == expected[path].read_text(), (
            f"{path} has changed; if this is intended: make golden UPDATE=1"
        )
    for program in ("usr/local/lib/ha-api/etcd.py", "usr/local/lib/ha-api/kubelet_certificates.py"):
        assert rendered[Path("k8s-cp-0") / program].read_text() == (KUBERNETES_TEMPLATES / program).read_text()


def test_a_stack_without_a_cluster_has_files_on_its_load_balancers_alone(tmp_path: Path):
    render(Settings.parse(example_values(kubernetesVersion="")), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"k8s-lb-0", "k8s-lb-1"}


@pytest.mark.parametrize("control_plane", [True, False])
@pytest.mark.parametrize("stack", STACKS)
def test_the_files_are_what_their_programs_read(stack: str, control_plane: bool):
    node = example_node(control_plane, **STACKS[stack])
    (containerd, kubelet) = kubernetes_files(
        node, ["etc/containerd/config.toml", "etc/kubernetes/kubelet.conf.d/60-ha-api.conf"]
    )
    cri = tomllib.loads(containerd.text)["plugins"]["io.containerd.grpc.v1.cri"]
    configuration = json.loads(kubelet.text)
    options = cri["containerd"]["runtimes"]["runc"]["options"]
    assert options["SystemdCgroup"] is True
    assert configuration["serverTLSBootstrap"] is True


@pytest.mark.parametrize("haproxy", [["haproxy"], debian_13.program("haproxy")], ids=["installed", "Debian 13's"])
def test_haproxy_accepts_a_worker_s_configuration(tmp_path: Path, haproxy: list[str]):
    endpoint = example_endpoint(Settings.parse(example_values(kubernetesVersion="1.37.2")))
    for file in local_endpoint_files(endpoint):
        path = tmp_path / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text.replace("/etc/haproxy/ha-api", f"{tmp_path}/etc/haproxy/ha-api"))
    subprocess.run([*haproxy, "-c", "-q", "-dW", "-f", tmp_path / "etc/haproxy/haproxy.cfg"], check=True)


def scripts() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, changes in STACKS.items():
        node, worker = example_node(**changes), example_node(False, **changes)
        settings = node.cluster.settings
        found |= {
            f"{name}: version": kubernetes_version_script(settings),
            f"{name}: packages": kubernetes_packages_script(node),
            f"{name}: packages of a worker": kubernetes_packages_script(worker),
            f"{name}: init": kubernetes_init_script(node),
            f"{name}: join": kubernetes_join_script(node),
            f"{name}: join of a worker": kubernetes_join_script(worker),
            f"{name}: network": kubernetes_network_script(node.cluster),
            f"{name}: endpoint": kubernetes_endpoint_script(settings, example_endpoint(settings)),
            f"{name}: ready": kubernetes_ready_script(settings),
        }
    newer = replace(example_node(), cluster=replace(example_cluster(), version="1.38.0"))
    found["packages of 1.38"] = kubernetes_packages_script(newer)
    found["stop"] = (KUBERNETES_TEMPLATES / "usr/local/lib/ha-api/stop_control_plane.sh").read_text()
    for role, returning in ((True, ()), (True, ("k8s-cp-0",)), (False, ()), (False, ("k8s-worker-0",))):
        found[f"leave, control plane {role}, after {len(returning)}"] = kubernetes_leave_script(
            "k8s-cp-1",
            IPv4Address("198.51.100.22"),
            control_plane=role,
            healthy_others=2,
            returning=returning,
            wait=60,
            drain=60,
        )
        found[f"remove, control plane {role}"] = kubernetes_remove_script(
            "k8s-cp-1", IPv4Address("198.51.100.22"), control_plane=role, cordoned=role, wait=60
        )
    found["stop of an API server"] = kubernetes_stop_api_server_script()
    return found


@pytest.mark.parametrize("step", scripts())
def test_shellcheck_finds_nothing_in_the_scripts(step: str):
    # SC2317: ShellCheck does not see that `run` calls functions.
    result = subprocess.run(
        ["shellcheck", "--exclude=SC2317", "-"], input=scripts()[step], check=False, capture_output=True, text=True
    )
    assert result.stdout == ""


def test_the_cluster_s_secrets_are_on_control_planes_and_workers_get_none_that_signs():
    worker = kubernetes_join_script(example_node(False))
    control_plane = kubernetes_join_script(example_node())
    for name, text in example_node().cluster.authorities.files.items():
        assert (text in control_plane) is not name.startswith("bootstrap"), name
        assert (text in worker) is (name == "ca"), name


def test_flannel_has_the_cluster_s_network_and_runs_on_every_host():
    script = kubernetes_network_script(example_cluster(podNetwork="172.20.0.0/16"))
    manifest = re.search(r"<<'(END-\w+)'\n(.*)\n\1\n", script, re.DOTALL)
    assert manifest
    objects = {it["kind"]: it for it in yaml.safe_load_all(manifest[2])}
    assert json.loads(objects["ConfigMap"]["data"]["net-conf.json"])["Network"] == "172.20.0.0/16"
    # A node without flannel is never Ready, whatever workerTaints has.
    assert objects["DaemonSet"]["spec"]["template"]["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert objects["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
