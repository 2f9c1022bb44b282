"""How patient checks of a frontend's servers are: a real HAProxy with the rendered backend, and TLS servers."""

import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from dev.standin.certificate import self_signed
from model.load_balancers import Frontend, LoadBalancerHost, LoadBalancerPair
from model.rendering import load_balancer_files
from model.settings import FrontendSettings
from model.timers import PROFILES, Profile

WORKER = IPv4Address("127.0.0.1")
LINES = """
global
    stats socket {folder}/haproxy.sock
"""


@pytest.mark.parametrize(("seconds", "state"), [(0.0, "UP"), (1.0, "UP"), (2.5, "DOWN")])
def test_a_server_may_take_as_long_as_the_interval_for_its_tls_handshake(tmp_path: Path, seconds: float, state: str):
    with socket.create_server((str(WORKER), 0)) as listening:
        threading.Thread(target=serve, args=(listening, tmp_path, seconds), daemon=True).start()
        config = tmp_path / "haproxy.cfg"
        config.write_text(LINES.format(folder=tmp_path) + rendered(listening.getsockname()[1]))
        with subprocess.Popen(["haproxy", "-db", "-f", config]) as haproxy:
            try:
                assert checked(haproxy, tmp_path / "haproxy.sock") == state
            finally:
                haproxy.kill()


def rendered(port: int) -> str:
    """The defaults, and the backend of a frontend, as they are on a load balancer."""
    settings = {"name": "ingress", "port": 443, "targetPort": port, "check": "https", "checkPath": "/"}
    host = LoadBalancerHost(
        name="k8s-lb-0",
        address=IPv4Address("198.51.100.11"),
        peer_address=IPv4Address("198.51.100.12"),
        interface="ens3",
        pair=LoadBalancerPair(
            vip=IPv4Address("198.51.100.200"),
            api_servers=(("k8s-cp-0", IPv4Address("198.51.100.21")),),
            vrrp_router_id=51,
            timers=PROFILES[Profile.DEFAULT],
            frontends=(
                Frontend(settings=FrontendSettings.model_validate(settings), servers=(("k8s-worker-0", WORKER),)),
            ),
        ),
    )
    (text,) = (it.text for it in load_balancer_files(host) if it.path == "etc/haproxy/haproxy.cfg")
    defaults = text[text.index("\ndefaults\n") : text.index("\nfrontend apiserver\n")]
    return defaults + text[text.index("\nbackend ingress\n") :]


def serve(listening: socket.socket, folder: Path, seconds: float) -> None:
    """Answer each request, after a TLS handshake that begins late."""
    pair = self_signed("worker", [str(WORKER)])
    (folder / "worker.pem").write_bytes(pair.certificate + pair.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "worker.pem")

    def answer(connection: socket.socket) -> None:
        time.sleep(seconds)
        with suppress(OSError), tls.wrap_socket(connection, server_side=True) as secured:
            secured.recv(4096)
            secured.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

    # The test ends it by closing the socket.
    with suppress(OSError):
        while True:
            threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()


def checked(haproxy: subprocess.Popen[bytes], path: Path) -> str:
    """The server's state once its first check has ended: until then it counts as up, and one failure takes it down."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert haproxy.poll() is None
        with suppress(OSError), socket.socket(socket.AF_UNIX) as control:
            control.connect(str(path))
            control.sendall(b"show stat\n")
            names, *rows = control.makefile().read().strip().splitlines()
            fields = dict(
                zip(names.split(","), next(it for it in rows if "k8s-worker-0" in it).split(","), strict=True)
            )
            if not fields["check_status"].endswith(("INI", "*")) and " " not in fields["status"]:
                return fields["status"]
        time.sleep(0.1)
    raise AssertionError("no check ended within 20 s")
