"""What is wrong with a pair of load balancers: their state, compared with what was applied. Pure; no I/O."""

import shlex
from collections.abc import Iterator, Mapping
from enum import StrEnum

from pydantic import BaseModel, computed_field

from model.rendering import LOAD_BALANCER_FILES
from operate.load_balancer import HostState, InstalledFile

OWNER = "root:root"
PARTICIPATING = ("MASTER", "BACKUP")


class DriftKind(StrEnum):
    """How a file differs from what Pulumi applied last."""

    MISSING = "missing"
    EDITED = "edited by hand"
    OLDER = "older than what was applied"
    """It is what was last proven on the host: a snapshot was restored, or a change was put back."""
    MODE = "mode or owner changed"


class Drift(BaseModel):
    """One file that is not as it was applied."""

    path: str
    kind: DriftKind
    detail: str


class HostReport(BaseModel):
    """One load balancer; `state` is None where it could not be had, and the first trouble says why."""

    address: str
    state: HostState | None
    troubles: list[str]
    drift: list[Drift]


class Report(BaseModel):
    """The pair."""

    stack: str
    hosts: dict[str, HostReport]
    troubles: list[str]
    """Of the pair, not of one host."""

    @computed_field
    @property
    def whole(self) -> bool:
        """Nothing is wrong."""
        return not self.troubles and not any(host.troubles or host.drift for host in self.hosts.values())

    @computed_field
    @property
    def remedy(self) -> str | None:
        """The command that puts all drift right; None without drift."""
        drifted = [name for name, host in self.hosts.items() if host.drift]
        if not drifted:
            return None
        # The proof is of the pair, whichever was configured.
        steps = [f"{name}-configure" for name in drifted] + [f"{name}-prove" for name in self.hosts]
        replaced = " ".join(f"--replace {shlex.quote(f'**::{step}')}" for step in steps)
        return f"pulumi up --stack {shlex.quote(self.stack)} {replaced}"


def examine(
    stack: str,
    addresses: Mapping[str, str],
    digests: Mapping[str, Mapping[str, str]],
    states: Mapping[str, HostState | str],
) -> Report:
    """Compare what was found on the hosts (or why nothing was) with the digests that were applied."""
    hosts: dict[str, HostReport] = {}
    for name, address in addresses.items():
        found = states[name]
        if isinstance(found, str):
            hosts[name] = HostReport(address=address, state=None, troubles=[f"not reachable: {found}"], drift=[])
            continue
        drift = [*_drift(digests.get(name, {}), found.files)]
        hosts[name] = HostReport(address=address, state=found, troubles=[*_troubles(found)], drift=drift)
    holders = [name for name, host in hosts.items() if host.state and host.state.holds_vip]
    troubles: list[str] = []
    if len(holders) > 1:
        troubles.append(f"all of these hold the VIP: {', '.join(holders)}; VRRP does not pass between them")
    elif not holders and all(host.state for host in hosts.values()):
        troubles.append("no load balancer holds the VIP")
    return Report(stack=stack, hosts=hosts, troubles=troubles)


def _drift(applied: Mapping[str, str], found: Mapping[str, InstalledFile | None]) -> Iterator[Drift]:
    for path, digest in applied.items():
        file = found.get(path)
        mode = LOAD_BALANCER_FILES.get(path)
        if file is None:
            yield Drift(path=path, kind=DriftKind.MISSING, detail="")
        elif file.digest != digest:
            kind = DriftKind.OLDER if file.digest == file.proven_digest else DriftKind.EDITED
            yield Drift(path=path, kind=kind, detail=f"at {file.changed:%Y-%m-%d %H:%M:%S} UTC")
        elif mode is not None and (file.mode, file.owner) != (mode, OWNER):
            detail = f"{file.mode:04o} {file.owner} instead of {mode:04o} {OWNER}"
            yield Drift(path=path, kind=DriftKind.MODE, detail=detail)


def _troubles(state: HostState) -> Iterator[str]:
    for name, service in state.services.items():
        if service.state != "active":
            yield f"{name} is {service.state}: `systemctl status {name}`"
        elif not service.enabled:
            yield f"{name} does not start at boot: `sudo systemctl enable {name}`"
    haproxy = state.haproxy
    if not haproxy.alive:
        yield "HAProxy does not answer /healthz: `journalctl -u haproxy`"
    elif haproxy.configuration_id != haproxy.configured_id:
        yield (
            f"HAProxy answers with the configuration {haproxy.configuration_id}, and the file has "
            f"{haproxy.configured_id}: it was not reloaded, or refused it: `journalctl -u haproxy`"
        )
    for name, server in haproxy.api_servers.items():
        if server.state != "UP":
            yield f"API server {name} is {server.state} ({server.check}) since {server.since:%Y-%m-%d %H:%M:%S} UTC"
    wanted = "MASTER" if state.holds_vip else "BACKUP"
    if state.vrrp and state.vrrp.state not in PARTICIPATING:
        yield f"keepalived takes no part in the election: it is {state.vrrp.state}: `journalctl -u keepalived`"
    elif state.vrrp and state.vrrp.state != wanted:
        holding = "holds" if state.holds_vip else "does not hold"
        yield f"keepalived is {state.vrrp.state}, and the host {holding} the VIP: `journalctl -u keepalived`"
