"""A support bundle's parts that need no host: what is read there, what is put into the archive, how it is written."""

import asyncio
import io
import json
import resource
import shlex
import socket
import sys
import tarfile
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer
from openstack.exceptions import NotFoundException

from dev.standin.certificate import self_signed
from model.kubernetes import HOST_FILES, KUBERNETES_FILES
from model.load_balancers import LOAD_BALANCER_FILES
from model.settings import Settings
from operate.commands.support_bundle import since_of
from operate.hosts.report import PairReport
from operate.hosts.ssh import Access
from operate.stack.applied import AppliedStack, Outputs, StackConfiguration
from operate.stack.engine import StackError
from operate.stack.resources import INSTANCE, PORT
from operate.support import bundle, on_host
from operate.support.redaction import REDACTED
from tests.unit.example import example_values

PASSWORD = "s3cr8t-x"  # noqa: S105
KEY = self_signed("client", []).key.decode()


@pytest.fixture
def stack() -> AppliedStack:
    values = example_values()
    outputs = {
        "vip": "198.51.100.10",
        "endpoint": "https://198.51.100.10:6443",
        "addresses": {"loadBalancers": {"k8s-lb-0": "198.51.100.11"}, "controlPlane": {}, "workers": {}},
        "securityGroupIds": {},
        "sshCommands": {},
        "knownHosts": "",
        "configurationDigests": {},
    }
    configuration = StackConfiguration(
        stack="dev",
        settings=Settings.parse(values),
        private_key=values["sshPrivateKey"],
        secrets=frozenset({PASSWORD, KEY}),
        provider={"authUrl": "http://198.51.100.99/", "userName": "ada", "password": "openstack-pass"},
    )
    access = Access(user="debian", private_key=values["sshPrivateKey"], known_hosts="")
    return AppliedStack(name="dev", outputs=Outputs.parse(outputs), configuration=configuration, access=access)


def test_no_secret_reaches_the_archive(stack: AppliedStack, monkeypatch: pytest.MonkeyPatch):
    planted = [PASSWORD, KEY, stack.configuration.private_key, "openstack-pass"]

    async def collect(*_: object) -> dict[str, str]:
        return {"k8s-lb-0/journal/vrrp.log": "\n".join(planted), f"k8s-lb-0/files/etc/{PASSWORD}": "a text"}

    monkeypatch.setattr(bundle, "_collect", collect)
    for name in ("OS_CLOUD", "OS_CLIENT_CONFIG_FILE"):  # of whoever runs this
        monkeypatch.delenv(name, raising=False)
    archive = bundle.build(stack, "-24h", cast("Callable[[PairReport], str]", str), print)
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        names = members.getnames()
        everything = "\n".join(names) + "".join(
            file.read().decode() for name in names if (file := members.extractfile(name))
        )
        assert {it.mode for it in members.getmembers()} == {0o600}
    assert names == [f"support-dev/{it}" for it in (
        "README.txt", "k8s-lb-0/files/etc/[redacted]", "k8s-lb-0/journal/vrrp.log",
    )]  # fmt: skip
    assert "a text" in everything
    assert not any(line in everything for secret in planted for line in secret.splitlines() if line)


def test_only_the_owner_can_read_an_archive_and_it_replaces_an_older_one(tmp_path: Path):
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(b"older, and longer than the new one")
    path.chmod(0o644)
    bundle.write(b"new", path)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [*tmp_path.iterdir()] == [path]


def test_an_archive_that_does_not_fit_keeps_the_older_one_and_leaves_nothing_else(tmp_path: Path):
    """A limit on the size of this process's files replaces a full disk."""
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(b"older")
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, most))
    try:
        with pytest.raises(OSError, match="File too large"):
            bundle.write(bytes(100_000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    assert path.read_bytes() == b"older"
    assert [*tmp_path.iterdir()] == [path]


def test_the_last_whole_lines_of_a_long_text_are_kept(tmp_path: Path):
    line = b"the password is " + PASSWORD.encode() + b"\n"
    content = line * (on_host.MOST_BYTES // len(line) + 10)
    file = tmp_path / "long.log"
    file.write_bytes(content)
    for kept in (on_host.end_of(content), on_host.read(str(file))):
        assert len(kept) <= on_host.MOST_BYTES
        assert {*kept.splitlines()} == {line.decode().strip()}


def test_a_short_text_is_kept_completely(tmp_path: Path):
    file = tmp_path / "short.log"
    file.write_bytes(b"all of it \xff\n")
    assert on_host.read(str(file)) == "all of it \N{REPLACEMENT CHARACTER}\n"


def test_a_failing_or_missing_command_is_reported():
    assert on_host.run("sh", "-c", "echo said; exit 3") == "said\n\n(ended with status 3)\n"
    assert "No such file" in on_host.attempt(lambda: on_host.run("no-such-command"))


def test_a_command_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_host, "COMMAND_SECONDS", 0.2)
    assert on_host.run("sh", "-c", "echo said; exec sleep 20") == "said\n\n(killed after 0.2 s)\n"


class Host:
    """A host's folder in place of `/`, and what would be collected from it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root

        class Root(type(root)):
            def __new__(cls, *parts: str) -> Path:  # pyright: ignore
                return root if parts == ("/",) else Path(*parts)

        monkeypatch.setattr(on_host, "Path", Root)

    def write(self, path: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a text")

    def load_balancer(self) -> dict[str, Callable[[], str]]:
        return dict(on_host.load_balancer("-24h", 8405, bundle.UNITS, bundle.APPLIED_FILES))

    def control_plane(self) -> dict[str, Callable[[], str]]:
        return dict(on_host.control_plane("-24h", "k8s-cp-0", bundle.CONTROL_PLANE_UNITS, bundle.NODE_FILES))

    def worker(self) -> dict[str, Callable[[], str]]:
        return dict(on_host.worker("-24h", bundle.WORKER_UNITS, bundle.WORKER_FILES))

    def files_in(self, sources: Mapping[str, object]) -> set[str]:
        """The paths of the files that are read, without the leading slash."""
        return {name.removeprefix(f"files{self.root}/") for name in sources if name.startswith("files")}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_of_files_that_were_not_applied_only_the_path_is_collected(host: Host):
    ours = [path for path in LOAD_BALANCER_FILES if path != "etc/haproxy/ha-api/client.pem"]
    others = ["etc/haproxy/ha-api/client.pem", "etc/haproxy/more.cfg", "etc/haproxy/tls.key", "etc/haproxy/keys.map"]
    others += ["etc/keepalived/more.conf", "etc/systemd/system/haproxy.service.d/env.conf", "etc/firewalld/a.xml"]
    others += ["etc/systemd/system/backup.service"]
    for path in (*ours, *others):
        host.write(path)
    sources = host.load_balancer()
    assert host.files_in(sources) == {*ours}
    listed = sources["commands/paths.txt"]().splitlines()
    assert {f"{host.root}/{path}" for path in (*ours, *others)} <= {*listed}


def test_no_environment_no_other_unit_and_no_request_is_collected(host: Host, monkeypatch: pytest.MonkeyPatch):
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(on_host.subprocess, "run", lambda command, **_: commands.append(command))  # pyright: ignore
    for name, how in host.load_balancer().items():
        if name.startswith(("journal", "commands")):
            with suppress(AttributeError, OSError, ImportError):
                how()
    journals = [it for it in commands if it[0] == "journalctl"]
    selected = ("--unit=haproxy", "--unit=keepalived", "--dmesg", "--identifier=vrrp")
    assert {*selected} <= {it[-1] for it in journals}
    assert all(it[-1] == "--dmesg" or it[-1].startswith(("--unit=", "--identifier=")) for it in journals)
    assert not any("*" in it[-1] for it in journals)
    (show,) = (it for it in commands if it[:2] == ("systemctl", "show"))
    (properties,) = (it for it in show if it.startswith("--property="))
    assert not {"Environment", "ExecStart", "SetCredential"} & {*properties.partition("=")[2].split(",")}


STATIC_PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
POD_LOGS = [f"var/log/pods/kube-system_{it}-k8s-cp-0_0123abcd/{it}/{n}.log" for it in STATIC_PODS for n in (0, 1)]
PROGRAM_LOGS = ["var/log/ha-api-install.log", "var/log/ha-api-kubernetes.log"]


def test_of_a_node_the_logs_are_collected_and_no_keys(host: Host):
    secret = [path for path in KUBERNETES_FILES if path not in HOST_FILES]
    secret += [f"etc/kubernetes/{name}" for name in ("admin.conf", "kubelet.conf", "pki/ca.key", "pki/etcd/ca.key")]
    secret += ["etc/kubernetes/manifests/etcd.yaml", "var/lib/etcd/member/snap/db", "run/ha-api/ca.crt"]
    secret += ["var/lib/kubelet/pki/kubelet-client-current.pem", "var/log/kubernetes/audit/audit.log"]
    pods = ["kube-system_etcd-backup_0123abcd/etcd", "default_etcd-k8s-cp-0_0123abcd/etcd", "default_app_0/app"]
    secret += [f"var/log/pods/{pod}/0.log" for pod in pods]
    for path in (*HOST_FILES, *PROGRAM_LOGS, *POD_LOGS, *secret):
        host.write(path)
    sources = host.control_plane()
    assert host.files_in(sources) == {*HOST_FILES, *PROGRAM_LOGS, *POD_LOGS}
    assert host.files_in(host.worker()) == {*HOST_FILES, *PROGRAM_LOGS}
    assert f"{host.root}/etc/kubernetes/pki/ca.key" in sources["commands/paths.txt"]().splitlines()


def test_the_last_whole_lines_of_a_pod_s_log_are_kept(host: Host):
    line = "2026-11-25T05:00:00Z stderr F the password is hunter2\n"
    file = host.root / POD_LOGS[0]
    host.write(POD_LOGS[0])
    file.write_text(line * (on_host.POD_LOG_BYTES // len(line) + 10))
    kept = host.control_plane()[f"files{file}"]()
    assert on_host.POD_LOG_BYTES - len(line) <= len(kept) <= on_host.POD_LOG_BYTES
    assert {*kept.splitlines(keepends=True)} == {line}


def test_of_the_cluster_only_nodes_and_the_system_s_pods_and_events_are_collected(
    host: Host, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(on_host, "run", lambda *command: shlex.join(command))  # pyright: ignore
    texts = {name: how() for name, how in host.control_plane().items() if name.startswith(("commands", "journal"))}
    asked = {
        name.removeprefix("commands/").removesuffix(".txt"): text.partition(" get --output=wide ")[2].split()
        for name, text in texts.items()
        if text.startswith("kubectl --kubeconfig=/etc/kubernetes/admin.conf --cache-dir=/dev/null --request-timeout=")
    }
    assert {name: [it for it in words if "sort-by" not in it] for name, words in asked.items()} == {
        "nodes": ["nodes"],
        "pods-kube-system": ["pods", "--namespace=kube-system"],
        "pods-kube-flannel": ["pods", "--namespace=kube-flannel"],
        "events-kube-system": ["events", "--namespace=kube-system"],
        "events-kube-flannel": ["events", "--namespace=kube-flannel"],
        "events-nodes": ["events", "--namespace=default", "--field-selector=involvedObject.kind=Node"],
    }
    assert sum("kubectl" in text for text in texts.values()) == len(asked)
    assert texts["commands/etcd-members.txt"] == "/usr/local/lib/ha-api/etcd.py members"
    assert texts["commands/containers.txt"] == "crictl ps --all"
    assert {name for name in texts if name.startswith("journal")} == {
        f"journal/{it}.log"
        for it in ("containerd", "kubelet", "ha-api-control-plane", "ha-api-kubelet-certificates", "kernel")
    }
    # A worker has no credential for them.
    assert not any("kubectl" in name or "etcd" in name or "pods" in name for name in host.worker())


def with_cluster(stack: AppliedStack) -> AppliedStack:
    values = example_values(controlPlaneUser="core", workerUser="ubuntu")
    outputs = replace(
        stack.outputs,
        control_plane={f"k8s-cp-{it}": f"198.51.100.2{it}" for it in range(3)},
        workers={"k8s-worker-0": "198.51.100.31"},
        kubernetes_version="1.37.2",
    )
    configuration = replace(stack.configuration, settings=Settings.parse(values))
    return replace(stack, outputs=outputs, configuration=configuration)


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Who logged in where. Each host runs the program here, as it gets it; one control-plane host is down."""
    found: dict[str, str] = {}

    def connect(access: Access, address: str) -> Any:
        found[address] = access.user
        if address == "198.51.100.21":
            raise ConnectionRefusedError(111, "Connection refused")
        return nullcontext()

    async def output(_: object, command: str, program: bytes, **_limits: float) -> str:
        _, _, python, *arguments = shlex.split(command)
        assert python == "python3"
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=PIPE, stdout=PIPE)
        printed, _none = await process.communicate(program)
        assert process.returncode == 0
        return printed.decode()

    monkeypatch.setattr(Access, "connect", connect)
    monkeypatch.setattr(bundle, "output", output)
    for name in ("_cloud", "_engine", "_status"):
        monkeypatch.setattr(bundle, name, lambda *_: {})  # pyright: ignore
    return found


def texts_of(stack: AppliedStack) -> set[str]:
    archive = bundle.build(stack, "-1h", cast("Callable[[PairReport], str]", str), print)
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        return {it.removeprefix("support-dev/") for it in members.getnames()}


def test_each_host_is_asked_for_what_its_role_has_and_one_that_is_down_costs_no_other(
    stack: AppliedStack, logins: dict[str, str]
):
    names = texts_of(with_cluster(stack))
    lists = {it.partition("/")[0] for it in names if it.endswith("/commands/packages.txt")}
    assert lists == {"k8s-lb-0", "k8s-cp-0", "k8s-cp-2", "k8s-worker-0"}
    assert {it for it in names if it.startswith("k8s-cp-1/")} == {"k8s-cp-1/unavailable.txt"}
    assert {it for it in names if it.endswith("/etcd-members.txt")} == {
        "k8s-cp-0/commands/etcd-members.txt",
        "k8s-cp-2/commands/etcd-members.txt",
    }
    assert {it.partition("/")[0] for it in names if it.endswith("/haproxy/metrics.txt")} == {"k8s-lb-0"}
    assert {it.partition("/")[0] for it in names if it.endswith("/journal/kubelet.log")} == {
        "k8s-cp-0", "k8s-cp-2", "k8s-worker-0",
    }  # fmt: skip
    assert logins == {
        "198.51.100.11": "debian",
        **{f"198.51.100.2{it}": "core" for it in range(3)},
        "198.51.100.31": "ubuntu",
    }


def test_bare_hosts_are_not_asked(stack: AppliedStack, logins: dict[str, str]):
    bare = with_cluster(stack)
    texts_of(replace(bare, outputs=replace(bare.outputs, kubernetes_version="")))
    assert [*logins] == ["198.51.100.11"]


def test_haproxy_is_not_asked_for_captured_requests(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "admin.sock"))
        server.listen()
        asked: list[bytes] = []

        def answer() -> None:
            client, _ = server.accept()
            with client:
                asked.append(client.recv(1000))
                client.sendall(b"an answer")

        thread = threading.Thread(target=answer)
        thread.start()
        assert on_host.query_socket(str(tmp_path / "admin.sock")) == "an answer"
        thread.join()
    assert asked == [b"show info;show stat\n"]


def test_progress_has_no_secret(stack: AppliedStack, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> Mapping[str, str]:
        raise StackError(f"the cloud refuses {PASSWORD} and http://ada:hunter2@proxy/")

    async def host(*_: object, **__: object) -> str:
        return "{}"

    for name in ("_cloud", "_engine", "_status"):
        monkeypatch.setattr(bundle, name, fail)
    monkeypatch.setattr(bundle, "output", host)
    monkeypatch.setattr(Access, "connect", lambda *_: nullcontext())  # pyright: ignore
    said: list[str] = []
    bundle.build(stack, "-24h", cast("Callable[[PairReport], str]", str), said.append)
    assert f"cloud: unavailable: the cloud refuses {REDACTED} and http://{REDACTED}@proxy/" in said
    assert not any(PASSWORD in it or "hunter2" in it for it in said)


class Namesakes:
    """A cloud in which every instance and port of ours has a namesake of another stack, or project."""

    session = SimpleNamespace(timeout=0)

    def __init__(self) -> None:
        self.compute = self.network = self

    def get_server(self, resource_id: str) -> Any:
        if resource_id == "gone":
            raise NotFoundException(resource_id)
        return in_cloud(resource_id, resource_id.removeprefix("id-").removeprefix("other-"))

    def servers(self) -> list[Any]:
        return [self.get_server(it) for it in ("id-k8s-lb-0", "other-k8s-lb-0", "id-k8s-cp-0", "other-k8s-jump")]

    def get_port(self, port_id: str) -> Any:
        return in_cloud(port_id, port_id.removeprefix("port-"), device_id="id-k8s-lb-0", network_id="network")

    def ports(self) -> list[Any]:
        return [self.get_port(it) for it in ("port-k8s-lb-0", "port-k8s-vip", "other-k8s-vip")]

    def get_server_group(self, _: str) -> Any:
        raise NotFoundException("no such group")

    def get_server_console_output(self, server: Any, **_: object) -> dict[str, str]:
        return {"output": f"console of {server.id}"}

    def security_groups(self) -> list[Any]:
        return []

    def networks(self) -> list[Any]:
        return [in_cloud("network", "ours"), in_cloud("other", "theirs")]

    def subnets(self) -> list[Any]:
        return []


def in_cloud(resource_id: str, name: str, **fields: str) -> Any:
    class Resource(defaultdict[str, Any]):
        __getattr__ = defaultdict[str, Any].__getitem__

    return Resource(lambda: None, id=resource_id, name=name, **fields)


def test_what_is_collected_from_the_cloud_is_found_by_its_id(stack: AppliedStack, monkeypatch: pytest.MonkeyPatch):
    ids = {
        (INSTANCE, "k8s-lb-0"): "id-k8s-lb-0",
        (INSTANCE, "k8s-cp-0"): "id-k8s-cp-0",
        (INSTANCE, "k8s-cp-1"): "gone",
        (PORT, "k8s-lb-0"): "port-k8s-lb-0",
        (PORT, "k8s-vip"): "port-k8s-vip",
    }
    monkeypatch.setattr(bundle, "recorded_ids", lambda _: ids)  # pyright: ignore
    monkeypatch.setattr(StackConfiguration, "cloud", lambda _: Namesakes())  # pyright: ignore
    texts = bundle._cloud(stack)  # pyright: ignore[reportPrivateUsage]

    def ids_in(name: str) -> set[str]:
        return {it["id"] for it in json.loads(texts[name])}

    assert ids_in("instances.json") == {"id-k8s-lb-0", "id-k8s-cp-0"}
    assert ids_in("ports.json") == {"port-k8s-lb-0", "port-k8s-vip"}
    assert ids_in("networks.json") == {"network"}
    assert texts["console-k8s-lb-0.log"] == "console of id-k8s-lb-0"


def test_past_configurations_have_names_only(monkeypatch: pytest.MonkeyPatch, stack: AppliedStack):
    """A value may have been a plain one before it was set as a secret, or be one under a misspelt name."""
    history = [
        {
            "version": 2,
            "kind": "update",
            "result": "succeeded",
            "environment": {"git.author.email": "ada@example.com"},
            "config": {"openstack-ha-api:vip": {"value": "198.51.100.10"}, "a:wifi": {"value": "hunter2"}},
            "resourceChanges": {"same": 61},
        }
    ]
    configuration = {
        "openstack-ha-api:vip": {"value": "198.51.100.10", "secret": False},
        "openstack-ha-api:vrrpPassword": {"value": "hunter2", "secret": False},
        "openstack-ha-api:sshPrivatekey": {"value": "hunter3", "secret": False},
        "openstack:password": {"secret": True},
        "openstack:cloud": {"value": "lab", "secret": False},
    }
    texts = {"history.json": json.dumps(history), "configuration.json": json.dumps(configuration)}
    monkeypatch.setattr(bundle, "without_secrets", lambda _: texts)  # pyright: ignore
    found = bundle._engine(stack)  # pyright: ignore[reportPrivateUsage]
    assert json.loads(found["history.json"]) == [
        {
            "version": 2,
            "kind": "update",
            "result": "succeeded",
            "resourceChanges": {"same": 61},
            "config": ["a:wifi", "openstack-ha-api:vip"],
        }
    ]
    assert json.loads(found["configuration.json"]) == {
        "openstack-ha-api:vip": {"value": "198.51.100.10", "secret": False},
        "openstack-ha-api:vrrpPassword": {"secret": False},
        "openstack-ha-api:sshPrivatekey": {"secret": False},
        "openstack:password": {"secret": True},
        "openstack:cloud": {"secret": False},
    }


@pytest.mark.parametrize("value", ["yesterday", "24", "-24h", "24h; reboot", "0h"])
def test_an_invalid_time_is_refused(value: str):
    with pytest.raises(typer.BadParameter):
        since_of(value)


@pytest.mark.parametrize("value", ["90min", "24h", "7d"])
def test_a_valid_time_is_accepted(value: str):
    assert since_of(value) == value
