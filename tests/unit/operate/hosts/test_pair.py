"""The load balancers in the cloud, and how they answer whatever proxy the environment names."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from openstack.compute.v2.server import Server
from openstack.exceptions import NotFoundException

from operate.hosts import on_host
from operate.hosts.pair import Pair, PairError
from program import holder

ADDRESS = "198.51.100.11"


class Health(BaseHTTPRequestHandler):
    """A load balancer's health port."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"dev-lb-0\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        """Log nothing."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A health port on loopback, while the environment names an unreachable proxy."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = HTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_load_balancers_are_queried_without_a_proxy(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(holder, "HEALTH_PORT", port)
    assert holder.answering_load_balancer("127.0.0.1") == "dev-lb-0"
    look: Any = on_host
    assert look._answer(port, "/healthz")[0] == 200


def pair_of(*servers: SimpleNamespace) -> Pair:
    def named(**_: object) -> list[SimpleNamespace]:
        return list(servers)

    return pair_in(SimpleNamespace(servers=named))


def test_an_instance_is_found_by_its_address_or_if_it_was_never_built_by_having_none():
    ours = SimpleNamespace(id="ours", addresses={"net": [{"addr": ADDRESS}]})
    theirs = SimpleNamespace(id="theirs", addresses={"net": [{"addr": "198.51.100.99"}]})
    failed = SimpleNamespace(id="failed", addresses={})
    assert [it.id for it in pair_of(failed, theirs, ours).instances("dev-lb-0")] == ["ours", "failed"]


def test_a_missing_instance_is_reported_with_rebuild():
    with pytest.raises(PairError, match=r"`\./ha rebuild dev-lb-0`"):
        pair_of().instance("dev-lb-0")


class Nova:
    """One instance, whose state differs from the second query on."""

    def __init__(self, *looks: SimpleNamespace) -> None:
        self.looks = list(looks)
        self.asked: list[tuple[str, str]] = []

    def servers(self, **_: object) -> list[SimpleNamespace]:
        return [self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]]

    def start_server(self, server: SimpleNamespace) -> None:
        self.asked.append(("start", server.status))

    def wait_for_server(self, server: SimpleNamespace, *, status: str, **_: object) -> None:
        # As openstacksdk: what it is given has to become so, and may be so already.
        self.asked.append((f"wait for {status}", server.status))

    def delete_server(self, server: str) -> None:
        self.asked.append(("delete", server))

    def get_server(self, _: str) -> None:
        raise NotFoundException("a hypervisor never had it, so it is gone at once")

    def wait_for_delete(self, server: Server, **_: object) -> None:
        self.asked.append(("wait for its end", server.id))


def pair_in(nova: Nova | SimpleNamespace) -> Pair:
    outputs: Any = SimpleNamespace(load_balancers={"dev-lb-0": ADDRESS})
    cloud: Any = SimpleNamespace(compute=nova, network=None)
    return Pair(outputs, cloud)


def test_an_instance_that_is_stopping_is_started_once_it_has_stopped():
    stopping = SimpleNamespace(addresses={}, status="ACTIVE", task_state="powering-off")
    nova = Nova(stopping, SimpleNamespace(addresses={}, status="SHUTOFF", task_state=None))
    assert pair_in(nova).start("dev-lb-0")
    assert nova.asked == [("start", "SHUTOFF"), ("wait for ACTIVE", "SHUTOFF")]


def test_an_instance_that_disappears_at_once_counts_as_deleted():
    nova = Nova()
    pair_in(nova).delete_instance("orphan")
    assert nova.asked == [("delete", "orphan"), ("wait for its end", "orphan")]
