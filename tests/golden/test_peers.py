"""The peers' files of the failover bench, checked by the programs that read them."""

import subprocess
from itertools import product
from pathlib import Path

import pytest

from dev.bench.configurations import CONFIGURATIONS, PEERS
from dev.bench.world import INTERFACE, LOAD_BALANCERS, hosts

NAMES = sorted(CONFIGURATIONS)
PEER_NAMES = sorted(path.name for path in PEERS.iterdir())
EVERY_TREE = pytest.mark.parametrize(("name", "host"), list(product(NAMES, LOAD_BALANCERS)))

# What keepalived reports about the peers' own files, with its exit code: such files are kept as they are.
INSECURE = "SECURITY VIOLATION - scripts are being executed but script_security not enabled.\n"
PREEMPTS = "(octavia) Warning - nopreempt will not work with initial state MASTER - clearing\n"
COMPLAINTS = {
    ("seed", "k8s-lb-0"): (6, INSECURE),
    ("seed", "k8s-lb-1"): (6, INSECURE),
    ("kubeadm", "k8s-lb-0"): (6, INSECURE),
    ("kubeadm", "k8s-lb-1"): (6, INSECURE),
    ("octavia", "k8s-lb-0"): (6, INSECURE + PREEMPTS),
    ("octavia", "k8s-lb-1"): (6, INSECURE),
    ("kolla", "k8s-lb-0"): (6, INSECURE),
    ("kolla", "k8s-lb-1"): (6, INSECURE),
}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAME/HOST/..., with the paths of each host."""
    out = tmp_path_factory.mktemp("configurations")
    for name, host in product(NAMES, hosts()):
        for file in CONFIGURATIONS[name].files(host):
            path = out / name / host.name / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text)
            path.chmod(file.mode)
    return out


@EVERY_TREE
def test_haproxy_accepts_its_configuration(trees: Path, name: str, host: str):
    config = trees / name / host / "etc/haproxy/haproxy.cfg"
    subprocess.run(["haproxy", "-c", "-q", "-f", config], check=True)


@EVERY_TREE
def test_keepalived_accepts_its_configuration(trees: Path, name: str, host: str, tmp_path: Path):
    tree = trees / name / host
    config = tmp_path / "keepalived.conf"
    text = (tree / "etc/keepalived/keepalived.conf").read_text()
    config.write_text(text.replace("/etc/keepalived/", f"{tree}/etc/keepalived/"))
    interface = f"ip link add {INTERFACE} type veth peer name peer"
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "sh", "-c",
         f"{interface} && exec keepalived --config-test --use-file {config}"],
        check=False,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert (result.returncode, result.stdout + result.stderr) == COMPLAINTS.get((name, host), (0, ""))


@pytest.mark.parametrize("name", PEER_NAMES)
def test_shellcheck_finds_nothing_in_a_peers_scripts(trees: Path, name: str):
    scripts = sorted((trees / name / "k8s-lb-0").rglob("*.sh"))
    if scripts:  # Octavia's is Python
        subprocess.run(["shellcheck", *scripts], check=True)


@pytest.mark.parametrize("name", PEER_NAMES)
def test_every_file_of_a_peer_names_its_source(trees: Path, name: str):
    for path in (trees / name / "k8s-lb-0").rglob("*"):
        if path.is_file():
            head = path.read_text()[:400]
            assert "Source: " in head, path


@pytest.mark.parametrize("name", PEER_NAMES)
def test_programs_that_keepalived_and_systemd_run_exist_and_are_executable(trees: Path, name: str):
    tree = trees / name / "k8s-lb-0"
    words = {
        word.strip('"')
        for path in (tree / "etc/keepalived/keepalived.conf", *tree.rglob("*.service"))
        for line in path.read_text().splitlines()
        if not line.lstrip().startswith("#")
        for word in line.replace("=", " ").split()
    }
    named = {word for word in words if word.startswith("/etc/keepalived/")}
    assert named
    for program in named:
        assert (tree / program.lstrip("/")).stat().st_mode & 0o111 == 0o111, program
