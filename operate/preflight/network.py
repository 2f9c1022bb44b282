"""Network, subnet and VIP, as Neutron knows them. segment.py checks what this machine sees."""

from collections.abc import Generator
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from model.api_servers import API_SERVER_REMEDY, api_server_problem
from model.kubernetes import subnet_problems
from model.topology import Role, host_names, vip_port_name
from model.vip import VIP_REMEDY, covers, vip_problem
from operate.preflight.facts import Facts, named_or_id
from operate.preflight.finding import Finding, note, ok, problem

USUAL_MTU = 1500
SMALL_MTU = 1280
"""With a smaller one, little is left after a pod network's encapsulation."""


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
    yield _mtu(found)
    if found.is_port_security_enabled is False:
        yield problem(
            "port security",
            "is off on the network: security groups have no effect, and Neutron refuses address pairs",
            "turn it on (`openstack network set --enable-port-security`): existing ports keep theirs; or use another "
            "network",
        )
    else:
        yield ok("port security", "is on")


def _mtu(found: Any) -> Finding:
    mtu = found.mtu
    if not mtu:
        return note("MTU", "unknown to Neutron", "`./ha preflight --boot` shows what an instance gets")
    # Only administrators see the type.
    of_type = f"{mtu} ({found.provider_network_type})" if found.provider_network_type else f"{mtu}"
    if mtu < SMALL_MTU:
        return note("MTU", of_type, "a pod network's encapsulation needs up to 70 bytes of it: check that it fits")
    if mtu == USUAL_MTU:
        return ok("MTU", of_type)
    tunnel = (
        "less than Ethernet's, as in a tunnel (Geneve leaves 1442 of 1500, VXLAN 1450); " if mtu < USUAL_MTU else ""
    )
    return ok("MTU", f"{of_type}: {tunnel}instances get it from DHCP; subtract the encapsulation for the pod network")


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
        listed = ", ".join(f"{it.name} ({it.cidr})" for it in every if it.ip_version == 4) or "none"
        if facts.subnets:
            found = f"{len(facts.subnets)} IPv4 subnets match"
        elif named_or_id(every, configured):
            found = "is an IPv6 subnet, and the VIP needs an IPv4 one"
        else:
            found = "the network has no such IPv4 subnet"
        yield problem(looked_at, found, f"use one of the network's IPv4 subnets: {listed}")
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
    hosts = [port for port in facts.own_ports if port is not facts.vip_port]
    needed = sum(role.settings(facts.settings).count for role in Role) - len(hosts)
    configured = facts.settings.vip
    # A VIP outside the pools takes none of their addresses.
    needed += facts.vip_port is None and (configured is None or _pooled(facts, configured))
    free = facts.free_addresses()
    found = f"needs {needed} more; {free} are free" + (
        "" if facts.sees_all_ports else " at most (other projects' ports are not visible)"
    )
    if needed > free:
        yield problem("free addresses", found, "extend the allocation pools, or use another subnet")
    else:
        yield ok("free addresses", found)


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
    may = [
        (port, IPv4Interface(pair["ip_address"]))
        for port in facts.ports
        if port.name not in own
        for pair in port.allowed_address_pairs
        if covers(pair, address)
    ]
    # A port that may have any address, a router's for example, was not set up for the VIP; one with VIP/24 was.
    wide = [(port, pair) for port, pair in may if pair.ip != address and facts.cidr.subnet_of(pair.network)]
    strangers = [port for port, pair in may if (port, pair) not in wide]
    if strangers:
        yield problem(
            "address pairs",
            f"port {strangers[0].id} ({strangers[0].name}) may answer for the VIP too",
            "choose another VIP, or remove that port's address pair: two pairs of load balancers would fight for it",
        )
    if wide:
        port, pair = wide[0]
        yield note(
            "address pairs",
            f"port {port.id} ({port.name}) may answer for every address of the subnet ({pair.network}), the VIP too",
            "check that its instance, such as a router, leaves the VIP alone",
        )
    if not may:
        yield ok("address pairs", "no other port that this user sees may answer for the VIP")
