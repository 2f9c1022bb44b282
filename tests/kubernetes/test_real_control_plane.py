"""A real etcd and a real API server with the program's files, in namespaces of their own: what is open, and to whom."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import yaml

from model.kubernetes import API_SERVER_FILES, CONTROL_PLANE_FILES, JOINING_FILES
from model.rendering import KUBERNETES_TEMPLATES, kubernetes_files
from tests.unit.cluster_example import example_node

PROGRAMS = KUBERNETES_TEMPLATES / "usr/local/lib/ha-api"
MEMBERS = ["198.51.100.21", "198.51.100.22", "198.51.100.23"]
VIP = "198.51.100.100"


class Machine:
    """One machine with the addresses of three, and a control plane that its processes make."""

    def __init__(self, programs: Mapping[str, Path], folder: Path) -> None:
        self.folder = folder
        self.etcd = programs["etcd"] / "server"
        self.environment = {"PATH": f"{programs['kubernetes']}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)}
        self._processes: list[subprocess.Popen[bytes]] = []
        etc = folder / "etc"
        etc.mkdir()
        (etc / "hosts").write_text("127.0.0.1 localhost\n")
        (folder / "log").mkdir()
        prepare = [f"mount --bind {etc} /etc", f"mount --bind {folder / 'log'} /var/log", "ip link set lo up"]
        prepare += [f"ip address add {address}/32 dev lo" for address in (*MEMBERS, VIP)]
        # The new namespaces live as long as this process.
        holder = subprocess.Popen(
            [
                "unshare",
                "--user",
                "--map-root-user",
                "--mount",
                "--net",
                "sh",
                "-c",
                " && ".join(prepare) + " && echo && exec cat",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._processes.append(holder)
        assert holder.stdout
        assert holder.stdout.readline() == b"\n"
        self._enter = [
            "nsenter",
            f"--target={holder.pid}",
            "--user",
            "--mount",
            "--net",
            "--preserve-credentials",
            "--",
        ]

    def start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """A process in the background."""
        log = (self.folder / f"{Path(command[0]).name}-{len(self._processes)}.log").open("wb")
        process = subprocess.Popen([*self._enter, *command], env=self.environment, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def run(self, *command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A command, and what came of it."""
        return subprocess.run(
            [*self._enter, *command], env=self.environment, input=stdin, capture_output=True, check=False, text=True
        )

    def must(self, *command: str | Path, stdin: str = "") -> str:
        """A command that has to succeed."""
        done = self.run(*command, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def until(self, *command: str | Path) -> None:
        """Wait until a command succeeds."""
        deadline = time.monotonic() + 60
        while (done := self.run(*command)).returncode:
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.3)

    def end(self) -> None:
        """End all processes, at once: an API server without its etcd would take a minute to end in order."""
        for process in reversed(self._processes):
            process.kill()
        for process in self._processes:
            process.wait()


@pytest.fixture(scope="module")
def machine(programs: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    machine = Machine(programs, folder)
    node = example_node()
    root = folder / "etc" / "kubernetes"
    for path, text in node.cluster.authorities.pki.items():
        (root / "pki" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "pki" / path).write_text(text)
    for file in kubernetes_files(node, (*API_SERVER_FILES, *CONTROL_PLANE_FILES, *JOINING_FILES)):
        if file.path.startswith(("etc/kubernetes", "run/")):
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.text)
    try:
        _start_etcd(machine, folder)
        init = "/etc/kubernetes/ha-api/init.yaml"
        for phase in ("certs all", "kubeconfig all", "control-plane apiserver"):
            machine.must("kubeadm", "init", "phase", *phase.split(), "--config", init)
        manifest = yaml.safe_load((root / "manifests/kube-apiserver.yaml").read_text())
        arguments: list[str] = manifest["spec"]["containers"][0]["command"]
        others = [it for it in arguments if not it.startswith(("--etcd-servers", "--bind-address"))]
        machine.start(*others, f"--etcd-servers=https://{MEMBERS[0]}:2379", "--bind-address=0.0.0.0")
        machine.until(
            "curl", "--silent", "--fail", "--cacert", "/etc/kubernetes/pki/ca.crt", f"https://{VIP}:6443/readyz"
        )
        machine.environment["KUBECONFIG"] = "/etc/kubernetes/super-admin.conf"
        for phase in ("upload-config all", "bootstrap-token"):
            machine.must("kubeadm", "init", "phase", *phase.split(), "--config", init)
        yield machine
    finally:
        machine.end()


def _start_etcd(machine: Machine, folder: Path) -> None:
    """Three members, whose certificates have all three addresses: on one machine any of them may be the sender's."""
    cluster = ",".join(f"k8s-cp-{index}=https://{address}:2380" for index, address in enumerate(MEMBERS))
    for index, address in enumerate(MEMBERS):
        node = replace(example_node(), name=f"k8s-cp-{index}", address=IPv4Address(address))
        pki = folder / "etc" / f"etcd-{index}"
        machine.must("cp", "-r", "/etc/kubernetes/pki", f"/etc/{pki.name}")
        text = kubernetes_files(node, ["etc/kubernetes/ha-api/init.yaml"])[0].text
        names = f"etcd: {{local: {{peerCertSANs: [{', '.join(MEMBERS)}]}}}}"
        (folder / "etc" / f"etcd-{index}.yaml").write_text(
            text.replace("clusterName:", f"certificatesDir: /etc/{pki.name}\n{names}\nclusterName:")
        )
        for certificate in ("etcd-server", "etcd-peer"):
            machine.must("kubeadm", "init", "phase", "certs", certificate, "--config", f"/etc/etcd-{index}.yaml")
        options = {
            "name": f"k8s-cp-{index}", "data-dir": str(folder / f"data-{index}"), "initial-cluster": cluster,
            "listen-client-urls": f"https://{address}:2379", "advertise-client-urls": f"https://{address}:2379",
            "listen-peer-urls": f"https://{address}:2380", "initial-advertise-peer-urls": f"https://{address}:2380",
            "listen-metrics-urls": f"http://{address}:2381",
            "trusted-ca-file": f"/etc/{pki.name}/etcd/ca.crt", "peer-trusted-ca-file": f"/etc/{pki.name}/etcd/ca.crt",
            "cert-file": f"/etc/{pki.name}/etcd/server.crt", "key-file": f"/etc/{pki.name}/etcd/server.key",
            "peer-cert-file": f"/etc/{pki.name}/etcd/peer.crt", "peer-key-file": f"/etc/{pki.name}/etcd/peer.key",
        }  # fmt: skip
        arguments = [f"--{name}={value}" for name, value in options.items()]
        machine.start(machine.etcd, *arguments, "--client-cert-auth", "--peer-client-cert-auth")


def kubectl_as_bootstrapper(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
    return machine.run("kubectl", "--kubeconfig", machine.folder / "run/ha-api/discovery.conf", *arguments)


@pytest.mark.parametrize(
    ("path", "code"),
    [("/readyz", 200), ("/livez", 200), ("/healthz", 200), ("/api", 401), ("/version", 401), ("/metrics", 401)],
)
def test_without_a_credential_only_health_checks_answer(machine: Machine, path: str, code: int):
    answer = machine.must(
        "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}",
        "--cacert", "/etc/kubernetes/pki/ca.crt", f"https://{VIP}:6443{path}",
    )  # fmt: skip
    assert answer == str(code)


def test_secrets_are_encrypted_in_etcd_and_no_content_is_in_the_audit_log(machine: Machine):
    machine.must("kubectl", "create", "secret", "generic", "example", "--from-literal=word=opensesame")
    stored = machine.must(
        machine.etcd.parent / "etcdctl", "--endpoints", f"https://{MEMBERS[0]}:2379",
        "--cacert", "/etc/kubernetes/pki/etcd/ca.crt", "--cert", "/etc/kubernetes/pki/etcd/healthcheck-client.crt",
        "--key", "/etc/kubernetes/pki/etcd/healthcheck-client.key", "--write-out=json",
        "get", "/registry/secrets/default/example",
    )  # fmt: skip
    prefix = machine.must("base64", "--decode", stdin=json.loads(stored)["kvs"][0]["value"][:32])
    assert prefix.startswith("k8s:enc:secretbox:v1:")
    audit = (machine.folder / "log/kubernetes/audit/audit.log").read_text()
    assert '"name":"example"' in audit
    assert "opensesame" not in audit


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        ("get configmap/kubeadm-config", True),
        ("get configmap/kubelet-config", True),
        ("get nodes", True),
        ("create certificatesigningrequests", True),
        ("get secrets", False),
        ("delete nodes", False),
        ("create pods", False),
    ],
)
def test_what_a_host_joins_with_is_good_for_joining_alone(machine: Machine, action: str, allowed: bool):
    done = kubectl_as_bootstrapper(machine, "auth", "can-i", *action.split(), "--namespace", "kube-system")
    assert done.stdout.split()[-1] == ("yes" if allowed else "no"), done.stderr


def etcd_program(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
    endpoints = [word for address in MEMBERS for word in ("--endpoint", f"https://{address}:2379")]
    return machine.run("/usr/bin/python3", PROGRAMS / "etcd.py", *endpoints, *arguments)


def test_etcd_s_leader_yields(machine: Machine):
    def leader() -> str:
        (row,) = (row for row in etcd_program(machine, "members").stdout.splitlines() if row.endswith("leader"))
        return row.split()[2]

    before = leader()
    done = machine.run("/usr/bin/python3", PROGRAMS / "etcd.py", "--endpoint", f"https://{before}:2379", "yield")
    assert done.returncode == 0, done.stderr
    assert "leads etcd now" in done.stdout
    assert leader() != before


def test_etcd_s_members_are_listed_spared_and_removed(machine: Machine):
    """Last: it takes members away."""
    rows = [line.split() for line in etcd_program(machine, "members").stdout.splitlines()]
    assert {(row[1], row[2], row[3]) for row in rows} == {
        (f"k8s-cp-{index}", address, "voter") for index, address in enumerate(MEMBERS)
    }
    assert sorted(row[4] for row in rows) == ["follower", "follower", "leader"]
    assert etcd_program(machine, "spare", MEMBERS[2], "2").returncode == 0
    assert "removed k8s-cp-2" in etcd_program(machine, "remove", MEMBERS[2]).stdout
    refusal = etcd_program(machine, "spare", MEMBERS[1], "2")
    assert refusal.returncode == 1
    assert "1 other etcd members are healthy, and 2 must be" in refusal.stderr
    assert len(etcd_program(machine, "members").stdout.splitlines()) == 2
