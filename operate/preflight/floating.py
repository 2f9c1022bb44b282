"""The floating IP: its external network and subnet, and the router on the way. Nothing to check without one."""

from collections.abc import Generator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from operate.preflight.facts import Facts, named_or_id
from operate.preflight.finding import Finding, note, ok, problem

ROUTER_INTERFACES = ("network:router_interface", "network:ha_router_replicated_interface")
"""Device owners of routers' ports, or how they begin: distributed routers' have a suffix."""
FOR_FLOATING_IPS = "network:floatingip"
"""The service type of subnets for floating IPs; a subnet without any is for everything."""


def network(facts: Facts) -> Generator[Finding]:
    """There is one external network of this name."""
    configured = facts.settings.floating_network
    if not configured:
        return
    looked_at = f"floating network {configured}"
    if len(facts.external_networks) != 1:
        yield problem(
            looked_at,
            f"{len(facts.external_networks)} external networks match",
            "use one of `openstack network list --external`",
        )
    elif len(alike := [*facts.cloud.network.networks(name=facts.external.name)]) > 1:
        yield problem(
            looked_at,
            f"{len(alike)} networks have its name {facts.external.name}, and the OpenStack provider looks for the name",
            "have one of them renamed, or use another external network",
        )
    else:
        yield ok(looked_at, "is external, and the only network of its name")
        yield from _mtu(facts)


def _mtu(facts: Facts) -> Generator[Finding]:
    inside, outside = facts.network.mtu, facts.external.mtu
    if inside and outside and inside > outside:
        yield note(
            "MTU to the outside",
            f"the network has {inside}, the external network {outside}: unless the router answers long packets with "
            '"fragmentation needed" (OVN: ovn_emit_need_to_frag), they vanish, and transfers hang',
            f"before the first `up`: `openstack network set --mtu {outside}`",
        )


def router(facts: Facts) -> Generator[Finding]:
    """A router on the subnet has its external gateway on the network, and is the subnet's gateway."""
    if not facts.settings.floating_network:
        return
    external, cidr = facts.external.name, facts.cidr
    interfaces = {
        port.device_id: facts.address_of(port)
        for port in facts.ports
        if port.device_owner.startswith(ROUTER_INTERFACES) and facts.address_of(port)
    }
    visible: dict[str, Any] = {router.id: router for router in facts.cloud.network.routers()}
    on_the_subnet = [visible[router_id] for router_id in interfaces if router_id in visible]
    leading = [it for it in on_the_subnet if _gateway(it) == facts.external.id]
    if leading:
        yield from _leading(facts, leading[0], interfaces[leading[0].id] or "")
    elif on_the_subnet:
        found = on_the_subnet[0]
        lacks = "its external gateway is another network" if _gateway(found) else "it has no external gateway"
        yield problem(
            f"router {found.name}",
            f"is on the subnet, but {lacks}, so Neutron refuses to give the VIP a floating IP from {external}",
            f"`openstack router set --external-gateway {external} {found.id}`, or another floatingNetwork",
        )
    elif facts.sees_all_ports and not interfaces:
        yield problem(
            "router",
            f"none is on the subnet {cidr}, so Neutron refuses to give the VIP a floating IP",
            f"`openstack router create --external-gateway {external} ROUTER`, "
            f"`openstack router add subnet ROUTER {facts.subnet.id}`",
        )
    else:
        yield note(
            "router",
            f"this user cannot see whether a router connects the subnet {cidr} to {external}",
            "ask the network's owner",
        )


def _gateway(router: Any) -> str | None:
    return router.external_gateway_info["network_id"] if router.external_gateway_info else None


def _leading(facts: Facts, found: Any, address: str) -> Generator[Finding]:
    looked_at = f"router {found.name}"
    if not found.is_admin_state_up:
        yield problem(looked_at, "is administratively down", f"`openstack router set --enable {found.id}`")
    elif address != facts.subnet.gateway_ip:
        yield note(
            looked_at,
            f"is on the subnet as {address}, but hosts answer through the subnet's gateway {facts.subnet.gateway_ip}: "
            "clients of the floating IP would get no answer",
            f"use the gateway's router, or make this one the gateway (`openstack subnet set --gateway {address}`)",
        )
    else:
        yield ok(looked_at, f"is the subnet's gateway, and connects it to {facts.external.name}")


def subnet(facts: Facts) -> Generator[Finding]:
    """The external network's subnet is the configured one, or there is no choice.

    Before 2024.2, Neutron shows others than the owner only the ids of an external network's subnets.
    """
    if not facts.settings.floating_network:
        return
    configured, external = facts.settings.floating_subnet, facts.external
    visible: list[Any] = list(facts.cloud.network.subnets(network_id=external.id))
    hidden = {*external.subnet_ids} - {it.id for it in visible}
    usable = [
        it for it in visible if it.ip_version == 4 and (FOR_FLOATING_IPS in (it.service_types or [FOR_FLOATING_IPS]))
    ]
    listed = ", ".join([*(f"{it.name} ({it.cidr})" for it in usable), *sorted(hidden)])
    if configured:
        yield _configured_subnet(facts, named_or_id(visible, configured), hidden, listed)
    elif len(usable) + len(hidden) > 1 and not facts.floating_ip:
        yield note(
            f"subnets of {external.name}",
            f"there are several: {listed}; Neutron takes the floating IP from any IPv4 one",
            "set floatingSubnet if clients, firewalls or routes know only one of them",
        )


def _configured_subnet(facts: Facts, found: list[Any], hidden: set[str], listed: str) -> Finding:
    configured = facts.settings.floating_subnet
    looked_at = f"floating subnet {configured}"
    if not found and configured in hidden:
        return ok(looked_at, "belongs to the external network; this user cannot see its details")
    if len(found) != 1:
        matching = f"{len(found)} of its subnets match" if found else "it has no such subnet"
        return problem(
            looked_at, f"of the external network {facts.external.name}: {matching}", f"use the id of one of: {listed}"
        )
    (subnet,) = found
    if subnet.ip_version != 4:
        return problem(looked_at, f"is an IPv{subnet.ip_version} subnet ({subnet.cidr})", f"use one of: {listed}")
    if facts.floating_ip and IPv4Address(facts.floating_ip) not in IPv4Network(subnet.cidr):
        return note(
            looked_at,
            f"{subnet.cidr}, but the floating IP {facts.floating_ip} exists, is not in it, and keeps its address",
            "leave floatingSubnet empty, or release the address (docs/operations.md, Destroy)",
        )
    return ok(looked_at, f"{subnet.cidr}, a subnet of {facts.external.name}")
