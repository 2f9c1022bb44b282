"""Takes over a VIP from load balancers that were built manually ("the old pair").

The stack's own pair is already up beside the old pair, on an address of its own, and was proven there. The takeover is
a change of its VIP, with one difference: the old pair goes on answering for the VIP, because its VRRP and the stack's
do not understand each other. So its ports lose their address pairs for the VIP in the cloud. That takes effect at once,
needs no login to the old hosts, survives their reboot, and is undone by restoring the address pairs.
"""

import asyncio
import json
import re
import shlex
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncssh
import yaml
from openstack.connection import Connection

from model.settings import Settings
from model.topology import API_PORT, vip_port_name
from model.vip import AddressPair, covers
from operate.hosts.pair import PairError, wait_for
from operate.hosts.ssh import failure_of
from operate.hosts.state import HostState, collect
from operate.maintenance.checks import pending_changes
from operate.signals import uninterrupted
from operate.stack import engine
from operate.stack.applied import NAMESPACE, AppliedStack, read_stack
from operate.stack.engine import StackError
from operate.stack.files import stack_file
from operate.stack.preview import parse_preview
from operate.stack.resources import PORT, recorded_ids
from operate.takeover.undo import Action

HELD_SECONDS = 30.0
"""Once the files are in place, the election takes a few seconds at most."""

SETTLED_SECONDS = 30.0
"""Neutron's agents apply a change within seconds, or later if busy; then two failed health checks take a server out."""


@dataclass(frozen=True, kw_only=True)
class OldPort:
    """The port of a load balancer of the old pair on the VIP's network."""

    name: str
    port_id: str
    addresses: tuple[str, ...]
    mac_addresses: frozenset[str]
    """MAC addresses that may answer for the VIP, in lower case."""
    pairs: tuple[AddressPair, ...]
    """Allowed address pairs that let it hold the VIP."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a takeover will do, after all checks."""

    vip: IPv4Address
    old: tuple[OldPort, ...]
    own_port: str
    """Id of the stack's port that reserves its VIP."""
    reserving_port: str | None
    """Id of the port of nobody's instance that reserves the VIP so far; None if there is none."""
    notes: tuple[str, ...]
    """No obstacle, but worth knowing."""


def allowed_addresses(pairs: Sequence[AddressPair]) -> str:
    """As options of `openstack port set`, with a virtual router's MAC address if a pair has one."""
    values = (
        f"ip-address={pair['ip_address']}" + (f",mac-address={pair['mac_address']}" if pair.get("mac_address") else "")
        for pair in pairs
    )
    return " ".join(f"--allowed-address {shlex.quote(value)}" for value in values)


def plan(stack: AppliedStack, cloud: Connection, names: Sequence[str]) -> Plan:
    """Check the old pair (instances by name or id), the VIP, and the stack's own pair. Changes nothing.

    PairError with every reason why the VIP cannot be taken over.
    """
    vip = stack.settings.vip
    if vip is None:
        raise StackError("vip is not set: set it to the address to take over (`pulumi config set vip ADDRESS`)")
    untyped: Any = cloud
    # By the ids in the state: names and addresses may be in use on other networks, and in other projects.
    ids = recorded_ids(stack.name)
    own = [_own_port(untyped, ids, name) for name in stack.outputs.load_balancers]
    mine = _own_port(untyped, ids, vip_port_name(stack.settings))
    network_id = mine.network_id
    # A run that was killed may have changed the VIP already; then address pairs may be gone already too.
    taken = stack.outputs.vip == str(vip)
    problems: list[str] = []
    old: list[OldPort] = []
    for name in names:
        server = untyped.compute.find_server(name, ignore_missing=True)
        if server is None:
            problems.append(f"{name}: the cloud has no such instance (`openstack server list`)")
            continue
        ports = [port for port in untyped.network.ports(device_id=server.id) if port.network_id == network_id]
        if any(port.id == it.id for port in ports for it in own):
            problems.append(f"{name}: is one of the stack's own load balancers; name those that were built manually")
            continue
        found = [_old_port(server.name, port, vip) for port in ports]
        holding = [it for it in found if it.pairs]
        if any(not port.is_port_security_enabled for port in ports):
            problems.append(
                f"{name}: port security is off on its port, so the cloud cannot stop it from answering for {vip}; "
                "first turn it on, with the address pair and a security group"
            )
        elif not holding and not taken:
            problems.append(f"{name}: none of its ports on this network may hold {vip} (allowed address pairs)")
        old += holding
    reserving, reserving_problems = _reservation(untyped, network_id, vip, mine)
    known = {port.id for port in own} | {it.port_id for it in old}
    forgotten, notes = _others(untyped, network_id, vip, known)
    problems += reserving_problems + forgotten + _own_problems(stack)
    if not taken and not problems:
        problems += _holder_problems(stack, vip, old) + _pending_problems(stack)
    if problems:
        raise PairError(
            f"{vip} cannot be taken over, so nothing was changed:\n" + "\n".join(f"  - {it}" for it in problems)
        )
    notes += _shut_out(untyped, stack.settings, old)
    return Plan(vip=vip, old=tuple(old), own_port=mine.id, reserving_port=reserving, notes=tuple(notes))


def narrow(stack: AppliedStack, cloud: Connection, agreed: Plan, done: list[Action]) -> None:
    """Narrow the old pair's address pairs to the VIP alone, and check that the stack's pair still serves.

    Neutron counts a port's address pairs as members of its security groups: a pair with the subnet's prefix lets the
    whole subnet through a rule that names the old pair's group. PairError if the stack's own load balancers reach the
    API servers only that way.
    """

    def narrowed(pairs: list[AddressPair]) -> list[AddressPair]:
        # The same address with another MAC (keepalived's use_vmac) is another pair.
        by_mac = {
            it.get("mac_address"): {**it, "ip_address": str(agreed.vip)} for it in pairs if covers(it, agreed.vip)
        }
        return [*(it for it in pairs if not covers(it, agreed.vip)), *by_mac.values()]

    exact = {str(agreed.vip), f"{agreed.vip}/32"}
    wide = [it for it in agreed.old if any(pair["ip_address"] not in exact for pair in it.pairs)]
    for it in wide:
        _change_pairs(cloud, it, narrowed, done)
    problems = _lasting_problems(stack) if wide else []
    if problems:
        raise PairError(
            f"{agreed.vip} cannot be taken over: the stack's pair reaches the API servers only because the old ports "
            "have an address pair with a prefix:\n" + "\n".join(f"  - {it}" for it in problems)
        )


def _change_pairs(
    cloud: Connection, port: OldPort, change: Callable[[list[AddressPair]], list[AddressPair]], done: list[Action]
) -> None:
    network: Any = cloud.network
    with uninterrupted():
        # As they are now: somebody may have added one since the check.
        before: list[AddressPair] = [*(network.get_port(port.port_id).allowed_address_pairs or [])]
        options = f"--no-allowed-address {allowed_addresses(before)}".strip()
        done.append(
            Action(
                what=f"the address pairs of {port.name}",
                undo=partial(network.update_port, port.port_id, allowed_address_pairs=before),
                command=f"openstack port set {options} {port.port_id}",
            )
        )
        network.update_port(port.port_id, allowed_address_pairs=change(before))


def _lasting_problems(stack: AppliedStack) -> list[str]:
    """Problems of the stack's own pair that appear within SETTLED_SECONDS."""
    deadline = time.monotonic() + SETTLED_SECONDS
    before: list[str] = []
    problems = _own_problems(stack)
    # Only if seen twice in a row: a single late login or health check has other causes.
    while not (before and problems) and time.monotonic() < deadline:
        time.sleep(1)
        before, problems = problems, _own_problems(stack)
    return problems


def reserve(stack: AppliedStack, cloud: Connection, agreed: Plan, done: list[Action]) -> None:
    """Move the VIP's reservation from the old port to the stack's own, with no pause in between."""
    if agreed.reserving_port is None:
        return
    network: Any = cloud.network
    # In between, Neutron could give the VIP to another port.
    with uninterrupted():
        theirs, mine = network.get_port(agreed.reserving_port), network.get_port(agreed.own_port)
        places = [it for it in theirs.fixed_ips if it["ip_address"] == str(agreed.vip)]
        if not places or _in_use(theirs):
            raise PairError(f"port {theirs.id} has changed since the check: run `./ha takeover` again")
        _set_addresses(network, theirs, [it for it in theirs.fixed_ips if it not in places], done)
        # Neutron may have added IPv6 addresses to either port.
        others = [it for it in mine.fixed_ips if it["ip_address"] != stack.outputs.vip]
        _set_addresses(network, mine, [*places, *others], done)


def _set_addresses(network: Any, port: Any, places: list[dict[str, str]], done: list[Action]) -> None:
    options = "".join(f" --fixed-ip subnet={it['subnet_id']},ip-address={it['ip_address']}" for it in port.fixed_ips)
    done.append(
        Action(
            what=f"the addresses of port {port.id}",
            undo=partial(network.update_port, port.id, fixed_ips=[*port.fixed_ips]),
            command=f"openstack port set --no-fixed-ip{options} {port.id}",
        )
    )
    network.update_port(port.id, fixed_ips=places)


def move_vip(stack: AppliedStack, cloud: Connection, agreed: Plan, done: list[Action]) -> None:
    """Bring the stack's pair up with the VIP, without the proof that no other host answers for it."""
    before = stack.outputs.vip
    if before != str(agreed.vip):
        done.append(
            Action(
                what=f"the stack's VIP, {before}. `sudo systemctl restart keepalived` on the old holder announces "
                f"{agreed.vip} to clients that still send to the stack's pair",
                undo=partial(_return_vip, stack, cloud, agreed),
                command=f"pulumi config set vip {before} --stack {stack.name} && pulumi up --stack {stack.name}",
                # The stack's port must not lose the address while the stack's pair uses it.
                is_prerequisite=True,
            )
        )
    _up(stack.name, "--exclude", "**::*-prove")


def _return_vip(stack: AppliedStack, cloud: Connection, agreed: Plan) -> None:
    """Bring the stack's pair up with its own VIP again; PairError if the old pair could not take the other back."""
    network: Any = cloud.network
    for it in agreed.old:
        pairs: list[AddressPair] = network.get_port(it.port_id).allowed_address_pairs or []
        if not any(covers(pair, agreed.vip) for pair in pairs):
            raise PairError(f"{it.name} may not hold {agreed.vip}, so the stack's pair keeps it")
    with _configuration(stack.name, vip=stack.outputs.vip) as file:
        _up(stack.name, "--config-file", str(file))


@contextmanager
def _configuration(stack: str, *, vip: str | None) -> Generator[Path]:
    """A copy of the stack's configuration file with another VIP, or none. Secrets are encrypted in it.

    StackError if there is no such file, or it has no configuration.
    """
    source = stack_file(stack)
    content = yaml.safe_load(source.read_text()) if source.exists() else None
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):  # pyright: ignore[reportUnknownMemberType]
        raise StackError(
            f"{source.name} does not have the configuration of {stack}, which a takeover repeats with another vip: "
            f"write it there with `pulumi config refresh --stack {stack}`, or get the file from the one who ran "
            "`pulumi up`"
        )
    configuration: dict[str, Any] = {**content["config"]}
    configuration.pop(f"{NAMESPACE}vip", None)
    content["config"] = configuration | ({f"{NAMESPACE}vip": vip} if vip else {})
    with TemporaryDirectory() as folder:
        file = Path(folder) / "configuration.yaml"
        file.write_text(yaml.safe_dump(content))
        yield file


def wait_until_held(stack: str, vip: IPv4Address) -> None:
    """Wait until one load balancer of the stack holds the VIP and has an API server; PairError if none does."""

    def held() -> bool:
        applied = read_stack(stack)
        states = [state for state in collect(applied).values() if isinstance(state, HostState)]
        holding = [state for state in states if state.holds_vip and state.haproxy.ready]
        return applied.outputs.vip == str(vip) and len(holding) == 1

    wait_for(f"one load balancer of {stack} holds {vip} and has an API server", held, HELD_SECONDS)


def fence(cloud: Connection, agreed: Plan, done: list[Action]) -> None:
    """Take the address pairs for the VIP from the old pair."""
    for it in agreed.old:
        _change_pairs(cloud, it, lambda pairs: [pair for pair in pairs if not covers(pair, agreed.vip)], done)


def prove(stack: str) -> None:
    """Have the stack prove that its pair serves, and that no other host answers for the VIP."""
    _up(stack)


def _up(stack: str, *arguments: str) -> None:
    engine.run_pulumi(
        "up", "--yes", "--suppress-outputs", "--stack", stack, *arguments, stack=stack, again="./ha takeover"
    )


def _own_port(cloud: Any, ids: Mapping[tuple[str, str], str], name: str) -> Any:
    """A port of the stack."""
    if (PORT, name) not in ids:
        raise PairError(f"the stack has no port {name}: run `pulumi up`")
    return cloud.network.get_port(ids[PORT, name])


def _in_use(port: Any) -> bool:
    """Whether a port belongs to an instance, a router, a DHCP server or anything else."""
    return bool(port.device_id or port.device_owner)


def _old_port(name: str, port: Any, vip: IPv4Address) -> OldPort:
    pairs: list[AddressPair] = port.allowed_address_pairs or []
    holding = tuple(pair for pair in pairs if covers(pair, vip))
    return OldPort(
        name=name,
        port_id=port.id,
        addresses=tuple(it["ip_address"] for it in port.fixed_ips),
        # A pair may name a virtual router's MAC address instead of the port's own.
        mac_addresses=frozenset(pair.get("mac_address", port.mac_address).lower() for pair in holding),
        pairs=holding,
    )


def _reservation(cloud: Any, network_id: str, vip: IPv4Address, mine: Any) -> tuple[str | None, list[str]]:
    """The port that reserves the VIP as its own address, unless it is the stack's; and what prevents the move."""
    for port in cloud.network.ports(network_id=network_id, fixed_ips=f"ip_address={vip}"):
        if port.id == mine.id:
            continue
        if _in_use(port):
            return None, [f"{vip}: is the fixed address of a port in use, {port.id} (`openstack port show {port.id}`)"]
        if port.project_id != mine.project_id:
            return None, [f"{vip}: its port {port.id} belongs to another project, {port.project_id}"]
        # Neutron would drop the association with the address. A cloud without routers has no floating IPs.
        if cloud.network.find_extension("router") and [*cloud.network.ips(port_id=port.id)]:
            return None, [f"{vip}: its port {port.id} has a floating IP, which would be lost; see docs/takeover.md"]
        return port.id, []
    return None, []


def _pending_problems(stack: AppliedStack) -> list[str]:
    """What `pulumi up` would change besides the VIP: that could not be undone together with the takeover."""
    of_stack = ("--json", "--stack", stack.name)
    updates: list[Any] = json.loads(engine.query("stack", "history", "--page-size", "10", *of_stack))
    applied: list[Any] = [it["config"] for it in updates if it["kind"] == "update" and it["result"] == "succeeded"]
    # If there was none, Neutron chose it.
    vip = applied[0].get(f"{NAMESPACE}vip", {}).get("value") if applied else stack.outputs.vip
    with _configuration(stack.name, vip=vip) as file:
        steps = parse_preview(engine.preview(stack.name, "--config-file", str(file)))
    changes = pending_changes(steps, with_servers=True)
    if not changes:
        return []
    return [
        f"{stack.name} has changes besides the VIP to apply: {', '.join(changes)}. First run `pulumi up` with vip = "
        f"{stack.outputs.vip}"
    ]


def _own_problems(stack: AppliedStack) -> list[str]:
    problems: list[str] = []
    for name, state in collect(stack).items():
        if isinstance(state, str):
            problems.append(f"{name}: {state}")
            continue
        down = [unit for unit, service in state.services.items() if service.state != "active"]
        if down:
            problems.append(f"{name}: {', '.join(down)} is not active; see `./ha status`")
        if not state.haproxy.ready:
            problems.append(
                f"{name}: has no API server. Admit the group {stack.outputs.security_group_ids['loadBalancers']} to "
                f"port {API_PORT} of the API servers (`openstack security group rule create --remote-group`)"
            )
    return problems


def _holder_problems(stack: AppliedStack, vip: IPv4Address, old: Sequence[OldPort]) -> list[str]:
    """An old load balancer that was named must answer for the VIP: finds a wrong address, and a forgotten host."""
    held = "ours"  # a run that was cut off got this far
    command = (
        f"dev=$(ip -oneline -4 route get {vip} | sed -n 's/.* dev \\([^ ]*\\) .*/\\1/p') && "
        f'if [ -n "$(ip -oneline -4 address show to {vip}/32)" ]; then echo {held}; '
        f'else sudo -n arping -c 3 -w 3 -I "$dev" {vip} || true; fi'
    )
    heard = ""
    for name, address in stack.outputs.load_balancers.items():
        try:
            heard += asyncio.run(stack.access.run(address, command))
        except (OSError, asyncssh.Error) as error:
            return [f"{name}: {failure_of(error)}"]
    if held in heard:
        return []
    answering = {found.lower() for found in re.findall(r"\[((?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2})\]", heard)}
    if not answering:
        return [f"{vip}: no host answers for it on the network; is it the address of the existing endpoint?"]
    others = answering - frozenset[str]().union(*(it.mac_addresses for it in old))
    return [
        f"{vip}: {other} answers for it, and is no port of the instances that you named" for other in sorted(others)
    ]


def _others(cloud: Any, network_id: str, vip: IPv4Address, known: set[str]) -> tuple[list[str], list[str]]:
    """Ports that were not named and may hold the VIP: those with a pair for it, and those with a pair for a network."""
    forgotten: list[str] = []
    wide: list[str] = []
    for port in cloud.network.ports(network_id=network_id):
        pairs: list[AddressPair] = port.allowed_address_pairs or []
        holding = [pair["ip_address"] for pair in pairs if covers(pair, vip)]
        if not holding or port.id in known:
            continue
        found = f"instance {port.device_id}, port {port.id}, may hold {vip} too ({', '.join(holding)})"
        if any(address.partition("/")[0] == str(vip) for address in holding):
            forgotten.append(f"{found}: name it too, or remove its address pair")
        else:
            wide.append(found)
    return forgotten, wide


def _shut_out(cloud: Any, settings: Settings, old: Sequence[OldPort]) -> Iterator[str]:
    """Clients that may use the endpoint now, but not with the stack's configuration."""
    admitted = [*settings.api_allowed_cidrs, *map(IPv4Network, settings.api_servers)]
    own = {address for it in old for address in it.addresses}
    groups = {group for it in old for group in cloud.network.get_port(it.port_id).security_group_ids}
    sources: set[IPv4Network] = set()
    for group in groups:
        for rule in cloud.network.security_group_rules(security_group_id=group, direction="ingress"):
            if rule.ether_type != "IPv4" or rule.protocol not in (None, "tcp", "6"):
                continue
            if rule.port_range_min is not None and not rule.port_range_min <= API_PORT <= rule.port_range_max:
                continue
            if rule.remote_group_id:
                members = cloud.network.ports(security_group_ids=[rule.remote_group_id])
                found = {ip["ip_address"] for port in members for ip in port.fixed_ips} - own
                sources |= {IPv4Network(address) for address in found if ":" not in address}
            else:
                sources.add(IPv4Network(rule.remote_ip_prefix or "0.0.0.0/0"))
    for source in sorted(sources):
        if not any(source.subnet_of(network) for network in admitted):
            yield f"{source} may use the endpoint now, and is not in apiAllowedCidrs"
