"""Which API servers HAProxy considers healthy: a real HAProxy with the rendered file, and real TLS servers.

Each case runs in a network namespace of its own, so that the file's addresses and ports are used as they are.
"""

import csv
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from dev.standin.certificate import KeyPair, self_signed
from model.load_balancers import LoadBalancerHost, LoadBalancerPair
from model.rendering import TEMPLATES, load_balancer_files
from model.timers import PROFILES, Profile
from model.topology import API_PORT, HEALTH_PORT, METRICS_PORT

API_SERVER = "198.51.100.21"
FOLDER = "/etc/haproxy/ha-api"


@dataclass(frozen=True, kw_only=True)
class Case:
    """An API server, and how HAProxy verifies it."""

    listens: bool = True
    status: int = 200
    seconds: float = 0
    """How long it takes to answer."""
    name: str = "kubernetes"
    """In its certificate."""
    verify: str = "nothing"
    """`nothing`, `its-ca` or `other-ca`."""
    wants_certificate: bool = False
    """It answers only clients that present one."""
    has_certificate: bool = False
    """Whether HAProxy presents one."""


CASES = {
    "ready": (Case(), True),
    "not ready": (Case(status=500), False),
    "too many requests": (Case(status=429), False),
    "slower than the check's timeout": (Case(seconds=7.5), False),
    "401 to an anonymous check": (Case(status=401), True),
    "403 to an anonymous check": (Case(status=403), True),
    "certificate of the cluster's CA": (Case(verify="its-ca"), True),
    "certificate of another CA": (Case(verify="other-ca"), False),
    "certificate for another name": (Case(verify="its-ca", name="elsewhere"), False),
    "no client certificate where one is required": (Case(wants_certificate=True), False),
    "client certificate": (Case(wants_certificate=True, has_certificate=True), True),
    "everything": (Case(verify="its-ca", wants_certificate=True, has_certificate=True), True),
    "down": (Case(listens=False), False),
}


@cache
def pairs() -> dict[str, KeyPair]:
    return {name: self_signed(name, [API_SERVER]) for name in ("kubernetes", "elsewhere", "haproxy")}


@pytest.mark.parametrize("name", CASES)
def test_a_server_is_ready_and_reachable_only_in_the_cases_that_say_so(tmp_path: Path, name: str):
    case, ready = CASES[name]
    files = {file.path: file.text for file in load_balancer_files(_host(case))}
    for path in ("etc/haproxy/haproxy.cfg", "etc/haproxy/ha-api/ca.pem", "etc/haproxy/ha-api/client.pem"):
        if path in files:
            (tmp_path / Path(path).name).write_text(files[path].replace(FOLDER, str(tmp_path)))
    for pair in pairs():
        (tmp_path / f"{pair}.pem").write_bytes(pairs()[pair].certificate + pairs()[pair].key)
    order = {"folder": str(tmp_path), **asdict(case)}
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, __file__, json.dumps(order)],
        env={**os.environ, "PYTHONPATH": str(TEMPLATES.parent)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    # Every server that accepts connections is reachable; that is the last resort when none is ready.
    assert json.loads(result.stdout) == [ready, case.listens]


def _host(case: Case) -> LoadBalancerHost:
    authority = {"nothing": "", "its-ca": case.name, "other-ca": "haproxy"}[case.verify]
    # For a busy machine; the TLS handshake of a check has no more than the interval.
    timers = replace(PROFILES[Profile.DEFAULT], api_connect_timeout=1000, api_check_timeout=3000)
    return LoadBalancerHost(
        name="k8s-lb-0",
        address=IPv4Address("198.51.100.11"),
        peer_address=IPv4Address("198.51.100.12"),
        interface="ens3",
        pair=LoadBalancerPair(
            vip=IPv4Address("198.51.100.200"),
            api_servers=(("k8s-cp-0", IPv4Address(API_SERVER)),),
            vrrp_router_id=51,
            timers=timers,
            api_ca_certificate=pairs()[authority].certificate.decode() if authority else "",
            api_client_certificate=(pairs()["haproxy"].certificate + pairs()["haproxy"].key).decode()
            if case.has_certificate
            else "",
        ),
    )


def inside(folder: Path, case: Case) -> tuple[bool, bool]:
    """In the namespace: whether HAProxy considers the server ready, and reachable, once checks have decided."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{API_SERVER}/32", "dev", "lo"], check=True)
    if case.listens:
        serve(folder, case)
    # In this namespace there is one user only, and the API server's port is taken on all addresses together.
    text = (folder / "haproxy.cfg").read_text().replace(f"bind *:{API_PORT}", f"bind 127.0.0.1:{API_PORT}")
    lines = (line for line in text.splitlines() if line.split()[:1] not in (["user"], ["group"]))
    config = folder / "here.cfg"
    config.write_text("\n".join(lines) + "\n")
    haproxy = subprocess.Popen(["haproxy", "-db", "-f", config])
    try:
        deadline = time.monotonic() + 30
        while not decided():
            assert haproxy.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert answers("/metrics", METRICS_PORT)
        assert answers("/stats", METRICS_PORT)
        return answers("/readyz"), answers("/reachable")
    finally:
        haproxy.kill()
        haproxy.wait()


def decided() -> bool:
    """Whether HAProxy has made up its mind about the server in both backends.

    A new server counts as up until two checks in a row have failed. Then it is DOWN; while a check is missing to a
    change, its status has a fraction, as in `UP 1/2`.
    """
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/stats;csv", timeout=5) as stats:
        rows = csv.DictReader(stats.read().decode().removeprefix("# ").splitlines())
        servers = [row for row in rows if row["svname"] == "k8s-cp-0"]
        return len(servers) == 2 and all(
            row["check_status"] != "INI"
            and row["status"] in ("UP", "DOWN")
            and (row["status"] == "UP") == (row["check_status"] in ("L4OK", "L6OK", "L7OK"))
            for row in servers
        )
    return False


def serve(folder: Path, case: Case) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/readyz"
            time.sleep(case.seconds)
            self.send_response(case.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / f"{case.name}.pem")
    if case.wants_certificate:
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(folder / "haproxy.pem")
    server = http.server.ThreadingHTTPServer((API_SERVER, API_PORT), Handler)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def answers(path: str, port: int = HEALTH_PORT) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        assert error.code == 503
        return False


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(inside(Path(asked.pop("folder")), Case(**asked))))  # noqa: T201 read by the test
    sys.stdout.flush()
    os._exit(0)
