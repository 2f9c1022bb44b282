"""What a preview must not do in passing: rails around the changes that take the API or its address away.

A check of `pulumi preview --json` (docs/adr/0029). Who means such a change allows it by the rail's name, for that run.
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
"""The engine's steps after which a resource is not the one that it was; a replacement is shown as one or as several."""
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""What the engine writes for a value that only the run itself will tell."""
VRRP = {"112", "vrrp"}
WORLD = 8
"""A network with a prefix shorter than this is nobody's own."""


class Rail(StrEnum):
    """A rail's name, as it is allowed by."""

    BOTH_LOAD_BALANCERS = "both-load-balancers"
    VIP = "vip"
    CONTROL_PLANE_MAJORITY = "control-plane-majority"
    OPEN_TO_THE_WORLD = "open-to-the-world"


class Catch(BaseModel):
    """What a rail caught."""

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
        """Of an instance and of its port, which bears the same name: the role in it."""
        found = re.search(r"-([a-z]+)-\d+$", self.name)
        return found[1] if found and self.type in (INSTANCE, PORT) else None

    @property
    def wanted(self) -> dict[str, Any]:
        """What the program asks for; nothing for what is deleted."""
        return self.new.inputs if self.new else {}

    @property
    def stops(self) -> bool:
        """An instance that is deleted, replaced, resized, shut off or paused."""
        return (
            self.op in GONE
            or self.changes("flavorId")
            or (self.changes("powerState") and self.wanted.get("powerState") != "active")
        )

    def changes(self, key: str) -> bool:
        """Whether the resource stays, and has another value there or below it."""
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
        """As it was; empty where there was none."""
        found = (step.old for step in self.steps if VIRTUAL_IP in step.urn and step.type == PORT)
        return next(found, None) or _State()

    @property
    def complete(self) -> bool:
        """What stays as it is, is there as well."""
        return sum(step.op == "same" for step in self.steps) >= self.summary.get("same", 0)


def check_preview(preview: str) -> list[Catch]:
    """What the rails catch in the output of `pulumi preview --json --show-sames`.

    Raises StackError where that is none, or of a preview that failed: of the rest of it nothing is known.
    """
    try:
        parsed = _Preview.model_validate_json(preview)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise StackError(
            f"this is no output of `pulumi preview --json`: {where} {problem['msg']}; if Pulumi failed, it has said why"
        ) from None
    # At its end the engine says of a failed program, and of a failed preview, that it failed.
    repeated = ("error: preview failed", "error: an unhandled error occurred: program exited")
    errors = [it.message.strip() for it in parsed.diagnostics if it.severity == "error"]
    if errors:
        told = [message for message in errors if not message.startswith(repeated)] or errors
        raise StackError("the preview failed, so nothing can be said of it:\n" + "\n".join(dict.fromkeys(told)))
    if not parsed.complete:
        # How many members of the control plane stay is not to be known from the others.
        raise StackError("the preview lacks what does not change: write it with `--show-sames` (`make preview` does)")
    return [*_both_load_balancers(parsed), *_vip(parsed), *_control_plane_majority(parsed), *_open(parsed)]


def _both_load_balancers(preview: _Preview) -> Iterator[Catch]:
    pair = [step for step in preview.steps if step.role == Role.LOAD_BALANCER]
    stopped = {step.name for step in pair if step.stops or _denied(step, preview.vip_port)}
    # One that is made does not serve yet; that both are is a first deployment.
    away = sorted(stopped | {step.name for step in pair if step.op == "create"})
    if stopped and len(away) > 1:
        reason = (
            f"{' and '.join(away)} are stopped, replaced, deleted, made, or denied the VIP in one run: "
            "take one, look at it, then the other"
        )
        yield Catch(rail=Rail.BOTH_LOAD_BALANCERS, reason=reason)


def _denied(port: _Step, vip: _State) -> bool:
    """Whether Neutron would drop what comes from the VIP there."""
    pairs = port.wanted.get("allowedAddressPairs", [])
    # What only the run will tell is the address of another port of the VIP, and that one is caught as such.
    if not port.changes("allowedAddressPairs") or UNKNOWN in str(pairs):
        return False
    return not {it.get("ipAddress") for it in pairs} & set(vip.outputs.get("allFixedIps", []))


def _vip(preview: _Preview) -> Iterator[Catch]:
    for step in preview.steps:
        if VIRTUAL_IP not in step.urn or step.old is None:
            continue
        # Replaced in several steps, it is told once.
        if step.op in GONE - {"create-replacement"}:
            yield Catch(
                rail=Rail.VIP, reason=f"{step.name} ({step.type}) is deleted or replaced: its address goes away"
            )
        elif step.changes("fixedIps") and (change := _address_change(step)):
            yield Catch(rail=Rail.VIP, reason=f"{step.name} changes its address: {change}")
        elif step.changes("portId") and step.wanted.get("portId") != preview.vip_port.id:
            yield Catch(rail=Rail.VIP, reason=f"{step.name} is taken off the VIP's port: its address leads elsewhere")
    rules = [step for step in preview.steps if step.type == RULE]
    if _admit_vrrp(step.old for step in rules) - _admit_vrrp(step.new for step in rules):
        reason = "the load balancers' security group is another, or admits no VRRP any more: both take the VIP at once"
        yield Catch(rail=Rail.VIP, reason=reason)


def _admit_vrrp(rules: Iterable[_State | None]) -> set[str]:
    """The security groups that do, by id."""
    return {rule.inputs.get("securityGroupId", "") for rule in rules if rule and rule.inputs.get("protocol") in VRRP}


def _address_change(step: _Step) -> str | None:
    had: list[str] = step.old.outputs.get("allFixedIps", []) if step.old else []
    wanted = [it.get("ipAddress") for it in step.wanted.get("fixedIps", [])]
    # What Neutron had picked may be written down.
    return None if wanted == had else f"{', '.join(had)} to {', '.join(it or 'what Neutron picks' for it in wanted)}"


def _control_plane_majority(preview: _Preview) -> Iterator[Catch]:
    instances = [it for it in preview.steps if it.role == Role.CONTROL_PLANE and it.type == INSTANCE and it.old]
    members = {step.name for step in instances}
    stopped = sorted({step.name for step in instances if step.stops})
    if len(stopped) > max(len(members) - 1, 0) // 2:
        reason = (
            f"{', '.join(stopped)}: {len(stopped)} of the control plane's {len(members)} are stopped, resized, "
            f"replaced or deleted in one run, and etcd needs {len(members) // 2 + 1} of them: take one after another"
        )
        yield Catch(rail=Rail.CONTROL_PLANE_MAJORITY, reason=reason)


def _open(preview: _Preview) -> Iterator[Catch]:
    for step in preview.steps:
        if step.new is None or step.op not in ("create", "replace", "create-replacement", "update"):
            continue
        if step.new.inputs.get("portSecurityEnabled") is False:
            yield Catch(rail=Rail.OPEN_TO_THE_WORLD, reason=f"{step.name} has no security groups any more: all gets in")
        if step.type != RULE:
            continue
        rule = step.new.inputs
        if rule.get("direction") == "ingress" and _admits_everybody(rule):
            ports = f"{rule.get('protocol') or 'every protocol'} {rule.get('portRangeMin', '')}".strip()
            who = rule.get("remoteIpPrefix") or "everybody"
            reason = f"{step.name} admits {who} to {ports}: name the networks that need it"
            yield Catch(rail=Rail.OPEN_TO_THE_WORLD, reason=reason)


def _admits_everybody(rule: dict[str, Any]) -> bool:
    prefix = rule.get("remoteIpPrefix")
    if not prefix:
        # Neutron takes a rule that names neither a network nor a group for one that admits all.
        return not (rule.get("remoteGroupId") or rule.get("remoteAddressGroupId"))
    try:
        return ip_network(prefix, strict=False).prefixlen < WORLD
    except ValueError:  # what is known only later may be anything
        return True
