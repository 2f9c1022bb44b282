"""Guard rails: checks of `pulumi preview --json` for changes that would take the API or its address down.

If such a change is intended, it is allowed by the guard rail's name, for one run (docs/adr/0029).
"""

import re
from collections.abc import Collection, Iterable, Iterator
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Any

from pydantic import BaseModel

from model.topology import Role
from operate.stack.preview import UNKNOWN, State, Step, parse_preview
from operate.stack.resources import INSTANCE, PORT, RECORD

RULE = "openstack:networking/secGroupRule:SecGroupRule"
VIRTUAL_IP = "openstack-ha-api:network:VirtualIp$"
GONE = {"delete", "delete-replaced", "replace", "create-replacement"}
"""Pulumi's steps that delete or replace a resource; a replacement is shown as one step or as several."""
CREATED = "-kubernetes-init"
"""The record that there is a cluster, by the end of its name."""
LAST = "-admin-certificate"
"""What is deleted only with the whole cluster, and means that its hosts do not leave (components/departure.py)."""
KEPT = {
    "-certificate-authorities": "with other keys no host can join the existing cluster",
    CREATED: "the program would no longer know that there is a cluster",
    LAST: "the program treats this as destroying the cluster, so hosts that it deletes stay members of etcd",
}
"""What a cluster keeps for its whole life, by the end of its name, and why."""
VRRP = {"112", "vrrp", "", None}
"""How a rule spells a protocol that is VRRP, or all protocols."""
WORLD = 8
"""A network with a shorter prefix than this is too large to be private."""


class Rail(StrEnum):
    """A guard rail, by the name that allows what it stops."""

    BOTH_LOAD_BALANCERS = "both-load-balancers"
    VIP = "vip"
    CONTROL_PLANE_MAJORITY = "control-plane-majority"
    CLUSTER = "cluster"
    OPEN_TO_THE_WORLD = "open-to-the-world"


class Catch(BaseModel):
    """A change that a guard rail stops, and why."""

    rail: Rail
    reason: str


def check_preview(preview: str) -> list[Catch]:
    """What the guard rails stop in the output of `pulumi preview --json --show-sames`.

    StackError if it is not such output, or if the preview failed.
    """
    steps = parse_preview(preview)
    return [
        *_both_load_balancers(steps),
        *_vip(steps),
        *_control_plane_majority(steps),
        *_cluster(steps),
        *_open(steps),
    ]


def _role(step: Step) -> str | None:
    """The role in the name of an instance or its port, which share a name."""
    found = re.search(r"-([a-z]+)-\d+$", step.name)
    return found[1] if found and step.type in (INSTANCE, PORT) else None


def _stops(step: Step) -> bool:
    """Whether the instance is deleted, replaced, resized, shut off or paused."""
    return (
        step.op in GONE
        or step.changes("flavorId")
        or (step.changes("powerState") and step.inputs.get("powerState") != "active")
    )


def _vip_port(steps: Iterable[Step]) -> State:
    """The VIP's port before the change; empty if there was none."""
    found = (step.old for step in steps if VIRTUAL_IP in step.urn and step.type == PORT)
    return next(found, None) or State()


def _both_load_balancers(steps: Collection[Step]) -> Iterator[Catch]:
    pair = [step for step in steps if _role(step) == Role.LOAD_BALANCER]
    stopped = {step.name for step in pair if _stops(step) or _cut_off(step) or _denied(step, _vip_port(steps))}
    # A new load balancer does not serve yet. Two new ones are a first deployment.
    away = sorted(stopped | {step.name for step in pair if step.op == "create"})
    if stopped and len(away) > 1:
        reason = (
            f"{' and '.join(away)} are stopped, replaced, deleted, created, cut off, or denied the VIP in one run: "
            "change one, check it, then change the other"
        )
        yield Catch(rail=Rail.BOTH_LOAD_BALANCERS, reason=reason)


def _cut_off(port: Step) -> bool:
    """Whether the port is switched off, or left without a security group, which admits nothing."""
    return (port.changes("adminStateUp") and port.inputs.get("adminStateUp") is False) or (
        port.changes("securityGroupIds") and not port.inputs.get("securityGroupIds")
    )


def _denied(port: Step, vip: State) -> bool:
    """Whether Neutron would drop the VIP's packets from this port."""
    pairs = port.inputs.get("allowedAddressPairs", [])
    # An address that is not known before the run belongs to a new VIP port, which another rule stops.
    if not port.changes("allowedAddressPairs") or UNKNOWN in str(pairs):
        return False
    return not {it.get("ipAddress") for it in pairs} & set(vip.outputs.get("allFixedIps", []))


def _vip(steps: Collection[Step]) -> Iterator[Catch]:
    for step in steps:
        if VIRTUAL_IP not in step.urn or step.old is None:
            continue
        # A replacement in several steps is reported once.
        if step.op in GONE - {"create-replacement"}:
            lost = "clients that know the API by it do not find it" if step.type == RECORD else "its address is lost"
            yield Catch(rail=Rail.VIP, reason=f"{step.name} ({step.type}) is deleted or replaced: {lost}")
        elif step.changes("fixedIps") and (change := _address_change(step)):
            yield Catch(rail=Rail.VIP, reason=f"{step.name} changes its address: {change}")
        elif step.changes("portId") and step.inputs.get("portId") != _vip_port(steps).id:
            yield Catch(
                rail=Rail.VIP, reason=f"{step.name} is detached from the VIP's port: its address no longer leads there"
            )
    yield from _unheard(steps)


def _unheard(steps: Collection[Step]) -> Iterator[Catch]:
    """Changes of rules and groups after which the load balancers do not hear each other."""
    ports = [step for step in steps if step.type == PORT and _role(step) == Role.LOAD_BALANCER]
    addresses = [it for port in ports if port.old for it in port.old.outputs.get("allFixedIps", []) if ":" not in it]
    rules = [step for step in steps if step.type == RULE]

    def admit(states: Iterable[State | None], direction: str) -> set[str]:
        """Ids of the security groups that admit VRRP between their members."""
        inputs = [state.inputs for state in states if state]
        return {it.get("securityGroupId", "") for it in inputs if _admits_vrrp(it, direction, addresses)}

    hearing, sending = (admit((it.old for it in rules), direction) for direction in ("ingress", "egress"))
    still_hearing, still_sending = (admit((it.new for it in rules), direction) for direction in ("ingress", "egress"))
    if (hearing - still_hearing) | (hearing & sending - still_sending):
        reason = "the load balancers' security group is replaced or no longer admits VRRP: both would take the VIP"
        yield Catch(rail=Rail.VIP, reason=reason)
    for port in ports:
        groups = port.inputs.get("securityGroupIds", [])
        # A group that is not known before the run is a new one, and its rules were checked above.
        if port.changes("securityGroupIds") and groups and UNKNOWN not in str(groups) and not still_hearing & {*groups}:
            reason = f"{port.name} leaves the security group that admits VRRP: both load balancers would take the VIP"
            yield Catch(rail=Rail.VIP, reason=reason)


def _admits_vrrp(rule: dict[str, Any], direction: str, addresses: Iterable[str]) -> bool:
    """Whether a rule admits VRRP between members of its own group, which have these addresses."""
    if rule.get("protocol") not in VRRP or rule.get("direction") != direction or rule.get("ethertype") == "IPv6":
        return False
    if group := rule.get("remoteGroupId"):
        return group == rule.get("securityGroupId")
    try:
        network = ip_network(rule.get("remoteIpPrefix") or "0.0.0.0/0", strict=False)
    except ValueError:  # not known before the run
        return False
    return not rule.get("remoteAddressGroupId") and all(ip_address(it) in network for it in addresses)


def _address_change(step: Step) -> str | None:
    every: list[str] = step.old.outputs.get("allFixedIps", []) if step.old else []
    # Neutron adds IPv6 addresses by itself, and nobody uses them.
    had = [address for address in every if ":" not in address]
    chosen = [it.get("ipAddress") for it in step.inputs.get("fixedIps", [])]
    # Writing down the address that Neutron picked is no change.
    return None if chosen == had else f"{', '.join(had)} to {', '.join(it or 'what Neutron picks' for it in chosen)}"


def _control_plane_majority(steps: Collection[Step]) -> Iterator[Catch]:
    instances = [it for it in steps if _role(it) == Role.CONTROL_PLANE and it.type == INSTANCE and it.old]
    members = {step.name for step in instances}
    stopped = sorted({step.name for step in instances if _stops(step)})
    if len(stopped) <= max(len(members) - 1, 0) // 2:
        return
    how_many = f"{', '.join(stopped)}: {len(stopped)} of the control plane's {len(members)} members are"
    if not _leave_first(steps) or any(_stops(it) and it.op not in GONE for it in instances):
        reason = (
            f"{how_many} stopped, resized, replaced or deleted in one run, and etcd needs {len(members) // 2 + 1} of "
            "them: change one at a time"
        )
    elif len(members) == 1:
        reason = f"{how_many} replaced or deleted, with all the cluster's data: set controlPlaneCount to 3 first"
    else:
        reason = (
            f"{how_many} replaced or deleted in one run: one at a time, and each leaves the cluster first, when etcd "
            "has a majority without it; change one first if you do not know that the new ones will work"
        )
    yield Catch(rail=Rail.CONTROL_PLANE_MAJORITY, reason=reason)


def _leave_first(steps: Collection[Step]) -> bool:
    """Whether hosts leave a cluster before they go: there is one, and it does not end."""
    existing = [step for step in steps if step.old]
    return any(step.name.endswith(CREATED) for step in existing) and not any(
        step.name.endswith(LAST) and step.op in GONE for step in existing
    )


def _cluster(steps: Collection[Step]) -> Iterator[Catch]:
    for step in steps:
        # A replacement in several steps is reported once.
        if step.op not in GONE - {"create-replacement"} or step.old is None:
            continue
        for end, why in KEPT.items():
            if step.name.endswith(end):
                yield Catch(rail=Rail.CLUSTER, reason=f"{step.name} is deleted or replaced: {why}")


def _open(steps: Collection[Step]) -> Iterator[Catch]:
    for step in steps:
        if step.new is None or step.op not in ("create", "replace", "create-replacement", "update"):
            continue
        if step.new.inputs.get("portSecurityEnabled") is False:
            yield Catch(
                rail=Rail.OPEN_TO_THE_WORLD, reason=f"{step.name} loses its security groups: everything is admitted"
            )
        if step.type != RULE:
            continue
        rule = step.new.inputs
        if rule.get("direction") == "ingress" and _admits_everyone(rule):
            ports = f"{rule.get('protocol') or 'every protocol'} {rule.get('portRangeMin', '')}".strip()
            who = rule.get("remoteIpPrefix") or "everyone"
            reason = f"{step.name} admits {who} to {ports}: name the networks that need it"
            yield Catch(rail=Rail.OPEN_TO_THE_WORLD, reason=reason)


def _admits_everyone(rule: dict[str, Any]) -> bool:
    prefix = rule.get("remoteIpPrefix")
    if not prefix:
        # To Neutron, a rule with neither a network nor a group admits everyone.
        return not (rule.get("remoteGroupId") or rule.get("remoteAddressGroupId"))
    try:
        return ip_network(prefix, strict=False).prefixlen < WORLD
    except ValueError:  # a value that is not known before the run may be anything
        return True
