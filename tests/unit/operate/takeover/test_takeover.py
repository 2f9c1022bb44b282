"""What a takeover looks at before it changes anything."""

import json
import signal
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from openstack.exceptions import SDKException
from typer.testing import CliRunner

from model.settings import Settings
from operate.__main__ import app
from operate.commands import takeover as command
from operate.hosts.lock import Lock
from operate.hosts.pair import PairError
from operate.stack import engine, resources
from operate.stack.applied import AppliedStack
from operate.stack.engine import StackError
from operate.stack.resources import PORT
from operate.takeover import takeover, undo
from operate.takeover.undo import Action
from tests.unit.example import example_values

VIP = "198.51.100.100"
OWN_VIP = "198.51.100.200"
MOVE, PROOF = "--exclude **::*-prove", ""


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
            port("own-0", "198.51.100.21", device="k8s-lb-0", group="group-of-lbs"),
            port("own-1", "198.51.100.22", device="k8s-lb-1", group="group-of-lbs"),
            port("mine", OWN_VIP, name="k8s-vip"),
            port("old-port-1", "198.51.100.31", device="old-1", pairs=[f"{VIP}/24", "10.0.0.0/8"]),
            port("old-port-2", "198.51.100.32", device="old-2", pairs=[VIP]),
        ]
        self.floating: list[str] | None = []  # None: the cloud has no routers
        self.rules: list[SimpleNamespace] = []
        self.updates: list[tuple[str, dict[str, Any]]] = []
        self.refuse: set[tuple[str, int]] = set()
        """Ports, and which of their updates is refused, counted from 0."""

    def find_server(self, name: str, *, ignore_missing: bool) -> SimpleNamespace | None:
        assert ignore_missing
        return self.servers.get(name)

    def ports(self, fixed_ips: str = "", device_id: str = "", network_id: str = "") -> list[SimpleNamespace]:
        return [
            it
            for it in self.stored
            if (not fixed_ips or fixed_ips in [f"ip_address={place['ip_address']}" for place in it.fixed_ips])
            and (not device_id or it.device_id == device_id)
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

    def update_port(self, port_id: str, **values: Any) -> None:
        turn = sum(it == port_id for it, _ in self.updates)
        self.updates.append((port_id, values))
        if (port_id, turn) in self.refuse:
            raise SDKException("in use")
        for key, value in values.items():
            setattr(self.get_port(port_id), key, value)

    def pairs(self, port_id: str) -> list[str]:
        return [it["ip_address"] for it in self.get_port(port_id).allowed_address_pairs]

    def addresses(self, port_id: str) -> list[str]:
        return [it["ip_address"] for it in self.get_port(port_id).fixed_ips]


def port(
    port_id: str,
    address: str,
    *,
    device: str = "",
    pairs: list[str] | None = None,
    name: str = "",
    group: str = "group",
) -> Any:
    return SimpleNamespace(
        id=port_id,
        name=name,
        network_id="network",
        project_id="project",
        device_id=f"id-{device}" if device else "",
        device_owner="compute:nova" if device else "",
        mac_address=f"FA:16:3E:00:00:{address.rpartition('.')[2]:0>2}",
        fixed_ips=[{"subnet_id": "subnet", "ip_address": address}],
        is_port_security_enabled=True,
        security_group_ids=[group],
        allowed_address_pairs=[{"ip_address": pair} for pair in pairs or []],
    )


def elsewhere(like: Any) -> Any:
    """A stranger's port with the same address and name."""
    return SimpleNamespace(
        **{**vars(like), "id": f"stranger-{like.id}", "network_id": "other network", "security_group_ids": ["other"]}
    )


def stack(vip: str = VIP, *, has: str = OWN_VIP, heard: str = "fa:16:3e:00:00:31") -> AppliedStack:
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


class Pulumi:
    """The engine: what it was asked, and which of its updates fails."""

    def __init__(self) -> None:
        self.ups: list[str] = []
        """Each update: its options, or the VIP in the configuration file that it was given."""
        self.refuse: set[str] = set()
        self.pending: list[dict[str, str]] = []
        self.previewed_with: list[str | None] = []

    def query(self, *arguments: str) -> str:
        if arguments[:2] == ("stack", "export"):
            ids = {"k8s-lb-0": "own-0", "k8s-lb-1": "own-1", "k8s-vip": "mine"}
            resources = [{"type": PORT, "urn": f"urn:pulumi:dev::p::t::{name}", "id": it} for name, it in ids.items()]
            return json.dumps({"deployment": {"resources": resources}})
        if arguments[:2] == ("stack", "history"):
            entry = {"kind": "update", "result": "succeeded", "config": {"openstack-ha-api:vip": {"value": OWN_VIP}}}
            return json.dumps([{"kind": "update", "result": "failed", "config": {}}, entry])
        raise AssertionError(arguments)

    def preview(self, stack: str, *arguments: str) -> str:
        assert stack == "dev"
        self.previewed_with.append(self._vip_in(arguments))
        return json.dumps({"steps": self.pending})

    def run_pulumi(self, *arguments: str, **_: str) -> None:
        assert arguments[:2] == ("up", "--yes"), "it must not ask: the last question was ours"
        up = self._vip_in(arguments) if "--config-file" in arguments else " ".join(arguments[5:])
        self.ups.append(str(up))
        if up in self.refuse:
            raise StackError("pulumi up ended with status 255")

    @staticmethod
    def _vip_in(arguments: tuple[str, ...]) -> str | None:
        file = Path(arguments[arguments.index("--config-file") + 1])
        return yaml.safe_load(file.read_text())["config"].get("openstack-ha-api:vip")


@pytest.fixture(autouse=True)
def pulumi(monkeypatch: pytest.MonkeyPatch) -> Pulumi:
    it = Pulumi()
    for module in (engine, resources):
        monkeypatch.setattr(module, "query", it.query)
    monkeypatch.setattr(engine, "run_pulumi", it.run_pulumi)
    monkeypatch.setattr(engine, "preview", it.preview)
    monkeypatch.setattr(undo, "UNDO_SECONDS", 0)
    return it


WHOLE = SimpleNamespace(services={"haproxy": SimpleNamespace(state="active")}, haproxy=SimpleNamespace(ready=True))


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Neutron:
    states: Mapping[str, object] = {"k8s-lb-0": WHOLE, "k8s-lb-1": WHOLE}
    monkeypatch.setattr(takeover, "collect", lambda _: states)  # pyright: ignore
    return Neutron()


def plan(cloud: Neutron, *names: str, of: AppliedStack | None = None) -> takeover.Plan:
    connection: Any = SimpleNamespace(compute=cloud, network=cloud)
    return takeover.plan(of or stack(), connection, names)


def test_the_old_pair_loses_the_vip_and_nothing_else(cloud: Neutron):
    agreed = plan(cloud, "old-1", "old-2")
    assert agreed.reserving_port is None
    assert agreed.notes == ()
    takeover.fence(cast("Any", SimpleNamespace(network=cloud)), agreed, [])
    assert cloud.updates == [
        ("old-port-1", {"allowed_address_pairs": [{"ip_address": "10.0.0.0/8"}]}),
        ("old-port-2", {"allowed_address_pairs": []}),
    ]


def narrow(cloud: Neutron) -> list[Action]:
    done: list[Action] = []
    agreed = plan(cloud, "old-1", "old-2")
    takeover.narrow(stack(), cast("Any", SimpleNamespace(network=cloud)), agreed, done)
    return done


def test_a_wide_address_pair_is_narrowed_first(cloud: Neutron, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(takeover, "SETTLED_SECONDS", 0)
    (done,) = narrow(cloud)
    assert cloud.updates == [
        ("old-port-1", {"allowed_address_pairs": [{"ip_address": "10.0.0.0/8"}, {"ip_address": VIP}]})
    ]
    assert done.command == (
        f"openstack port set --no-allowed-address --allowed-address ip-address={VIP}/24 "
        "--allowed-address ip-address=10.0.0.0/8 old-port-1"
    )
    done.undo()
    assert cloud.pairs("old-port-1") == [f"{VIP}/24", "10.0.0.0/8"]


def test_an_address_pair_that_was_added_after_the_check_is_kept(cloud: Neutron):
    agreed = plan(cloud, "old-1", "old-2")
    cloud.stored[3].allowed_address_pairs.append({"ip_address": "10.244.0.0/16"})
    takeover.fence(cast("Any", SimpleNamespace(network=cloud)), agreed, [])
    assert cloud.pairs("old-port-1") == ["10.0.0.0/8", "10.244.0.0/16"]


def test_a_stack_s_pair_that_depends_on_a_wide_address_pair_is_refused(cloud: Neutron, monkeypatch: pytest.MonkeyPatch):
    agreed = plan(cloud, "old-1", "old-2")
    cut_off = SimpleNamespace(services={}, haproxy=SimpleNamespace(ready=False))
    monkeypatch.setattr(takeover, "collect", lambda _: {"k8s-lb-0": cut_off})  # pyright: ignore
    with pytest.raises(PairError, match="the group group-of-lbs"):
        takeover.narrow(stack(), cast("Any", SimpleNamespace(network=cloud)), agreed, [])


def test_one_late_login_is_no_reason_to_refuse(cloud: Neutron, monkeypatch: pytest.MonkeyPatch):
    agreed = plan(cloud, "old-1", "old-2")
    looks = iter([{"k8s-lb-0": WHOLE}, {"k8s-lb-0": "TimeoutError"}])
    monkeypatch.setattr(takeover, "collect", lambda _: next(looks, {"k8s-lb-0": WHOLE}))  # pyright: ignore
    monkeypatch.setattr(takeover, "SETTLED_SECONDS", 2.5)
    takeover.narrow(stack(), cast("Any", SimpleNamespace(network=cloud)), agreed, [])
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
    cloud.stored[4].allowed_address_pairs = []
    with pytest.raises(PairError, match="old-2: none of its ports on this network may hold"):
        plan(cloud, "old-1", "old-2")


def test_a_port_without_port_security_is_refused(cloud: Neutron):
    cloud.stored[3].is_port_security_enabled = False
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
    cloud.get_port("mine").fixed_ips = [{"subnet_id": "subnet", "ip_address": VIP}]
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


def reserve(cloud: Neutron) -> list[Action]:
    cloud.stored.append(port("theirs", VIP))
    agreed = plan(cloud, "old-1", "old-2")
    assert agreed.reserving_port == "theirs"
    done: list[Action] = []
    takeover.reserve(stack(), cast("Any", SimpleNamespace(network=cloud)), agreed, done)
    return done


def test_the_reservation_moves_to_the_stack_s_own_port(cloud: Neutron):
    first, second = reserve(cloud)
    assert cloud.updates == [
        ("theirs", {"fixed_ips": []}),
        ("mine", {"fixed_ips": [{"subnet_id": "subnet", "ip_address": VIP}]}),
    ]
    assert first.command == f"openstack port set --no-fixed-ip --fixed-ip subnet=subnet,ip-address={VIP} theirs"
    second.undo()
    first.undo()
    assert (cloud.addresses("theirs"), cloud.addresses("mine")) == ([VIP], [OWN_VIP])


def test_only_the_vip_is_moved_between_ports_with_more_addresses(cloud: Neutron):
    place = {"subnet_id": "v6"}
    cloud.get_port("mine").fixed_ips.insert(0, {**place, "ip_address": "2001:db8::1"})
    cloud.stored.append(port("theirs", VIP))
    cloud.get_port("theirs").fixed_ips.insert(0, {**place, "ip_address": "2001:db8::2"})
    takeover.reserve(stack(), cast("Any", SimpleNamespace(network=cloud)), plan(cloud, "old-1", "old-2"), [])
    assert cloud.addresses("theirs") == ["2001:db8::2"]
    assert {*cloud.addresses("mine")} == {VIP, "2001:db8::1"}


def test_a_reserving_port_that_was_bound_after_the_check_keeps_its_address(cloud: Neutron):
    cloud.stored.append(port("theirs", VIP))
    agreed = plan(cloud, "old-1", "old-2")
    cloud.get_port("theirs").device_id = "id-new"
    with pytest.raises(PairError, match="theirs has changed"):
        takeover.reserve(stack(), cast("Any", SimpleNamespace(network=cloud)), agreed, [])
    assert cloud.updates == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_interrupt_the_move_of_the_reservation(
    cloud: Neutron, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
):
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
            reserve(cloud)
    finally:
        signal.signal(number, before)
    assert [it for it, _ in cloud.updates] == ["theirs", "mine"]


def test_narrowed_address_pairs_keep_their_mac_addresses(cloud: Neutron, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(takeover, "SETTLED_SECONDS", 0)
    mac = "00:00:5e:00:01:33"
    cloud.stored[3].allowed_address_pairs = [
        {"ip_address": f"{VIP}/24", "mac_address": "fa:16:3e:00:00:31"},
        {"ip_address": VIP, "mac_address": mac},
    ]
    agreed = plan(cloud, "old-1", "old-2")
    takeover.narrow(stack(), cast("Any", SimpleNamespace(network=cloud, compute=cloud)), agreed, [])
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
    cloud.stored.append(port("theirs", VIP))
    assert plan(cloud, "old-1", "old-2").reserving_port == "theirs"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device_id": "id-somebody"}, "address of a port in use"),
        ({"device_owner": "network:dhcp"}, "address of a port in use"),
        ({"project_id": "another"}, "belongs to another project"),
    ],
)
def test_a_vip_that_is_somebody_s_address_on_this_network_is_refused(
    cloud: Neutron, change: dict[str, str], reason: str
):
    cloud.stored.append(port("theirs", VIP))
    vars(cloud.get_port("theirs")).update(change)
    with pytest.raises(PairError, match=reason):
        plan(cloud, "old-1", "old-2")


def test_ports_on_other_networks_are_neither_found_nor_changed(cloud: Neutron, monkeypatch: pytest.MonkeyPatch):
    """Every address and name is in use there, too, and those ports come first in every list."""
    cloud.stored.append(port("theirs", VIP))
    strangers = [elsewhere(it) for it in cloud.stored] + [elsewhere(port("bound", VIP, device="somebody"))]
    cloud.stored[:0] = strangers
    monkeypatch.setattr(takeover, "SETTLED_SECONDS", 0)
    agreed = plan(cloud, "old-1", "old-2")
    assert (agreed.own_port, agreed.reserving_port) == ("mine", "theirs")
    connection: Any = SimpleNamespace(network=cloud)
    takeover.narrow(stack(), connection, agreed, [])
    takeover.reserve(stack(), connection, agreed, [])
    takeover.fence(connection, agreed, [])
    assert {port_id for port_id, _ in cloud.updates} == {"old-port-1", "old-port-2", "theirs", "mine"}


def test_a_port_of_another_stack_with_the_same_name_is_not_ours(cloud: Neutron):
    """In another project on a shared network."""
    cloud.stored.insert(0, port("stranger", VIP, name="k8s-vip"))
    cloud.stored[0].project_id = "another"
    with pytest.raises(PairError, match="stranger belongs to another project"):
        plan(cloud, "old-1", "old-2")


def test_other_pending_changes_of_the_stack_are_refused(cloud: Neutron, pulumi: Pulumi):
    pulumi.pending = [
        {"op": "same", "urn": "urn:pulumi:dev::p::t::k8s-vip"},
        {"op": "replace", "urn": "urn:pulumi:dev::p::t::k8s-lb-0"},
        {"op": "create", "urn": "urn:pulumi:dev::p::openstack-ha-api:compute:Servers$t::k8s-cp-0"},
    ]
    changes = r"k8s-lb-0 \(replace\), k8s-cp-0 \(create\)"
    with pytest.raises(PairError, match=rf"{changes}\. First run `pulumi up` with vip = {OWN_VIP}"):
        plan(cloud, "old-1", "old-2")
    assert pulumi.previewed_with == [OWN_VIP], "as in the last update that succeeded"


def test_another_user_s_login_and_a_refresh_are_no_changes(cloud: Neutron, pulumi: Pulumi):
    pulumi.pending = [
        {"op": "update", "urn": "urn:pulumi:dev::p::pulumi:providers:openstack::default"},
        {"op": "refresh", "urn": "urn:pulumi:dev::p::t::k8s-lb-0"},
    ]
    assert len(plan(cloud, "old-1", "old-2").old) == 2


@pytest.mark.parametrize("text", [None, "", "encryptionsalt: v1\n", "config:\n", "- a\n"])
def test_a_stack_file_without_the_configuration_is_reported(
    cloud: Neutron, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
):
    file = tmp_path / "Pulumi.dev.yaml"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(takeover, "stack_file", lambda _: file)  # pyright: ignore
    with pytest.raises(StackError, match=r"Pulumi\.dev\.yaml does not have the configuration of dev"):
        plan(cloud, "old-1", "old-2")


@pytest.fixture
def lock() -> Lock:
    return Lock()


@pytest.fixture
def whole(cloud: Neutron, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> Neutron:
    """Everything that `ha takeover` needs, with a port that reserves the VIP."""
    applied: Any = stack()
    applied.configuration = SimpleNamespace(cloud=lambda: SimpleNamespace(compute=cloud, network=cloud))
    cloud.stored.append(port("theirs", VIP))
    monkeypatch.setattr(takeover, "SETTLED_SECONDS", 0)
    monkeypatch.setattr(takeover, "wait_until_held", lambda *_: None)  # pyright: ignore
    monkeypatch.setattr(command, "read_stack", lambda _: applied)  # pyright: ignore
    monkeypatch.setattr(command, "hold_all", lambda *_: nullcontext(lock))  # pyright: ignore
    return cloud


def state(cloud: Neutron) -> dict[str, tuple[list[str], list[str]]]:
    return {it.id: (cloud.addresses(it.id), cloud.pairs(it.id)) for it in cloud.stored}


def run(answer: str = "y\n") -> Any:
    return CliRunner().invoke(app, ["takeover", "old-1", "old-2"], input=answer)


def test_a_takeover_asks_once_and_before_it_changes_anything(whole: Neutron, pulumi: Pulumi):
    before = state(whole)
    refused = run("n\n")
    assert refused.exit_code != 0
    assert (whole.updates, pulumi.ups) == ([], [])
    done = run()
    assert done.exit_code == 0
    assert pulumi.ups == [MOVE, PROOF]
    assert state(whole) == before | {
        "mine": ([VIP], []),
        "theirs": ([], []),
        "old-port-1": (["198.51.100.31"], ["10.0.0.0/8"]),
        "old-port-2": (["198.51.100.32"], []),
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("pair", "changed since you confirmed"),
        ("vip", "changed since you confirmed"),
        ("bound", "address of a port in use"),
    ],
)
def test_what_changes_while_the_question_is_open_is_refused(
    whole: Neutron, pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch, change: str, reason: str
):
    def answer(*_: object, **__: object) -> bool:
        match change:
            case "pair":
                whole.get_port("old-port-2").allowed_address_pairs = [{"ip_address": f"{VIP}/24"}]
            case "vip":
                now: Any = stack(has="198.51.100.201")
                monkeypatch.setattr(command, "read_stack", lambda _: now)  # pyright: ignore
            case _:
                whole.get_port("theirs").device_id = "id-new"
        return True

    monkeypatch.setattr(command.typer, "confirm", answer)
    refused = run()
    assert isinstance(refused.exception, PairError)
    assert reason in str(refused.exception)
    assert (whole.updates, pulumi.ups) == ([], [])


# What fails, which updates Pulumi makes, and what the reports of the undoing are about, in their order.
NARROWED, RESERVED = ["pairs of old-1"], ["addresses of port mine", "addresses of port theirs"]
FENCED = ["pairs of old-2", "pairs of old-1"]


@pytest.mark.parametrize(
    ("fails", "ups", "undone"),
    [
        (("old-port-1", 0), [], NARROWED),
        (("theirs", 0), [], [RESERVED[1], *NARROWED]),
        (("mine", 0), [], [*RESERVED, *NARROWED]),
        (MOVE, [MOVE, OWN_VIP], ["stack's VIP", *RESERVED, *NARROWED]),
        (("old-port-1", 1), [MOVE, OWN_VIP], [FENCED[1], "stack's VIP", *RESERVED, *NARROWED]),
        (("old-port-2", 0), [MOVE, OWN_VIP], [*FENCED, "stack's VIP", *RESERVED, *NARROWED]),
        (PROOF, [MOVE, PROOF, OWN_VIP], [*FENCED, "stack's VIP", *RESERVED, *NARROWED]),
    ],
    ids=["narrow", "release", "reserve", "pulumi up", "fence 1", "fence 2", "prove"],
)
def test_every_failure_undoes_everything_in_reverse_order(
    whole: Neutron, pulumi: Pulumi, fails: tuple[str, int] | str, ups: list[str], undone: list[str]
):
    before = state(whole)
    if isinstance(fails, str):
        pulumi.refuse = {fails}
    else:
        whole.refuse = {fails}
    ended = run()
    assert isinstance(ended.exception, SDKException | StackError)
    assert state(whole) == before
    assert pulumi.ups == ups
    reports = [line for line in ended.output.splitlines() if line.startswith("undone: ")]
    assert len(reports) == len(undone)
    assert all(what in line for what, line in zip(undone, reports, strict=True))
    assert "run these commands in this order" not in ended.output


def test_ctrl_c_undoes_everything(whole: Neutron, monkeypatch: pytest.MonkeyPatch):
    before = state(whole)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(takeover, "wait_until_held", interrupt)
    assert run().exit_code != 0
    assert state(whole) == before


def test_a_lost_lock_undoes_everything(whole: Neutron, lock: Lock, monkeypatch: pytest.MonkeyPatch, pulumi: Pulumi):
    before = state(whole)

    def lose(*_: object) -> None:
        lock.lost = "k8s-lb-0: its connection ended"

    monkeypatch.setattr(takeover, "wait_until_held", lose)
    assert run().exit_code != 0
    assert pulumi.ups == [MOVE, OWN_VIP]
    assert state(whole) == before


def test_what_cannot_be_undone_is_listed_with_its_command(whole: Neutron, pulumi: Pulumi):
    """The old pair could not take the VIP back, so the stack's keeps it, together with its reservation."""
    whole.refuse = {("old-port-2", 0), ("old-port-1", 2)}
    ended = run()
    assert pulumi.ups == [MOVE]
    left = ended.output.partition("run these commands in this order:\n")[2].splitlines()
    narrowed = f"--allowed-address ip-address=10.0.0.0/8 --allowed-address ip-address={VIP}"
    wide = f"--allowed-address ip-address={VIP}/24 --allowed-address ip-address=10.0.0.0/8"
    assert [it.strip() for it in left[:5]] == [
        f"openstack port set --no-allowed-address {narrowed} old-port-1",
        f"pulumi config set vip {OWN_VIP} --stack dev && pulumi up --stack dev",
        f"openstack port set --no-fixed-ip --fixed-ip subnet=subnet,ip-address={OWN_VIP} mine",
        f"openstack port set --no-fixed-ip --fixed-ip subnet=subnet,ip-address={VIP} theirs",
        f"openstack port set --no-allowed-address {wide} old-port-1",
    ]
    assert "not undone: the address pairs of old-1: in use" in ended.output
    assert f"old-1 may not hold {VIP}, so the stack's pair keeps it" in ended.output
    assert (whole.addresses("theirs"), whole.addresses("mine")) == ([], [VIP])


def test_the_reservation_stays_with_a_vip_that_pulumi_could_not_return(whole: Neutron, pulumi: Pulumi):
    """A second Ctrl-C reached the Pulumi of the undoing, or the first one was killed and left its lock."""
    pulumi.refuse = {MOVE, OWN_VIP}
    ended = run()
    assert pulumi.ups == [MOVE, OWN_VIP]
    assert "not undone: the stack's VIP" in ended.output
    assert (whole.addresses("theirs"), whole.addresses("mine")) == ([], [VIP])


def test_a_run_that_continues_a_killed_one_does_not_return_the_vip(
    whole: Neutron, pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch
):
    """The VIP that the stack had before is unknown to it, and both pairs serve."""
    applied: Any = stack(has=VIP, heard="ours")
    applied.configuration = SimpleNamespace(cloud=lambda: SimpleNamespace(compute=whole, network=whole))
    whole.stored.remove(whole.get_port("theirs"))
    whole.get_port("mine").fixed_ips = [{"subnet_id": "subnet", "ip_address": VIP}]
    monkeypatch.setattr(command, "read_stack", lambda _: applied)  # pyright: ignore
    pulumi.refuse = {PROOF}
    before = state(whole)
    run()
    assert pulumi.ups == [MOVE, PROOF]
    assert state(whole) == before
