"""Network, subnet, VIP and backend, as Neutron knows them. segment.py checks what this machine sees."""

from collections.abc import Generator
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

from model.api_servers import API_SERVER_REMEDY, api_server_problem
from model.kubernetes import subnet_problems
from model.topology import Role, host_names, vip_port_name
from model.vip import VIP_REMEDY, vip_problem
from operate.preflight.facts import Facts, named_or_id
from operate.preflight.finding import Finding, note, ok, problem

USUAL_MTU = 1500
SMALL_MTU = 1280
"""With a smaller one, little is left after a pod network's encapsulation."""


class Backend(StrEnum):
    """What forwards the network's packets, as far as a finding depends on it."""

    OVN = "OVN"
    DVR = "Open vSwitch with distributed routers (DVR)"
    OVS = "Open vSwitch"
    LINUXBRIDGE = "Linux bridge"
    AGENTS = "Open vSwitch or Linux bridge"
    UNKNOWN = "unknown"


_DISTRIBUTED = {"network:router_interface_distributed", "network:router_centralized_snat"}
_MEANING = {
    Backend.OVN: "the VIP's unbound port gets the type virtual and follows the holder's gratuitous ARP; that needs the "
    "exact address in the address pairs, as the program sets it. VRRP is unicast, like any other packet",
    Backend.OVS: "the address pairs let the holder answer for the VIP, and its gratuitous ARP updates the switches. "
    "VRRP is unicast",
    Backend.LINUXBRIDGE: "the address pairs exempt the VIP from anti-spoofing, and the holder's gratuitous ARP updates "
    "the switches. VRRP is unicast",
    Backend.AGENTS: "with either, the address pairs are all that is needed: the holder's gratuitous ARP updates the "
    "switches. VRRP is unicast",
}


def network(facts: Facts) -> Generator[Finding]:
    """There is one network of this name; it is up, and has port security."""
    configured = facts.settings.network
    if not facts.networks:
        every = sorted(it.name for it in facts.cloud.network.networks())
        yield problem(
            f"network {configured}", "does not exist for this project", f"use one of {', '.join(every) or 'none'}"
        )
        return
    if len(facts.networks) > 1:
        yield problem(f"network {configured}", f"{len(facts.networks)} networks have this name", "use the id instead")
        return
    found = facts.network
    if found.status != "ACTIVE" or not found.is_admin_state_up:
        yield problem(f"network {configured}", f"status {found.status}, or administratively down", "bring it up")
    else:
        shared = ", shared" if found.is_shared else ""
        external = ", external: instances are on it directly" if found.is_router_external else ""
        yield ok(f"network {configured}", f"active{shared}{external}")
    yield _mtu(found.mtu)
    if found.is_port_security_enabled is False:
        yield problem(
            "port security",
            "is off on the network: security groups have no effect, and Neutron refuses address pairs",
            "turn it on (`openstack network set --enable-port-security`), or use another network",
        )
    else:
        yield ok("port security", "is on")


def _mtu(mtu: int) -> Finding:
    if not mtu:
        return note("MTU", "unknown to Neutron", "`./ha preflight --boot` shows what an instance gets")
    if mtu < SMALL_MTU:
        return note("MTU", f"{mtu}", "a pod network's encapsulation needs up to 70 bytes of it: check that it fits")
    if mtu != USUAL_MTU:
        return ok("MTU", f"{mtu}: instances get it from DHCP; subtract the encapsulation for the pod network")
    return ok("MTU", f"{mtu}")


def owner(facts: Facts, *, tried: bool) -> Generator[Finding]:
    """By Neutron's default policy only a network's owner and administrators may set address pairs and choose addresses.

    https://docs.openstack.org/neutron/latest/configuration/policy.html (create_port:allowed_address_pairs,
    create_port:fixed_ips:ip_address). The policy cannot be queried, only tried (boot.py).
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
        "use a network of the project, or have create_port:allowed_address_pairs (and, with vip, "
        "create_port:fixed_ips:ip_address) allowed, which --boot verifies",
    )


def subnet(facts: Facts) -> Generator[Finding]:
    """There is one subnet, with DHCP and a gateway."""
    configured = facts.settings.subnet
    looked_at = f"subnet {configured}".strip()
    if len(facts.subnets) != 1:
        every = list(facts.cloud.network.subnets(network_id=facts.network.id))
        listed = ", ".join(f"{it.name} ({it.cidr})" for it in every) or "none"
        found = f"{len(facts.subnets)} IPv4 subnets match" if facts.subnets else "the network has no such IPv4 subnet"
        yield problem(looked_at, found, f"use one of the network's: {listed}")
        return
    found = facts.subnet
    if found.is_dhcp_enabled:
        yield ok(looked_at, f"{found.cidr}, gateway {found.gateway_ip or 'none'}, with DHCP")
    else:
        yield problem(
            looked_at,
            "DHCP is off: images that rely on it get no address",
            "turn it on (`openstack subnet set --dhcp`)",
        )
    if not found.gateway_ip:
        yield note(
            f"{looked_at}: gateway",
            "none: instances can reach a package archive only on the subnet",
            "set aptMirror or aptProxy",
        )


def cluster_networks(facts: Facts) -> Generator[Finding]:
    """The cluster's own networks do not overlap the hosts' subnet."""
    settings = facts.settings
    if not settings.kubernetes:
        return
    problems = subnet_problems(settings, facts.cidr)
    for reason in problems:
        setting, _, found = reason.partition(": ")
        yield problem(setting, *found.split("; ", 1))
    if not problems:
        yield ok("cluster's networks", f"pods {settings.pod_network}, Services {settings.service_network}")


def free_addresses(facts: Facts) -> Generator[Finding]:
    """There are enough free addresses for the missing ports."""
    needed = sum(role.settings(facts.settings).count for role in Role) + 1 - len(facts.own_ports)
    free = facts.free_addresses()
    found = f"needs {needed} more; {free} are free" + (
        "" if facts.sees_all_ports else " at most (other projects' ports are not visible)"
    )
    if needed > free:
        yield problem("free addresses", found, "extend the allocation pools, or use another subnet")
    else:
        yield ok("free addresses", found)


def floating_network(facts: Facts) -> Generator[Finding]:
    """The network is external, and a router connects it to the subnet."""
    configured = facts.settings.floating_network
    if not configured:
        return
    looked_at = f"floating network {configured}"
    found = named_or_id(facts.cloud.network.networks(is_router_external=True), configured)
    if len(found) == 1 and len(alike := [*facts.cloud.network.networks(name=found[0].name)]) > 1:
        yield problem(
            looked_at,
            f"{len(alike)} networks have its name {found[0].name}, and the OpenStack provider looks for the name",
            "have one of them renamed, or use another external network",
        )
        return
    if len(found) != 1:
        yield problem(
            looked_at, f"{len(found)} external networks match", "use one of `openstack network list --external`"
        )
        return
    (external,) = found
    interfaces = {p.device_id for p in facts.ports if p.device_owner.startswith("network:router_interface")}
    every: list[Any] = list(facts.cloud.network.routers())
    routers = [
        it.id for it in every if it.external_gateway_info and it.external_gateway_info["network_id"] == external.id
    ]
    if interfaces.intersection(routers):
        yield ok(looked_at, "a router connects it to the network")
    elif facts.sees_all_ports:
        yield problem(looked_at, "no router connects it to the network", "add the subnet to a router with that gateway")
    else:
        yield note(
            looked_at, "this user cannot see whether a router connects it to the network", "ask the network's owner"
        )


def vip(facts: Facts) -> Generator[Finding]:
    """The VIP is a valid address of the subnet, and unused."""
    address = facts.settings.vip
    if address is None:
        reserved = f"reserved: {facts.vip}" if facts.vip else "not configured: Neutron chooses a free address"
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
            "unused, but in an allocation pool: Neutron may assign it to another port before `pulumi up`",
            "run `pulumi up` soon, or choose one outside the pools",
        )
    else:
        yield ok(looked_at, "unused, and outside the allocation pools, so Neutron assigns it to no other port")


def _has(port: Any, address: IPv4Address) -> bool:
    return any(it["ip_address"] == str(address) for it in port.fixed_ips)


def _pooled(facts: Facts, address: IPv4Address) -> bool:
    return any(
        IPv4Address(pool["start"]) <= address <= IPv4Address(pool["end"]) for pool in facts.subnet.allocation_pools
    )


def api_servers(facts: Facts) -> Generator[Finding]:
    """No address in `apiServers` is the load balancers' own, or the subnet's network or broadcast address."""
    configured = facts.settings.api_servers
    own = {vip_port_name(facts.settings), *host_names(facts.settings, Role.LOAD_BALANCER)}
    reasons: dict[IPv4Address, str] = {}
    for address in configured:
        port = next((port.name for port in facts.ports if _has(port, address)), None)
        if reason := api_server_problem(address, facts.cidr, port=port, own=own):
            reasons[address] = reason
    for address, reason in reasons.items():
        yield problem(f"API server {address}", reason, API_SERVER_REMEDY)
    if configured and not reasons:
        yield ok("API servers", "none of apiServers is the load balancers' own address")


def address_pairs(facts: Facts) -> Generator[Finding]:
    """No other port may answer for the VIP."""
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
            f"port {strangers[0].id} ({strangers[0].name}) may answer for the VIP too",
            "choose another VIP, or remove that port's address pair: two pairs of load balancers would fight for it",
        )
    else:
        yield ok("address pairs", "no other port that this user sees may answer for the VIP")


def find_backend(facts: Facts) -> tuple[Backend, str]:
    """The backend, and the evidence for it.

    Only administrators see bindings and agents. Other users see traces: OVN's metadata ports have device ids
    ovnmeta-..., distributed routers' interfaces have a device owner of their own, and so do DHCP agents' ports. And
    OVN's router plugin lacks the extension l3_agent_scheduler
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
            "a DHCP agent is on the network; only administrators see which of the two it is",
        ),
        (Backend.OVN, "router" in facts.extensions and "l3_agent_scheduler" not in facts.extensions, "no L3 agents"),
    )
    for backend, found, why in signs:
        if found:
            return backend, why
    return Backend.UNKNOWN, "only administrators see bindings and agents, and no port on the network reveals it"


def backend(facts: Facts) -> Generator[Finding]:
    """What forwards the packets, and what that means for the VIP.

    OVN: https://docs.openstack.org/neutron/latest/admin/ovn/ (virtual ports). A distributed router keeps the VIP's
    hardware address as a permanent entry that gratuitous ARP does not change: https://bugs.launchpad.net/neutron/+bug/1774459.
    """
    found, why = find_backend(facts)
    known = f"{found} ({why})"
    if found is Backend.DVR:
        yield note(
            "backend",
            f"{known}: its routers learn of a move of the VIP from Neutron, not from gratuitous ARP, and may go on "
            "sending to the old holder (Launchpad 1774459); clients on the network itself are not affected",
            "use a centralized router, or measure from beyond the router with `./ha drill` before you rely on it",
        )
    elif found is Backend.UNKNOWN:
        yield note(
            "backend",
            known,
            "the address pairs work with all of Neutron's backends; with DVR, measure from beyond the router",
        )
    else:
        yield ok("backend", f"{known}: {_MEANING[found]}")
