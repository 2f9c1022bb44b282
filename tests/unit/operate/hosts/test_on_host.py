"""What a load balancer finds out about itself: against a real TLS server, real locks, and lists of kernels."""

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from socket import create_server
from socketserver import TCPServer
from subprocess import PIPE

import pytest
from cryptography import x509

from dev.standin.apiserver import StandInServer
from dev.standin.certificate import KeyPair, self_signed
from operate.hosts import on_host
from operate.hosts.on_host import ca_expires, certificate, default_route, drained_by, file, haproxy, locked_by, reboot
from tests.unit.cluster_example import example_authorities


@pytest.fixture(scope="module")
def pair() -> KeyPair:
    return self_signed("k8s-cp-0", ["127.0.0.1"])


@pytest.fixture
def api_server(pair: KeyPair, tmp_path: Path) -> Iterator[str]:
    crt, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    crt.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(crt, key)
    with StandInServer(("127.0.0.1", 0), tls, tmp_path / "health", "k8s-cp-0") as server:
        serving = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
        serving.start()
        yield str(server.server_address[1])
        server.shutdown()
        serving.join()


def test_the_certificate_of_an_api_server_is_read_without_being_trusted(api_server: str, pair: KeyPair):
    found = x509.load_pem_x509_certificate(certificate("127.0.0.1", api_server)["pem"].encode())
    assert found == x509.load_pem_x509_certificate(pair.certificate)


def test_the_end_of_the_checks_ca_is_read_if_they_have_one(tmp_path: Path):
    assert ca_expires(tmp_path / "none") is None
    (ca := tmp_path / "ca.pem").write_text(example_authorities()["ca"])
    end = x509.load_pem_x509_certificate(ca.read_bytes()).not_valid_after_utc
    assert ca_expires(ca) == end.timestamp()


def test_a_silent_api_server_times_out_after_two_seconds(monkeypatch: pytest.MonkeyPatch):
    def hasty(address: tuple[str, str], timeout: float) -> socket.socket:
        assert timeout == 2
        return connect(address, timeout=timeout / 10)

    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", hasty)
    with TCPServer(("127.0.0.1", 0), None) as silent:  # pyright: ignore[reportArgumentType] - never called
        assert "timed out" in certificate("127.0.0.1", str(silent.server_address[1]))["error"]


def test_an_api_server_that_is_down_has_an_error_instead_of_a_certificate():
    with TCPServer(("127.0.0.1", 0), None, bind_and_activate=False) as down:  # pyright: ignore[reportArgumentType]
        down.server_bind()
        assert "refused" in certificate("127.0.0.1", str(down.server_address[1]))["error"]


@pytest.mark.parametrize(
    ("running", "installed", "newer"),
    [
        ("6.1.0-18-amd64", ["6.1.0-18-amd64", "6.1.0-9-amd64"], None),
        ("6.1.0-9-amd64", ["6.1.0-18-amd64", "6.1.0-9-amd64"], "6.1.0-18-amd64"),
        ("5.15.0-91-generic", ["5.15.0-91-generic", "5.15.0-100-generic"], "5.15.0-100-generic"),
        # A container, with a kernel that it does not boot.
        ("6.8.0-host", ["6.1.0-18-amd64"], None),
        ("6.8.0-host", [], None),
    ],
)
def test_kernel_versions_are_compared_by_number(running: str, installed: list[str], newer: str | None):
    assert reboot(running, installed)["newer_kernel"] == newer


def test_a_held_lock_is_reported_without_taking_it(tmp_path: Path):
    lock = tmp_path / "operator.lock"
    assert locked_by(str(lock)) is None
    # As operate/hosts/lock.py takes it: by a process that hands it on to its shell, and ends.
    take = 'exec 9<>"$1"; flock --nonblock 9; echo "ada on desk, drill" >"$1"; echo taken; read -r _'
    with subprocess.Popen(["bash", "-c", take, "bash", lock], stdin=PIPE, stdout=PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"taken\n"
        assert locked_by(str(lock)) == "ada on desk, drill"
        holder.communicate()
    assert locked_by(str(lock)) is None


@pytest.mark.parametrize(("written", "there"), [("0\n", True), ("-25\n", False), (None, True)])
def test_a_lost_default_route_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, *, there: bool
):
    file = tmp_path / "default_route"
    monkeypatch.setattr(on_host, "DEFAULT_ROUTE", file)
    if written:
        file.write_text(written)
    assert default_route() is there


def test_an_answer_of_haproxy_that_is_cut_off_counts_as_none():
    with create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def end_at_once() -> None:
            for _ in range(3):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhaproxy_")

        ending = threading.Thread(target=end_at_once, daemon=True)
        ending.start()
        found = haproxy(port, port)
        ending.join()
    assert not found["alive"]
    assert found["api_servers"] == {}


def test_servers_are_reported_by_api_and_frontend(monkeypatch: pytest.MonkeyPatch):
    def server(proxy: str, name: str, state: str, check: str) -> str:
        place = f'proxy="{proxy}",server="{name}"'
        return (
            f'haproxy_server_status{{{place},state="{state}"}} 1\nhaproxy_server_status{{{place},state="MAINT"}} 0\n'
            f'haproxy_server_check_status{{{place},state="{check}"}} 1\nhaproxy_server_check_code{{{place}}} 200\n'
            f"haproxy_server_check_duration_seconds{{{place}}} 0.003\n"
        )

    metrics = (
        server("apiserver", "k8s-cp-0", "UP", "L7OK")
        + server("last-resort", "k8s-cp-0", "UP", "L4OK")
        + server("ingress", "k8s-worker-0", "DOWN", "L4CON")
        + server("rke2", "k8s-cp-0", "UP", "L4OK")
    )
    monkeypatch.setattr(on_host, "_answer", lambda *_: (200, metrics, {}))  # pyright: ignore
    found = haproxy(1, 2)
    assert {name: it["check"] for name, it in found["api_servers"].items()} == {"k8s-cp-0": "L7OK"}
    states = {frontend: {name: it["state"] for name, it in its.items()} for frontend, its in found["frontends"].items()}
    assert states == {"ingress": {"k8s-worker-0": "DOWN"}, "rke2": {"k8s-cp-0": "UP"}}
    assert found["frontends"]["rke2"]["k8s-cp-0"]["duration_ms"] == 3


def test_changes_of_frontends_servers_name_the_frontend(monkeypatch: pytest.MonkeyPatch):
    messages = [
        "Server apiserver/k8s-cp-0 is DOWN, reason: Layer4 timeout. 0 active and 0 backup servers left.",
        "Server last-resort/k8s-cp-0 is DOWN, reason: Layer4 timeout. 0 active and 0 backup servers left.",
        "Server ingress/k8s-worker-0 is UP, reason: Layer4 check passed. 1 active and 0 backup servers online.",
    ]
    lines = [json.dumps({"MESSAGE": text, "__REALTIME_TIMESTAMP": str(10**6 * at)}) for at, text in enumerate(messages)]
    journal = "\n".join(lines)
    monkeypatch.setattr(on_host, "_output", lambda *command: journal if "SYSLOG_FACILITY=17" in command else "")  # pyright: ignore
    assert [it["text"] for it in on_host.changes()] == [
        "k8s-cp-0 is DOWN, reason: Layer4 timeout",
        "ingress/k8s-worker-0 is UP, reason: Layer4 check passed",
    ]


def test_a_file_s_proven_copy_is_found_through_the_link_and_a_failed_run_s_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(on_host, "PROVEN", tmp_path / "proven")
    monkeypatch.setattr(on_host, "STAGE", tmp_path / "stage")
    path = str(tmp_path / "edited")[1:]
    for tree, text in (("proven.3", "as it served"), ("stage", "as it failed")):
        (tmp_path / tree / path).parent.mkdir(parents=True)
        (tmp_path / tree / path).write_text(text)
    (tmp_path / "proven").symlink_to("proven.3")
    (tmp_path / "edited").write_text("as it failed")
    found = file(path)
    assert found
    assert found["digest"] == found["staged_digest"] == sha256(b"as it failed").hexdigest()
    assert found["proven_digest"] == sha256(b"as it served").hexdigest()


def test_the_interface_is_compared_with_the_configured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    configuration = tmp_path / "keepalived.conf"
    monkeypatch.setattr(on_host, "KEEPALIVED_CONFIGURATION", configuration)
    assert on_host.interface("") == {"name": None, "configured": None}
    configuration.write_text("vrrp_instance VI_1 {\n    state BACKUP\n    interface ens3\n")
    shown = "2: enp3s0    inet 198.51.100.11/24 brd 198.51.100.255 scope global enp3s0\\       valid_lft forever"
    assert on_host.interface(shown) == {"name": "enp3s0", "configured": "ens3"}


def test_files_that_disappear_during_the_check_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_host, "PROVEN", tmp_path / "proven")
    monkeypatch.setattr(on_host, "DRAINED", tmp_path / "drained")
    assert drained_by() is None
    assert file(str(tmp_path / "gone")[1:]) is None
    assert file(str(tmp_path)[1:]) is None
    (tmp_path / "edited").write_text("by hand")
    found = file(str(tmp_path / "edited")[1:])
    assert found
    assert found["proven_digest"] is None
    assert found["staged_digest"] is None
    (tmp_path / "drained").write_text("ada, new kernel\n")
    assert drained_by() == "ada, new kernel"
