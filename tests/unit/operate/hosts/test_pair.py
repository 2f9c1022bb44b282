"""The load balancers in the cloud, and how they answer whatever proxy the environment names."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from openstack.compute.v2.server import Server
from openstack.exceptions import NotFoundException

from operate.hosts import on_host
from operate.hosts.pair import Pair, PairError
from operate.stack.resources import PORT, SERVER_GROUP
from program import holder

ADDRESS = "198.51.100.11"
NAME = "dev-lb-0"
IDS = {(PORT, NAME): "our-port", (SERVER_GROUP, "dev-lb"): "our-group"}


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


def server(server_id: str, *, name: str = NAME, built: bool = True, **state: Any) -> SimpleNamespace:
    addresses = {"net": [{"addr": ADDRESS}]} if built else {}
    return SimpleNamespace(id=server_id, name=name, addresses=addresses, **state)


class Cloud:
    """Two stacks of one project, with the same cluster name and, on another network, the same addresses."""

    def __init__(self, *servers: SimpleNamespace, attached: str = "", members: Sequence[str] = ()) -> None:
        self.compute = self.network = self
        self._servers = {it.id: it for it in servers}
        self._attached, self._members = attached, members
        self.changed: list[str] = []

    def get_port(self, port_id: str) -> SimpleNamespace:
        return found({"our-port": SimpleNamespace(device_id=self._attached)}, port_id)

    def get_server_group(self, group_id: str) -> SimpleNamespace:
        return found({"our-group": SimpleNamespace(member_ids=self._members)}, group_id)

    def get_server(self, server_id: str) -> SimpleNamespace:
        return found(self._servers, server_id)

    def update_port(self, port_id: str, *, is_admin_state_up: bool) -> None:
        self.changed.append(f"{port_id}: {is_admin_state_up}")


def found(resources: Mapping[str, SimpleNamespace], resource_id: str) -> SimpleNamespace:
    if resource_id not in resources:
        raise NotFoundException(resource_id)
    return resources[resource_id]


def pair_on(cloud: Any, ids: Mapping[tuple[str, str], str] = IDS) -> Pair:
    outputs: Any = SimpleNamespace(load_balancers={NAME: ADDRESS})
    return Pair(outputs, ids, cloud)


@pytest.mark.parametrize(
    ("attached", "members", "expected"),
    [
        ("ours", ["ours"], ["ours"]),
        ("ours", ["ours", "failed"], ["ours", "failed"]),
        # Nova puts it into the group before it plugs it in.
        ("", ["failed"], ["failed"]),
        ("failed", ["failed"], ["failed"]),
        ("", [], []),
        # The other load balancer is a member too, and one that was deleted a moment ago.
        ("ours", ["peer", "ours", "gone"], ["ours"]),
        ("gone", ["gone"], []),
    ],
)
def test_an_instance_is_found_by_its_port_or_if_it_was_never_built_by_its_group(
    attached: str, members: list[str], expected: list[str]
):
    cloud = Cloud(
        server("ours"),
        server("failed", built=False),
        server("peer", name="dev-lb-1", built=False),
        server("another stack's"),
        server("another stack's, not built", built=False),
        attached=attached,
        members=members,
    )
    assert [it.id for it in pair_on(cloud).instances(NAME)] == expected


def test_without_a_port_or_a_group_no_instance_is_the_load_balancer_s():
    cloud = Cloud(server("another stack's"), server("failed", built=False), attached="another stack's")
    for ids in ({}, dict.fromkeys(IDS, "deleted in the cloud")):
        assert pair_on(cloud, ids).instances(NAME) == []


def test_only_the_stack_s_own_port_is_set_down():
    cloud = Cloud()
    pair_on(cloud).set_port(NAME, up=False)
    assert cloud.changed == ["our-port: False"]


def test_a_missing_instance_is_reported_with_rebuild():
    with pytest.raises(PairError, match=r"`\./ha rebuild dev-lb-0`"):
        pair_on(Cloud()).instance(NAME)


class Nova(Cloud):
    """One instance, whose state differs from the second query on."""

    def __init__(self, *looks: SimpleNamespace) -> None:
        super().__init__(attached="ours")
        self.looks = list(looks)
        self.asked: list[tuple[str, str]] = []

    def get_server(self, server_id: str) -> SimpleNamespace:  # noqa: ARG002
        if not self.looks:
            raise NotFoundException("a hypervisor never had it, so it is gone at once")
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def start_server(self, server: SimpleNamespace) -> None:
        self.asked.append(("start", server.status))

    def wait_for_server(self, server: SimpleNamespace, *, status: str, **_: object) -> None:
        # As openstacksdk: what it is given has to become so, and may be so already.
        self.asked.append((f"wait for {status}", server.status))

    def delete_server(self, server: str) -> None:
        self.asked.append(("delete", server))

    def wait_for_delete(self, server: Server, **_: object) -> None:
        self.asked.append(("wait for its end", server.id))


def test_an_instance_that_is_stopping_is_started_once_it_has_stopped():
    stopping = server("ours", status="ACTIVE", task_state="powering-off")
    nova = Nova(stopping, server("ours", status="SHUTOFF", task_state=None))
    assert pair_on(nova).start("dev-lb-0")
    assert nova.asked == [("start", "SHUTOFF"), ("wait for ACTIVE", "SHUTOFF")]


def test_an_instance_that_disappears_at_once_counts_as_deleted():
    nova = Nova()
    pair_on(nova).delete_instance("orphan")
    assert nova.asked == [("delete", "orphan"), ("wait for its end", "orphan")]
