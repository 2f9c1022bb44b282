"""The real kubeadm reads the program's files."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from model.rendering import kubernetes_files
from tests.golden.kubernetes_stacks import STACKS
from tests.unit.cluster_example import example_node


@pytest.fixture(scope="module")
def kubeadm(programs: Mapping[str, Path]) -> Path:
    return programs["kubernetes"] / "kubeadm"


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("control_plane", [True, False])
def test_kubeadm_accepts_its_configuration(kubeadm: Path, control_plane: bool, stack: str, tmp_path: Path):
    node = example_node(control_plane, **STACKS[stack])
    discovery = tmp_path / "discovery.conf"
    files = kubernetes_files(node, ["run/ha-api/discovery.conf", "etc/kubernetes/ha-api/join.yaml"])
    discovery.write_text(files[0].text)
    texts = [files[1].text.replace("/run/ha-api/discovery.conf", str(discovery))]
    if control_plane:
        texts.append(kubernetes_files(node, ["etc/kubernetes/ha-api/init.yaml"])[0].text)
    for text in texts:
        config = tmp_path / "kubeadm.yaml"
        config.write_text(text)
        done = subprocess.run(
            [kubeadm, "config", "validate", "--config", config], check=False, capture_output=True, text=True
        )
        # It recommends a year; the template says why it is not.
        others = [line for line in done.stderr.splitlines() if "certificateValidityPeriod" not in line]
        assert (done.returncode, others) == (0, [])


def test_kubeadm_uses_the_program_s_authorities(kubeadm: Path, tmp_path: Path):
    node = example_node()
    pki = node.cluster.authorities.pki
    for name, text in pki.items():
        path = tmp_path / "pki" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    config = tmp_path / "init.yaml"
    text = kubernetes_files(node, ["etc/kubernetes/ha-api/init.yaml"])[0].text
    config.write_text(text.replace("clusterName:", f"certificatesDir: {tmp_path}/pki\nclusterName:"))
    for phase in (["certs", "all"], ["kubeconfig", "all", "--kubeconfig-dir", str(tmp_path)]):
        subprocess.run([kubeadm, "init", "phase", *phase, "--config", config], check=True, capture_output=True)
    for name, text in pki.items():
        assert (tmp_path / "pki" / name).read_text() == text
    verify = ["openssl", "verify", "-CAfile"]
    for authority, certificate in (
        ("ca", "apiserver"),
        ("etcd/ca", "etcd/server"),
        ("front-proxy-ca", "front-proxy-client"),
    ):
        subprocess.run(
            [*verify, tmp_path / f"pki/{authority}.crt", tmp_path / f"pki/{certificate}.crt"],
            check=True,
            capture_output=True,
        )
    # What the load balancers verify.
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", tmp_path / "pki/apiserver.crt"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert {"DNS:kubernetes", "IP Address:198.51.100.21", "IP Address:198.51.100.100"} <= {
        it.strip() for it in done.stdout.split("\n")[1].split(",")
    }
