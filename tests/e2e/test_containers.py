"""Instances of the lab run containers, from the lab's own packages and images."""

import json
from pathlib import Path
from typing import Any

from dev.lab.cloud import connect
from dev.lab.container import Container
from dev.lab.kubernetes import repository, versions
from dev.lab.settings import LabSettings
from operate.hosts.pair import wait_for
from tests.e2e.instances import NAME, Instance

HOST_NETWORK = 2  # NamespaceMode.NODE of the CRI

INSTALL_RUNTIME = """
set -euo pipefail
mkdir -p /etc/apt/keyrings /etc/containerd/certs.d/registry.k8s.io
cat >/etc/apt/keyrings/kubernetes.asc <<'END'
{key}
END
echo 'deb [signed-by=/etc/apt/keyrings/kubernetes.asc] {source} /' >/etc/apt/sources.list.d/kubernetes.list
cat >/etc/containerd/registry-ca.crt <<'END'
{authority}
END
cat >/etc/containerd/certs.d/registry.k8s.io/hosts.toml <<'END'
[host."{registry}"]
  capabilities = ["pull", "resolve"]
  ca = "/etc/containerd/registry-ca.crt"
END
cat >/etc/containerd/config.toml <<'END'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:{pause}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
END
echo 'runtime-endpoint: unix:///run/containerd/containerd.sock' >/etc/crictl.yaml
export DEBIAN_FRONTEND=noninteractive
apt-get update --error-on=any
apt-get install --yes --no-install-recommends -o Dpkg::Options::=--force-confold containerd cri-tools
"""


def test_a_pod_s_sandbox_starts_in_an_instance(settings: LabSettings, instances: list[Instance]) -> None:
    """With the lab's packages and images, as on a site without Internet. Both have one, each in a cgroup of its own."""
    script = INSTALL_RUNTIME.format(
        source=f"{settings.packages_url}/{repository.PATH}/",
        key=settings.packages_key.read_text(),
        registry=settings.registry_url,
        authority=settings.registry_authority.read_text(),
        pause=versions.TAGS["pause"],
    )
    for index, instance in enumerate(instances):
        installed = instance.run("sudo bash", timeout=300, stdin=script.encode())
        assert installed.returncode == 0, installed.stderr.decode()
        pod = {
            "metadata": {"name": NAME, "namespace": "default", "uid": NAME},
            "linux": {
                "cgroup_parent": f"/{NAME}-{index}",
                "security_context": {"namespace_options": {"network": HOST_NETWORK}},
            },
        }
        started = instance.run("cat >pod.json && sudo crictl runp pod.json", stdin=json.dumps(pod).encode())
        assert started.returncode == 0, started.stderr.decode()
        assert instance.run("sudo crictl pods --quiet --state Ready").stdout.split() == started.stdout.split()
    for index, instance in enumerate(instances):
        found = instance.run(f"sudo find /sys/fs/cgroup -name '{NAME}-*' -printf '%f\\n' | sort --unique").stdout
        assert found.decode().split() == [f"{NAME}-{index}"]


def test_an_instance_does_not_change_the_machine_s_kernel_settings(instances: list[Instance]) -> None:
    for name in ("kernel/panic", "vm/overcommit_memory", "kernel/keys/root_maxkeys"):
        path = Path("/proc/sys") / name
        before = int(path.read_text())
        written = instances[0].run(f"echo {before + 1} | sudo tee {path} && cat {path}")
        assert written.stdout.split() == [str(before + 1).encode()] * 2
        assert int(path.read_text()) == before


def test_a_deleted_instance_s_pods_end(settings: LabSettings, instances: list[Instance]) -> None:
    """So do its cgroups. Otherwise a later lab's instance of the same name would have the old pods in its own."""
    compute: Any = connect(settings, "lab-admin").compute
    (server,) = compute.servers(all_projects=True, name=f"^{NAME}-{len(instances) - 1}$")
    compute.delete_server(server)
    compute.wait_for_delete(server)
    left = f"ls -d /sys/fs/cgroup/*/guests/{server.instance_name} || true"
    wait_for("its cgroups are gone", lambda: not Container(settings).run("sh", "-c", left), 20)
