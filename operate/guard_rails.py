"""Guard rails: checks of `pulumi preview --json` for changes that would take the API or its address down.

If such a change is intended, it is allowed by the guard rail's name, for one run (docs/adr/0029).
"""

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from ipaddress import ip_network
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from model.topology import Role
from operate.stack.engine import StackError

INSTANCE = "openstack:compute/instance:Instance"
PORT = "openstack:networking/port:Port"
RULE = "openstack:networking/secGroupRule:SecGroupRule"
VIRTUAL_IP = "openstack-ha-api:network:VirtualIp$"
GONE = {"delete", "delete-replaced", "replace", "create-replacement"}
"""Pulumi's steps that delete or replace a resource; a replacement is shown as one step or as several."""
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""What Pulumi writes for a value that is not known before the run."""
VRRP = {"112", "vrrp"}
WORLD = 8
"""A network with a shorter prefix than this is too large to be private."""


class Rail(StrEnum):
    """A guard rail, by the name that allows what it stops."""

    BOTH_LOAD_BALANCERS = "both-load-balancers"
    VIP = "vip"
    CONTROL_PLANE_MAJORITY = "control-plane-majority"
    OPEN_TO_THE_WORLD = "open-to-the-world"


class Catch(BaseModel):
    """A change that a guard rail stops, and why."""

    rail: Rail
    reason: str


class _State(BaseModel):
    id: str = ""
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}


class _Step(BaseModel):
    op: str
    urn: str = Field(pattern="^urn:pulumi:.*::.*::.*::")
    old: _State | None = Field(None, alias="oldState")
    new: _State | None = Field(None, alias="newState")
    difference: dict[str, Any] | None = Field(None, alias="detailedDiff")

    @property
    def name(self) -> str:
        return self.urn.rpartition("::")[2]

    @property
    def type(self) -> str:
        return self.urn.split("::")[2].rpartition("$")[2]

    @property
    def role(self) -> str | None:
        """The role in the name of an instance or its port, which share a name."""
        found = re.search(r"-([a-z]+)-\d+$", self.name)
        return found[1] if found and self.type in (INSTANCE, PORT) else None

    @property
    def inputs(self) -> dict[str, Any]:
        """The program's values; empty if the resource is deleted."""
        return self.new.inputs if self.new else {}

    @property
    def stops(self) -> bool:
        """Whether the instance is deleted, replaced, resized, shut off or paused."""
        return (
            self.op in GONE
            or self.changes("flavorId")
            or (self.changes("powerState") and self.inputs.get("powerState") != "active")
        )

    def changes(self, key: str) -> bool:
        """Whether the resource is updated in place with a different value at `key` or below it."""
        return self.op == "update" and any(path.startswith(key) for path in self.difference or {})


class _Diagnostic(BaseModel):
    severity: str = ""
    message: str


class _Preview(BaseModel):
    steps: list[_Step]
    diagnostics: list[_Diagnostic] = []
    summary: dict[str, int] = Field({}, alias="changeSummary")

    @property
    def vip_port(self) -> _State:
        """The VIP's port before the change; empty if there was none."""
        found = (step.old for step in self.steps if VIRTUAL_IP in step.urn and step.type == PORT)
        return next(found, None) or _State()

    @property
    def complete(self) -> bool:
        """Whether the unchanged resources are listed too."""
        return sum(step.op == "same" for step in self.steps) >= self.summary.get("same", 0)


def check_preview(preview: str) -> list[Catch]:
    """What the guard rails stop in the output of `pulumi preview --json --show-sames`.

    StackError if it is not such output, or if the preview failed: a failed preview is incomplete.
    """
    try:
        parsed = _Preview.model_validate_json(preview)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise StackError(
            f"not the output of `pulumi preview --json`: {where} {problem['msg']}; if Pulumi failed, see its own error"
        ) from None
    # Pulumi's closing lines, which only repeat that the program or the preview failed.
    repeated = ("error: preview failed", "error: an unhandled error occurred: program exited")
    errors = [it.message.strip() for it in parsed.diagnostics if it.severity == "error"]
    if errors:
        causes = [message for message in errors if not message.startswith(repeated)] or errors
        raise StackError("the preview failed, so it cannot be checked:\n" + "\n".join(dict.fromkeys(causes)))
    if not parsed.complete:
        # Without them, how many members the control plane keeps is unknown.
        raise StackError("the preview lacks unchanged resources: write it with `--show-sames` (`make preview` does)")
    return [*_both_load_balancers(parsed), *_vip(parsed), *_control_plane_majority(parsed), *_open(parsed)]


def _both_load_balancers(preview: _Preview) -> Iterator[Catch]:
    pair = [step for step in preview.steps if step.role == Role.LOAD_BALANCER]
    stopped = {step.name for step in pair if step.stops or _denied(step, preview.vip_port)}
    # A new load balancer does not serve yet. Two new ones are a first deployment.
    away = sorted(stopped | {step.name for step in pair if step.op == "create"})
    if stopped and len(away) > 1:
        reason = (
            f"{' and '.join(away)} are stopped, replaced, deleted, created, or denied the VIP in one run: "
            "change one, check it, then change the other"
        )
        yield Catch(rail=Rail.BOTH_LOAD_BALANCERS, reason=reason)


def _denied(port: _Step, vip: _State) -> bool:
    """Whether Neutron would drop the VIP's packets from this port."""
    pairs = port.inputs.get("allowedAddressPairs", [])
    # An address that is not known before the run belongs to a new VIP port, which another rule stops.
    if not port.changes("allowedAddressPairs") or UNKNOWN in str(pairs):
        return False
    return not {it.get("ipAddress") for it in pairs} & set(vip.outputs.get("allFixedIps", []))


def _vip(preview: _Preview) -> Iterator[Catch]:
    for step in preview.steps:
        if VIRTUAL_IP not in step.urn or step.old is None:
            continue
        # A replacement in several steps is reported once.
        if step.op in GONE - {"create-replacement"}:
            yield Catch(rail=Rail.VIP, reason=f"{step.name} ({step.type}) is deleted or replaced: its address is lost")
        elif step.changes("fixedIps") and (change := _address_change(step)):
            yield Catch(rail=Rail.VIP, reason=f"{step.name} changes its address: {change}")
        elif step.changes("portId") and step.inputs.get("portId") != preview.vip_port.id:
            yield Catch(
                rail=Rail.VIP, reason=f"{step.name} is detached from the VIP's port: its address no longer leads there"
            )
    rules = [step for step in preview.steps if step.type == RULE]
    if _admit_vrrp(step.old for step in rules) - _admit_vrrp(step.new for step in rules):
        reason = "the load balancers' security group is replaced or no longer admits VRRP: both would take the VIP"
        yield Catch(rail=Rail.VIP, reason=reason)


def _admit_vrrp(rules: Iterable[_State | None]) -> set[str]:
    """Ids of the security groups that admit VRRP."""
    return {rule.inputs.get("securityGroupId", "") for rule in rules if rule and rule.inputs.get("protocol") in VRRP}


def _address_change(step: _Step) -> str | None:
    every: list[str] = step.old.outputs.get("allFixedIps", []) if step.old else []
    # Neutron adds IPv6 addresses by itself, and nobody uses them.
    had = [address for address in every if ":" not in address]
    chosen = [it.get("ipAddress") for it in step.inputs.get("fixedIps", [])]
    # Writing down the address that Neutron picked is no change.
    return None if chosen == had else f"{', '.join(had)} to {', '.join(it or 'what Neutron picks' for it in chosen)}"


def _control_plane_majority(preview: _Preview) -> Iterator[Catch]:
    instances = [it for it in preview.steps if it.role == Role.CONTROL_PLANE and it.type == INSTANCE and it.old]
    members = {step.name for step in instances}
    stopped = sorted({step.name for step in instances if step.stops})
    if len(stopped) > max(len(members) - 1, 0) // 2:
        reason = (
            f"{', '.join(stopped)}: {len(stopped)} of the control plane's {len(members)} members are stopped, resized, "
            f"replaced or deleted in one run, and etcd needs {len(members) // 2 + 1} of them: change one at a time"
        )
        yield Catch(rail=Rail.CONTROL_PLANE_MAJORITY, reason=reason)


def _open(preview: _Preview) -> Iterator[Catch]:
    for step in preview.steps:
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
