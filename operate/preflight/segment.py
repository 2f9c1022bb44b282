"""What this machine sees: whether it is on the subnet's segment, which host answers for the VIP, whether SSH passes."""

import asyncio
import errno
import json
import shlex
import socket
import struct
import subprocess
import time
from collections.abc import Generator
from dataclasses import dataclass
from ipaddress import IPv4Address

import asyncssh
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED

from model.settings import BastionFault, BastionSettings
from model.topology import API_PORT, SSH_PORT, Role, host_names
from operate.hosts.ssh import Access, bastion_fault, failure_of
from operate.preflight.facts import Facts
from operate.preflight.finding import CannotCheckError, Finding, not_checked, note, ok, problem
from operate.stack.applied import StackConfiguration
from program.holder import answering_load_balancer

PROBES = 3
CONNECT_SECONDS = 2.0
LISTEN_SECONDS = 3.5
"""Three times the longest usual advertisement interval (VRRPv2: 1 s)."""
VRRP_PROTOCOL, VRRP_GROUP = 112, "224.0.0.18"


@dataclass(frozen=True, kw_only=True)
class Route:
    """How a machine sends to an address: interface, source address, and whether directly, without a gateway."""

    interface: str
    source: IPv4Address
    direct: bool


def parse_route(answer: str) -> Route:
    """The route in the output of `ip -json route get`."""
    (route,) = json.loads(answer)
    return Route(interface=route["dev"], source=IPv4Address(route["prefsrc"]), direct="gateway" not in route)


def route_to(address: IPv4Address) -> Route:
    """This machine's route. CannotCheckError without a route, or without `ip`."""
    try:
        answer = subprocess.run(_route_command(address), capture_output=True, text=True, check=True).stdout
        return parse_route(answer)
    except FileNotFoundError:
        raise CannotCheckError("`ip` is not installed on this machine (Debian: iproute2)") from None
    except subprocess.CalledProcessError as error:
        raise CannotCheckError(f"this machine has no route to {address}: {error.stderr.strip()}") from None


def _route_command(address: IPv4Address) -> list[str]:
    return ["ip", "-json", "route", "get", str(address)]


def arp_answer(interface: str, address: IPv4Address) -> str | None:
    """The MAC address that answers an ARP probe (RFC 5227) for an address; None if none does.

    CannotCheckError without arping (iputils), or without root.
    """
    command = ["arping", "-D", "-f", "-c", str(PROBES), "-w", str(PROBES), "-I", interface, str(address)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CannotCheckError("arping is not installed (Debian: iputils-arping)") from None
    if "[" in done.stdout.partition("reply from")[2]:
        return done.stdout.partition("[")[2].partition("]")[0].lower()
    if done.returncode or not done.stdout.startswith("ARPING"):
        reason = " ".join((done.stderr or done.stdout).split())
        raise CannotCheckError(f"iputils' arping does not work here (it needs root): {reason}")
    return None


def vip_on_the_wire(facts: Facts) -> Generator[Finding]:
    """No host but the holder answers for the VIP."""
    address = facts.vip
    if address is None:
        return
    if address not in facts.cidr:
        raise CannotCheckError("the VIP is not in the subnet")
    route = route_to(address)
    if not route.direct:
        # The router translates the VIP's answers to the floating IP: at the VIP itself a client connects, and no more.
        yield _connected(facts, IPv4Address(facts.floating_ip) if facts.floating_ip else address)
        return
    looked_at = f"ARP for {address}"
    if route.source == address:
        yield problem(looked_at, f"an address of this machine, on {route.interface}", "choose another VIP")
        return
    mac = arp_answer(route.interface, address)
    if mac is None:
        yield ok(looked_at, f"no answer to {PROBES} probes on {route.interface}")
    elif _is_ours(facts, mac):
        yield ok(looked_at, f"{_holder(address)} answers: it is the holder")
    else:
        yield problem(
            looked_at,
            f"{mac} answers, which is not a load balancer of this cluster",
            "choose another VIP, or find that host: Neutron does not know it",
        )


def _is_ours(facts: Facts, mac: str) -> bool:
    own = host_names(facts.settings, Role.LOAD_BALANCER)
    return any(port.mac_address == mac for port in facts.own_ports if port.name in own)


def _holder(address: IPv4Address) -> str:
    return answering_load_balancer(str(address)) or "a load balancer of this cluster"


def _connected(facts: Facts, address: IPv4Address) -> Finding:
    """What can be seen of an address from beyond a router: a host that accepts or refuses connections is there."""
    looked_at = f"{'floating IP' if facts.floating_ip else 'VIP'} {address} from here"
    seen = {port: _attempt(address, port) for port in (API_PORT, SSH_PORT)}
    results = ", ".join(f"port {port}: {result}" for port, result in seen.items())
    if not {"open", "refused"} & {*seen.values()}:
        return not_checked(
            looked_at,
            f"this machine is not on the segment, so it cannot use ARP; connections got no answer ({results})",
        )
    if facts.vip_port:
        return ok(looked_at, f"{results}; it is this cluster's")
    return problem(
        looked_at, f"a host answers ({results})", "choose another VIP, or find that host: Neutron does not know it"
    )


def _attempt(address: IPv4Address, port: int) -> str:
    try:
        socket.create_connection((str(address), port), timeout=CONNECT_SECONDS).close()
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "no answer")
    return "open"


def parse_vrrp(packet: bytes) -> tuple[IPv4Address, int, int]:
    """Source, version and virtual router id of an advertisement with its IP header (RFC 9568, 5)."""
    header = (packet[0] & 0x0F) * 4
    return IPv4Address(packet[12:16]), packet[header] >> 4, packet[header + 1]


def heard_vrrp(interface: str, seconds: float) -> set[tuple[IPv4Address, int, int]]:
    """Source, version and id of the multicast advertisements on a segment. PermissionError without root."""
    heard: set[tuple[IPv4Address, int, int]] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, VRRP_PROTOCOL) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        member = struct.pack("4s4si", socket.inet_aton(VRRP_GROUP), bytes(4), socket.if_nametoindex(interface))
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                heard.add(parse_vrrp(listener.recv(2048)))
            except TimeoutError:
                break
    return heard


def vrrp_on_the_segment(facts: Facts) -> Generator[Finding]:
    """Virtual router ids that others use. They are harmless: ours is unicast, and its sender is checked (ADR 3)."""
    looked_at, own = "VRRP on the segment", facts.settings.vrrp_router_id
    harmless = "it is harmless, because the load balancers listen only to each other (ADR 3)"
    route = route_to(facts.cidr[1])
    if not route.direct:
        yield not_checked(looked_at, f"this machine is not on it; if others use id {own}, {harmless}")
        return
    try:
        heard = heard_vrrp(route.interface, LISTEN_SECONDS)
    except PermissionError:
        yield not_checked(looked_at, f"listening needs root; if others use id {own}, {harmless}")
        return
    found = ", ".join(f"id {router} (VRRPv{version}) from {source}" for source, version, router in sorted(heard))
    if any(router == own for _, _, router in heard):
        yield note(
            looked_at,
            f"{found}: vrrpRouterId is {own} too; {harmless}",
            "another vrrpRouterId keeps logs and traces apart",
        )
    else:
        yield ok(looked_at, found or f"no multicast advertisement within {LISTEN_SECONDS} s")


def admission(facts: Facts, configuration: StackConfiguration) -> Generator[Finding]:
    """The security groups will admit SSH from this machine, or from the bastion."""
    inside, cidrs, bastion = facts.cidr[1], facts.settings.admin_cidrs, facts.settings.bastion
    who = "the bastion" if bastion else "this machine"
    looked_at = f"SSH from {who}"
    if bastion:
        access = _bastion_access(bastion, configuration.private_key)
        try:
            answer = asyncio.run(access.run(bastion.host, shlex.join(_route_command(inside))))
        except (OSError, asyncssh.Error) as error:
            raise CannotCheckError(f"the bastion's route to the subnet is unknown: {failure_of(error)}") from None
        try:
            route = parse_route(answer)
        except (ValueError, TypeError, KeyError):
            raise CannotCheckError(
                "the bastion did not run `ip`, as with a forced command, so its route to the subnet is unknown; "
                "adminCidrs needs the address that the hosts see, and --boot verifies that SSH passes"
            ) from None
    else:
        route = route_to(inside)
    if any(route.source in cidr for cidr in cidrs):
        yield ok(looked_at, f"{who} reaches the subnet from {route.source}, which is in adminCidrs")
    elif route.direct:
        yield problem(
            looked_at,
            f"{who} reaches the subnet from {route.source}, which is not in adminCidrs: SSH would be dropped",
            f"add {route.source}/32, or its network, to adminCidrs",
        )
    else:
        yield note(
            looked_at,
            f"{who} reaches the subnet from {route.source}, which is not in adminCidrs; NAT may change it",
            "add the address that the hosts see to adminCidrs; --boot verifies that SSH passes",
        )


def forwarding(facts: Facts, configuration: StackConfiguration) -> Generator[Finding]:
    """The bastion forwards connections to port 22 in the subnet.

    sshd refuses at once what its configuration forbids (sshd_config(5): AllowTcpForwarding, PermitOpen), whether or not
    there is a host.
    """
    inside, bastion = facts.cidr[1], facts.settings.bastion
    if bastion is None:
        return
    looked_at = "forwarding by the bastion"

    async def forwards() -> bool:
        async with _bastion_access(bastion, configuration.private_key).connect(bastion.host) as connection:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await connection.open_connection(str(inside), SSH_PORT)  # pyright: ignore[reportUnknownMemberType]
            except TimeoutError:
                return True  # it is still trying
            except asyncssh.ChannelOpenError as error:
                return error.code != OPEN_ADMINISTRATIVELY_PROHIBITED
            return True

    try:
        allowed = asyncio.run(forwards())
    except (OSError, asyncssh.Error) as error:
        raise CannotCheckError(f"no connection to the bastion: {failure_of(error)}") from None
    if allowed:
        yield ok(looked_at, f"it forwards connections to port {SSH_PORT} of the subnet")
    else:
        found, to_do = bastion.problem(BastionFault.FORWARDING)
        yield problem(looked_at, found, to_do)


def _bastion_access(bastion: BastionSettings, private_key: str) -> Access:
    return Access(
        user=bastion.user,
        private_key=private_key,
        known_hosts=bastion.known_hosts,
        port=bastion.port,
        patience=0,
    )


def bastion(configuration: StackConfiguration) -> Generator[Finding]:
    """The bastion accepts the login, and has the pinned host key."""
    there = configuration.settings.bastion
    if there is None:
        return
    looked_at = f"bastion {there.host}"

    async def log_in() -> None:
        # No command: a bastion may have no shell.
        async with _bastion_access(there, configuration.private_key).connect(there.host):
            pass

    try:
        asyncio.run(log_in())
    except (OSError, asyncssh.Error) as error:
        fault = bastion_fault(error)
        found, to_do = there.problem(fault)
        reason = f": {failure_of(error)}" if fault is BastionFault.UNREACHABLE else ""
        yield problem(looked_at, f"{found}{reason}", to_do)
    else:
        yield ok(looked_at, f"{there.user} can log in, and its host key is the pinned one")
