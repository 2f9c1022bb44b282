"""What a takeover looks at before it changes anything."""

import signal
from collections.abc import Mapping
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any, cast

import pytest
from openstack.exceptions import SDKException

from model.settings import Settings
from operate.hosts.pair import PairError
from operate.stack.applied import AppliedStack
from operate.takeover import takeover
from tests.unit.example import example_values

VIP = "198.51.100.100"


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "time", Clock())


class Neutron:
    """Neutron's ports, and the requests about them."""

    def __init__(self) -> None:
        self.servers = {name: SimpleNamespace(name=name, id=f"id-{name}") for name in ("old-1", "old-2", "k8s-lb-0")}
        self.stored = [
            port("own-0", "198.51.100.21", device="k8s-lb-0"),
            port("own-1", "198.51.100.22", device="k8s-lb-1"),
            port("old-port-1", "198.51.100.31", device="old-1", pairs=[f"{VIP}/24", "10.0.0.0/8"]),
            port("old-port-2", "198.51.100.32", device="old-2", pairs=[VIP]),
        ]
        self.floating: list[str] | None = []  # None: the cloud has no routers
        self.rules: list[SimpleNamespace] = []
        self.updates: list[tuple[str, dict[str, Any]]] = []
        self.refuse: str | None = None
        self.error: BaseException = SDKException("in use")

    def find_server(self, name: str, *, ignore_missing: bool) -> SimpleNamespace | None:
        assert ignore_missing
        return self.servers.get(name)

    def ports(
        self, fixed_ips: str = "", device_id: str = "", name: str = "", network_id: str = ""
    ) -> list[SimpleNamespace]:
        return [
            it
            for it in self.stored
            if (not fixed_ips or f"ip_address={it.fixed_ips[0]['ip_address']}" == fixed_ips)
            and (not device_id or it.device_id == device_id)
            and (not name or it.name == name)
            and (not network_id or it.network_id == network_id)
        ]

    def get_port(self, port_id: str) -> SimpleNamespace:
        (found,) = (it for it in self.stored if it.id == port_id)
        return found

    def find_extension(self, name: str) -> bool:
        return name == "router" and self.floating is not None

    def ips(self, port_id: str) -> list[str]:
        assert self.floating is not None
        return [it for it in self.floating if it == port_id]

    def security_group_rules(self, **_: str) -> list[SimpleNamespace]:
        return self.rules

    def update_port(self, given: Any, **values: Any) -> None:
        port_id = given if isinstance(given, str) else given.id
        self.updates.append((port_id, values))
        if port_id == self.refuse:
            raise self.error


def port(port_id: str, address: str, *, device: str = "", pairs: list[str] | None = None, name: str = "") -> Any:
    return SimpleNamespace(
        id=port_id,
        name=name,
        network_id="network",
        device_id=f"id-{device}" if device else "",
        mac_address=f"FA:16:3E:00:00:{address.rpartition('.')[2]:0>2}",
        fixed_ips=[{"subnet_id": "subnet", "ip_address": address}],
        is_port_security_enabled=True,
        security_group_ids=["group"],
        allowed_address_pairs=[{"ip_address": pair} for pair in pairs or []],
    )


def stack(vip: str = VIP, *, has: str = "198.51.100.200", heard: str = "fa:16:3e:00:00:31") -> AppliedStack:
    async def run(_address: str, _command: str) -> str:
        if ":" not in heard:
            return heard
        return f"Unicast reply from {vip} [{heard.upper()}]  0.6ms"

    outputs = SimpleNamespace(
        vip=has,
        load_balancers={"k8s-lb-0": "198.51.100.21", "k8s-lb-1": "198.51.100.22"},
        security_group_ids={"loadBalancers": "group-of-lbs"},
    )
    settings = Settings.parse(example_values(vip=vip))
    access = SimpleNamespace(run=run)
    return cast("AppliedStack", SimpleNamespace(name="dev", outputs=outputs, settings=settings, access=access))


WHOLE = SimpleNamespace(services={"haproxy": SimpleNamespace(state="active")}, haproxy=SimpleNamespace(ready=True))


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Neutron:
    states: Mapping[str, object] = {"k8s-lb-0": WHOLE, "k8s-lb-1": WHOLE}
    monkeypatch.setattr(takeover, "collect", lambda _: states)  # pyright: ignore
    return Neutron()


def plan(cloud: Neutron, *names: str, of: AppliedStack | None = None) -> takeover.Plan:
    connection: Any = SimpleNamespace(compute=cloud, network=cloud)
    return takeover.plan(of or stack(), connection, names)


@pytest.mark.parametrize(
    ("pair", "may"),
    [(VIP, True), (f"{VIP}/24", True), ("198.51.100.0/24", True), ("198.51.100.101", False), ("2001:db8::/64", False)],
)
def test_an_address_pair_covers_the_addresses_of_its_network(pair: str, may: bool):
    assert takeover.covers({"ip_address": pair}, IPv4Address(VIP)) is may


def test_the_old_pair_loses_the_vip_and_nothing_else(cloud: Neutron):
    agreed = plan(cloud, "old-1", "old-2")
    assert agreed.reserving_port is None
    assert agreed.notes == ()
    takeover.fence(cast("Any", SimpleNamespace(network=cloud)), agreed)
    assert cloud.updates == [
        ("old-port-1", {"allowed_address_pairs": [{"ip_address": "10.0.0.0/8"}]}),
        ("old-port-2", {"allowed_address_pairs": []}),
    ]


def test_a_wide_address_pair_is_narrowed_first(cloud: Neutron, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(takeover, "SETTLED_SECONDS", 0)
    takeover.narrow(stack(), cast("Any", SimpleNamespace(network=cloud)), plan(cloud, "old-1", "old-2"))
    assert cloud.updates == [
        ("old-port-1", {"allowed_address_pairs": [{"ip_address": "10.0.0.0/8"}, {"ip_address": VIP}]})
    ]


def test_address_pairs_are_restored_if_the_stack_s_pair_depended_on_them(
    cloud: Neutron, monkeypatch: pytest.MonkeyPatch
):
    agreed = plan(cloud, "old-1", "old-2")
    cut_off = SimpleNamespace(services={}, haproxy=SimpleNamespace(ready=False))
    monkeypatch.setattr(takeover, "collect", lambda _: {"k8s-lb-0": cut_off})  # pyright: ignore
    with pytest.raises(PairError, match="the group group-of-lbs"):
        takeover.narrow(stack(), cast("Any", SimpleNamespace(network=cloud)), agreed)
    given_back = [{"ip_address": "10.0.0.0/8"}, {"ip_address": f"{VIP}/24"}]
    assert cloud.updates[-1] == ("old-port-1", {"allowed_address_pairs": given_back})


def test_address_pairs_are_restored_after_an_interruption(cloud: Neutron, monkeypatch: pytest.MonkeyPatch):
    agreed = plan(cloud, "old-1", "old-2")

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(takeover, "collect", interrupt)  # pyright: ignore
    with pytest.raises(KeyboardInterrupt):
        takeover.narrow(stack(), cast("Any", SimpleNamespace(network=cloud)), agreed)
    given_back = [{"ip_address": "10.0.0.0/8"}, {"ip_address": f"{VIP}/24"}]
    assert cloud.updates[-1] == ("old-port-1", {"allowed_address_pairs": given_back})


def test_one_late_login_does_not_restore_address_pairs(cloud: Neutron, monkeypatch: pytest.MonkeyPatch):
    agreed = plan(cloud, "old-1", "old-2")
    looks = iter([{"k8s-lb-0": WHOLE}, {"k8s-lb-0": "TimeoutError"}])
    monkeypatch.setattr(takeover, "collect", lambda _: next(looks, {"k8s-lb-0": WHOLE}))  # pyright: ignore
    monkeypatch.setattr(takeover, "SETTLED_SECONDS", 2.5)
    takeover.narrow(stack(), cast("Any", SimpleNamespace(network=cloud)), agreed)
    assert len(cloud.updates) == 1


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["old-1", "old-3"], "old-3: the cloud has no such instance"),
        (["old-1"], "old-port-2, may hold 198.51.100.100 too"),
        (["k8s-lb-0"], "one of the stack's own"),
    ],
)
def test_wrong_instance_names_are_refused(cloud: Neutron, names: list[str], reason: str):
    with pytest.raises(PairError, match=reason):
        plan(cloud, *names)


def test_an_instance_that_may_not_hold_the_vip_is_refused(cloud: Neutron):
    cloud.stored[3].allowed_address_pairs = []
    with pytest.raises(PairError, match="old-2: none of its ports on this network may hold"):
        plan(cloud, "old-1", "old-2")


def test_a_port_without_port_security_is_refused(cloud: Neutron):
    cloud.stored[2].is_port_security_enabled = False
    with pytest.raises(PairError, match="old-1: port security is off"):
        plan(cloud, "old-1", "old-2")


@pytest.mark.parametrize(
    ("heard", "reason"),
    [("Received 0 response(s)", "no host answers for it"), ("fa:16:3e:00:00:99", "fa:16:3e:00:00:99 answers for it")],
)
def test_a_named_instance_must_answer_for_the_vip(cloud: Neutron, heard: str, reason: str):
    with pytest.raises(PairError, match=reason):
        plan(cloud, "old-1", "old-2", of=stack(heard=heard))


def test_a_run_cut_off_while_both_pairs_held_the_vip_continues(cloud: Neutron):
    assert len(plan(cloud, "old-1", "old-2", of=stack(heard="ours")).old) == 2


def test_a_run_cut_off_after_the_old_pair_was_fenced_continues(cloud: Neutron):
    for it in cloud.stored:
        it.allowed_address_pairs = []
    assert plan(cloud, "old-1", "old-2", of=stack(has=VIP, heard="")).old == ()


def test_other_ports_with_a_wide_address_pair_are_noted_and_not_changed(cloud: Neutron):
    cloud.stored.append(port("node", "198.51.100.41", device="node", pairs=["0.0.0.0/0"]))
    (note,) = plan(cloud, "old-1", "old-2").notes
    assert "port node, may hold" in note


def test_clients_that_would_be_shut_out_are_noted(cloud: Neutron):
    rule = {"ether_type": "IPv4", "protocol": "tcp", "remote_group_id": None}
    cloud.rules = [
        SimpleNamespace(**rule, port_range_min=6443, port_range_max=6443, remote_ip_prefix="198.51.100.0/25"),
        SimpleNamespace(**rule, port_range_min=6443, port_range_max=6443, remote_ip_prefix="10.0.0.0/8"),
        SimpleNamespace(**rule, port_range_min=22, port_range_max=22, remote_ip_prefix="172.16.0.0/12"),
    ]
    assert plan(cloud, "old-1", "old-2").notes == (
        "10.0.0.0/8 may use the endpoint now, and is not in apiAllowedCidrs",
    )


def reserved(cloud: Neutron) -> tuple[takeover.Plan, Any]:
    cloud.stored.append(port("mine", "198.51.100.200", name="k8s-vip"))
    cloud.stored.append(port("theirs", VIP))
    agreed = plan(cloud, "old-1", "old-2")
    assert agreed.reserving_port == "theirs"
    return agreed, SimpleNamespace(network=cloud)


def test_the_reservation_moves_to_the_stack_s_own_port(cloud: Neutron):
    agreed, connection = reserved(cloud)
    takeover.reserve(stack(), connection, agreed)
    assert cloud.updates == [
        ("theirs", {"fixed_ips": []}),
        ("mine", {"fixed_ips": [{"subnet_id": "subnet", "ip_address": VIP}]}),
    ]


def test_a_reservation_that_neutron_refuses_is_restored(cloud: Neutron):
    agreed, connection = reserved(cloud)
    cloud.refuse = "mine"
    with pytest.raises(SDKException):
        takeover.reserve(stack(), connection, agreed)
    assert cloud.updates[-1] == ("theirs", {"fixed_ips": [{"subnet_id": "subnet", "ip_address": VIP}]})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_interrupt_the_move_of_the_reservation(
    cloud: Neutron, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
):
    agreed, connection = reserved(cloud)
    update = cloud.update_port

    def interrupted(it: Any, **values: Any) -> None:
        signal.raise_signal(number)
        update(it, **values)

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cloud, "update_port", interrupted)
    before = signal.signal(number, end)
    try:
        with pytest.raises(KeyboardInterrupt):
            takeover.reserve(stack(), connection, agreed)
    finally:
        signal.signal(number, before)
    assert [it for it, _ in cloud.updates] == ["theirs", "mine"]


def test_narrowed_address_pairs_keep_their_mac_addresses(cloud: Neutron, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(takeover, "SETTLED_SECONDS", 0)
    mac = "00:00:5e:00:01:33"
    cloud.stored[2].allowed_address_pairs = [
        {"ip_address": f"{VIP}/24", "mac_address": "fa:16:3e:00:00:31"},
        {"ip_address": VIP, "mac_address": mac},
    ]
    agreed = plan(cloud, "old-1", "old-2")
    takeover.narrow(stack(), cast("Any", SimpleNamespace(network=cloud, compute=cloud)), agreed)
    ((port_id, values),) = cloud.updates
    assert port_id == "old-port-1"
    assert values["allowed_address_pairs"] == [
        {"ip_address": VIP, "mac_address": "fa:16:3e:00:00:31"},
        {"ip_address": VIP, "mac_address": mac},
    ]


def test_a_reserving_port_with_a_floating_ip_is_refused(cloud: Neutron):
    cloud.stored.append(port("theirs", VIP))
    cloud.floating = ["theirs"]
    with pytest.raises(PairError, match="has a floating IP"):
        plan(cloud, "old-1", "old-2")


def test_a_cloud_without_routers_is_not_queried_for_floating_ips(cloud: Neutron):
    cloud.floating = None
    assert reserved(cloud)[0].reserving_port == "theirs"


def test_a_vip_that_is_an_instance_s_own_address_is_refused(cloud: Neutron):
    cloud.stored.append(port("theirs", VIP, device="somebody"))
    with pytest.raises(PairError, match="address of a port in use"):
        plan(cloud, "old-1", "old-2")
