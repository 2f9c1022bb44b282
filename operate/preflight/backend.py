"""What forwards the network's packets, as far as this user sees, and what follows from that."""

from collections.abc import Generator
from enum import StrEnum

from model.topology import Role, security_rules
from operate.preflight.facts import Facts
from operate.preflight.finding import Finding, note, ok

MANY_MEMBERS = 50
"""A judgement: no limit is published, and it depends on how busy the hypervisors are."""


class Backend(StrEnum):
    """What forwards the network's packets, as far as a finding depends on it."""

    OVN = "OVN"
    DVR = "Open vSwitch with distributed routers (DVR)"
    OVS = "Open vSwitch"
    LINUXBRIDGE = "Linux bridge"
    AGENTS = "Open vSwitch, or on an older cloud Linux bridge"
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
_BEYOND_THE_ROUTER = (
    "Clients of the floating IP follow a move only when ovn-controller and the southbound database have: "
    "docs/troubleshooting.md"
)


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
    """What forwards the packets, and what that means for the VIP and for the security groups.

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
        beyond = f". {_BEYOND_THE_ROUTER}" if found is Backend.OVN and facts.settings.floating_network else ""
        yield ok("backend", f"{known}: {_MEANING[found]}{beyond}")
    yield _group_rules(facts, found)


def _group_rules(facts: Facts, found: Backend) -> Finding:
    """Whether a group that rules name as the source grows so large that Neutron's agents follow slowly.

    The openvswitch firewall computes flows for each member of such a group, again whenever one comes or goes:
    https://github.com/openshift/installer/pull/3461. With Linux bridges an ipset is updated, in OVN an address set.
    """
    sources = {rule.source for rule in security_rules(facts.settings)}
    role = max((it for it in Role if it in sources), key=lambda it: it.settings(facts.settings).count)
    members = role.settings(facts.settings).count
    size = f"the largest group that rules name, {facts.settings.cluster_name}-{role}, has {members} members"
    if members < MANY_MEMBERS or found in (Backend.OVN, Backend.LINUXBRIDGE):
        return ok("group rules", size)
    slow = "its openvswitch firewall computes flows for each of them, again whenever one comes or goes"
    return note(
        "group rules",
        f"{size}: {slow if found in (Backend.OVS, Backend.DVR) else f'if this is ML2/OVS, {slow}'}, so a new host may "
        "be unreachable for others for a while; the failover does not depend on it, the load balancers' group is small",
        "add hosts in small steps, or split the cluster",
    )
