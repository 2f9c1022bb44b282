"""Network, subnet, VIP, and what stands behind them: what Neutron knows. segment.py has what this machine sees."""

from collections.abc import Generator
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

from model.topology import Role, host_names
from model.vip import VIP_REMEDY, vip_problem
from operate.preflight.facts import Facts
from operate.preflight.finding import Finding, note, ok, problem

USUAL_MTU = 1500
SMALL_MTU = 1280
"""With less, a pod network's encapsulation leaves little."""


class Backend(StrEnum):
    """What moves the network's packets, as far as a finding depends on it."""

    OVN = "OVN"
    DVR = "Open vSwitch with distributed routers (DVR)"
    OVS = "Open vSwitch"
    LINUXBRIDGE = "Linux bridge"
    AGENTS = "Open vSwitch or Linux bridge"
    UNKNOWN = "unknown"


_DISTRIBUTED = {"network:router_interface_distributed", "network:router_centralized_snat"}
_MEANING = {
    Backend.OVN: "the VIP's unbound port becomes one of type virtual, which follows the holder's gratuitous ARP; it "
    "wants the exact address as pair, as the program sets it. VRRP goes by unicast, like any other packet",
    Backend.OVS: "the address pairs let the holder answer for the VIP, and its gratuitous ARP tells switches where "
    "that is. VRRP goes by unicast",
    Backend.LINUXBRIDGE: "the address pairs open the bridge's anti-spoofing for the VIP, and the holder's gratuitous "
    "ARP tells switches where it is. VRRP goes by unicast",
    Backend.AGENTS: "with either the address pairs are all that is needed: the holder's gratuitous ARP tells where the "
    "VIP is. VRRP goes by unicast",
}


def network(facts: Facts) -> Generator[Finding]:
    """There is one of this name, it is up, guarded by port security, and ours to set address pairs on."""
    wanted = facts.settings.network
    if not facts.networks:
        every = sorted(it.name for it in facts.cloud.network.networks())
        yield problem(
            f"network {wanted}", "does not exist for this project", f"take one of {', '.join(every) or 'none'}"
        )
        return
    if len(facts.networks) > 1:
        yield problem(f"network {wanted}", f"{len(facts.networks)} networks have this name", "give the id")
        return
    found = facts.network
    if found.status != "ACTIVE" or not found.is_admin_state_up:
        yield problem(f"network {wanted}", f"status {found.status}, or switched off", "have it brought up")
    else:
        shared = ", shared" if found.is_shared else ""
        external = ", external: instances stand on it directly" if found.is_router_external else ""
        yield ok(f"network {wanted}", f"active{shared}{external}")
    yield _mtu(found.mtu)
    if found.is_port_security_enabled is False:
        yield problem(
            "port security",
            "is off on the network: security groups guard nothing there, and Neutron refuses address pairs",
            "switch it on (`openstack network set --enable-port-security`), or take another network",
        )
    else:
        yield ok("port security", "is on")


def _mtu(mtu: int) -> Finding:
    if not mtu:
        return note("MTU", "Neutron does not tell", "`./ha preflight --boot` shows what an instance gets")
    if mtu < SMALL_MTU:
        return note("MTU", f"{mtu}", "a pod network with encapsulation needs up to 70 bytes of that: see that it fits")
    if mtu != USUAL_MTU:
        return ok("MTU", f"{mtu}: instances learn it from DHCP; give the pod network less by its encapsulation")
    return ok("MTU", f"{mtu}")


def owner(facts: Facts, *, tried: bool) -> Generator[Finding]:
    """By Neutron's default policy only a network's owner and administrators may set address pairs and choose addresses.

    https://docs.openstack.org/neutron/latest/configuration/policy.html (create_port:allowed_address_pairs,
    create_port:fixed_ips:ip_address). What the policy is cannot be asked; only trying tells (boot.py).
    """
    if facts.sees_all_ports:
        yield ok("network's owner", "this user may set address pairs on it")
        return
    if tried:
        yield note("network's owner", f"is another project ({facts.network.project_id}): address pairs are tried below")
        return
    yield problem(
        "network's owner",
        f"is another project ({facts.network.project_id}): Neutron's default policy refuses address pairs (403)",
        "take a network of the project, or have create_port:allowed_address_pairs (and, with vip, "
        "create_port:fixed_ips:ip_address) opened; where they are, --boot proves it",
    )


def subnet(facts: Facts) -> Generator[Finding]:
    """There is one, with DHCP, and enough free addresses."""
    wanted = facts.settings.subnet
    looked_at = f"subnet {wanted}".strip()
    if len(facts.subnets) != 1:
        every = list(facts.cloud.network.subnets(network_id=facts.network.id))
        listed = ", ".join(f"{it.name} ({it.cidr})" for it in every) or "none"
        found = f"{len(facts.subnets)} IPv4 subnets fit" if facts.subnets else "the network has no such IPv4 subnet"
        yield problem(looked_at, found, f"take one of the network's: {listed}")
        return
    found = facts.subnet
    if found.is_dhcp_enabled:
        yield ok(looked_at, f"{found.cidr}, gateway {found.gateway_ip or 'none'}, with DHCP")
    else:
        yield problem(
            looked_at,
            "DHCP is off: images that rely on it get no address",
            "switch it on (`openstack subnet set --dhcp`)",
        )
    if not found.gateway_ip:
        yield note(
            f"{looked_at}: gateway",
            "none: instances reach no package archive but on the subnet",
            "set aptMirror or aptProxy",
        )


def free_addresses(facts: Facts) -> Generator[Finding]:
    """Enough for every port that is not there yet."""
    needed = sum(role.settings(facts.settings).count for role in Role) + 1 - len(facts.own_ports)
    free = facts.free_addresses()
    told = f"{needed} more are needed, {free} are free" + (
        "" if facts.sees_all_ports else " at most (others' ports are not seen)"
    )
    if needed > free:
        yield problem("free addresses", told, "extend the allocation pools, or take another subnet")
    else:
        yield ok("free addresses", told)


def floating_network(facts: Facts) -> Generator[Finding]:
    """It is external, and a router leads from it to the subnet."""
    wanted = facts.settings.floating_network
    if not wanted:
        return
    looked_at = f"floating network {wanted}"
    found = [it for it in facts.cloud.network.networks(is_router_external=True) if wanted in (it.id, it.name)]
    if len(found) != 1:
        yield problem(
            looked_at, f"{len(found)} external networks are meant", "`openstack network list --external` shows them"
        )
        return
    (external,) = found
    interfaces = {p.device_id for p in facts.ports if p.device_owner.startswith("network:router_interface")}
    every: list[Any] = list(facts.cloud.network.routers())
    routers = [
        it.id for it in every if it.external_gateway_info and it.external_gateway_info["network_id"] == external.id
    ]
    if interfaces.intersection(routers):
        yield ok(looked_at, "a router leads from it to the network")
    elif facts.sees_all_ports:
        yield problem(
            looked_at, "no router leads from it to the network", "add the subnet to a router with that gateway"
        )
    else:
        yield note(
            looked_at, "whether a router leads to the network is not seen by this user", "ask the network's owner"
        )


def vip(facts: Facts) -> Generator[Finding]:
    """It is an address that can be had, and nobody else's."""
    address = facts.settings.vip
    if address is None:
        reserved = f"reserved: {facts.vip}" if facts.vip else "none is asked for: Neutron chooses one of its free ones"
        yield ok("VIP", reserved)
        return
    looked_at = f"VIP {address}"
    users = [port for port in facts.ports if _has(port, address) and port is not facts.vip_port]
    in_use_by = next((f"port {port.id} ({port.name or port.device_owner})" for port in users), None)
    reason = vip_problem(address, facts.cidr, gateway=facts.subnet.gateway_ip, in_use_by=in_use_by)
    if reason:
        yield problem(looked_at, reason, VIP_REMEDY)
        return
    if facts.vip_port and _has(facts.vip_port, address):
        yield ok(looked_at, "reserved by this cluster's own port")
    elif _pooled(facts, address):
        yield note(
            looked_at,
            "no port has it, but it is in an allocation pool: Neutron may give it to somebody before `pulumi up`",
            "go on soon, or take one outside the pools",
        )
    else:
        yield ok(looked_at, "no port has it, and Neutron gives it to nobody (outside the allocation pools)")


def _has(port: Any, address: IPv4Address) -> bool:
    return any(it["ip_address"] == str(address) for it in port.fixed_ips)


def _pooled(facts: Facts, address: IPv4Address) -> bool:
    return any(
        IPv4Address(pool["start"]) <= address <= IPv4Address(pool["end"]) for pool in facts.subnet.allocation_pools
    )


def address_pairs(facts: Facts) -> Generator[Finding]:
    """Nobody else's port may answer for the VIP."""
    address = facts.vip
    if address is None:
        return
    own = host_names(facts.settings, Role.LOAD_BALANCER)
    strangers = [
        port
        for port in facts.ports
        if port.name not in own and any(it["ip_address"] == str(address) for it in port.allowed_address_pairs)
    ]
    if strangers:
        yield problem(
            "address pairs",
            f"port {strangers[0].id} ({strangers[0].name}) may answer for the VIP, too",
            "take another VIP, or that port's pair away: two pairs of load balancers would fight for it",
        )
    else:
        yield ok("address pairs", "no other port that this user sees may answer for the VIP")


def find_backend(facts: Facts) -> tuple[Backend, str]:
    """The backend, and how it is known.

    Bindings and agents are for administrators. Others see traces in device owners: OVN's metadata ports are called
    ovnmeta-..., distributed routers' interfaces have an owner of their own, and DHCP agents' ports name a host. And of
    the extensions OVN's router plugin has no l3_agent_scheduler
    (https://opendev.org/openstack/neutron/src/branch/master/neutron/common/ovn/extensions.py).
    """
    ports = facts.ports
    owners = {port.device_owner for port in ports}
    kinds = [agent.agent_type for agent in facts.cloud.network.agents()] if facts.is_admin else list[str]()

    def runs(kind: str) -> bool:
        return any(it.startswith(kind) for it in kinds)

    signs = (
        (
            Backend.OVN,
            any(port.device_id.startswith("ovnmeta-") for port in ports),
            "its metadata port is on the network",
        ),
        (Backend.OVN, any("ovn" in str(port.binding_vif_details) for port in ports), "its driver has bound ports"),
        (Backend.DVR, bool(owners & _DISTRIBUTED), "a distributed router is on the network"),
        (Backend.OVN, runs("OVN Controller"), "its controllers run"),
        (Backend.OVS, runs("Open vSwitch"), "its agents run"),
        (Backend.LINUXBRIDGE, runs("Linux bridge"), "its agents run"),
        (
            Backend.AGENTS,
            "network:dhcp" in owners,
            "a DHCP agent is on the network; which of the two only administrators see",
        ),
        (Backend.OVN, "router" in facts.extensions and "l3_agent_scheduler" not in facts.extensions, "no L3 agents"),
    )
    for backend, found, why in signs:
        if found:
            return backend, why
    return Backend.UNKNOWN, "bindings and agents are for administrators, and no port on the network gives it away"


def backend(facts: Facts) -> Generator[Finding]:
    """What moves the packets, and what that means for the VIP.

    OVN: https://docs.openstack.org/neutron/latest/admin/ovn/ (virtual ports). A distributed router keeps the VIP's
    hardware address as a permanent entry that gratuitous ARP does not change: https://bugs.launchpad.net/neutron/+bug/1774459.
    """
    found, why = find_backend(facts)
    known = f"{found} ({why})"
    if found is Backend.DVR:
        yield note(
            "backend",
            f"{known}: its routers learn of the VIP's move from Neutron and not from gratuitous ARP, and may go on "
            "sending to the old holder (Launchpad 1774459); clients on the network itself are not touched",
            "use a centralized router, or measure clients beyond the router with `./ha drill` before you rely on it",
        )
    elif found is Backend.UNKNOWN:
        yield note(
            "backend",
            known,
            "the address pairs work with each that Neutron has; with DVR, measure clients beyond the router",
        )
    else:
        yield ok("backend", f"{known}: {_MEANING[found]}")
