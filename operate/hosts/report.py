"""What is wrong with a pair: its state compared with what was applied. Pure; no I/O."""

import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from pydantic import BaseModel, computed_field

from model.load_balancers import LOAD_BALANCER_FILES
from operate.hosts.cluster import ClusterReport
from operate.hosts.state import HAProxy, HostState, InstalledFile, Interface

OWNER = "root:root"
KEEPALIVED_CONF = "etc/keepalived/keepalived.conf"
PARTICIPATING = ("MASTER", "BACKUP")
CERTIFICATE_TIME_LEFT = timedelta(days=14)
"""On bare hosts kubeadm's last a year, and only an upgrade or a command renews them; two weeks leave time for that."""
DISK_SHARE_LEFT = 0.05
"""Least free share of a file system; with less, the next change may not fit. ext4's reserve for root is not counted."""
CLOCK_SECONDS = 2.0
"""Hosts with NTP differ by milliseconds; with more, times in two logs cannot be compared."""


class DriftKind(StrEnum):
    """How a file differs from what Pulumi applied last."""

    MISSING = "missing"
    EDITED = "edited manually"
    OLDER = "older than what was applied"
    """It is the host's last proven copy: a snapshot was restored, or a change was rolled back."""
    FAILED = "left by a failed run"
    RENAMED = "out of date: its interface was renamed"
    MODE = "mode or owner changed"


class Drift(BaseModel):
    """A file that differs from what was applied."""

    path: str
    kind: DriftKind
    detail: str


class HostReport(BaseModel):
    """One load balancer; `state` is None if it is unavailable, and the first problem says why."""

    address: str
    state: HostState | None
    problems: list[str]
    drift: list[Drift]
    notes: list[str] = []
    """Worth knowing, but nothing is wrong."""


class PairReport(BaseModel):
    """The pair."""

    stack: str
    hosts: dict[str, HostReport]
    problems: list[str]
    """Troubles of the pair, not of one host."""
    cluster: ClusterReport | None = None
    """The cluster behind the pair; None for bare hosts, and where nobody has looked."""

    @computed_field
    @property
    def holders(self) -> dict[str, datetime | None]:
        """The load balancers that hold the VIP (one, if nothing is wrong), and since when, if keepalived knows."""
        return {
            name: host.state.vrrp.since if host.state.vrrp and host.state.vrrp.state == "MASTER" else None
            for name, host in self.hosts.items()
            if host.state and host.state.holds_vip
        }

    @computed_field
    @property
    def certificates(self) -> dict[str, datetime]:
        """When each API server's certificate expires, or its CA if that comes first, by name.

        The earliest date that a load balancer sees.
        """
        found: dict[str, datetime] = {}
        for state in (host.state for host in self.hosts.values() if host.state):
            for name, certificate in state.certificates.items():
                if certificate.expires:
                    # kubeadm issues certificates that outlive their CA.
                    dates = (certificate.expires, state.ca_expires, found.get(name))
                    found[name] = min(date for date in dates if date)
        return found

    @computed_field
    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        if self.cluster and self.cluster.problems:
            return False
        return not self.problems and not any(host.problems or host.drift for host in self.hosts.values())

    @property
    def left_by_failed_run(self) -> bool:
        """Whether a step failed: Pulumi has no record of it, so a plain `up` repeats it, and must come first."""
        return any(it.kind is DriftKind.FAILED for host in self.hosts.values() for it in host.drift)

    @computed_field
    @property
    def remedy(self) -> str | None:
        """The command that restores all files that differ, or that repeats a failed run; None without drift."""
        drifted = [name for name, host in self.hosts.items() if host.drift]
        if not drifted:
            return None
        if self.left_by_failed_run:
            return f"pulumi up --stack {shlex.quote(self.stack)}"
        # `prepare` finds the interface; `prove` checks the pair, whichever host was configured.
        renamed = [name for name in drifted if any(it.kind is DriftKind.RENAMED for it in self.hosts[name].drift)]
        steps = [f"{name}-prepare" for name in renamed] + [f"{name}-configure" for name in drifted]
        steps += [f"{name}-prove" for name in self.hosts]
        replaced = " ".join(f"--replace {shlex.quote(f'**::{step}')}" for step in steps)
        return f"pulumi up --stack {shlex.quote(self.stack)} {replaced}"


def compare_with_applied(
    stack: str,
    addresses: Mapping[str, str],
    digests: Mapping[str, Mapping[str, str]],
    states: Mapping[str, HostState | str],
    instances: Mapping[str, str] = MappingProxyType({}),
) -> PairReport:
    """Compare the hosts' states (or why one is unavailable) with the digests that were applied.

    `instances` is the cloud's view of hosts that are down, by name (operate/hosts/instance.py).
    """
    hosts: dict[str, HostReport] = {}
    # On a network without a gateway neither has one.
    routed = any(isinstance(it, HostState) and it.default_route for it in states.values())
    for name, address in addresses.items():
        found = states[name]
        if isinstance(found, str):
            problems = [f"not reachable: {found}"] + ([instances[name]] if name in instances else [])
            hosts[name] = HostReport(address=address, state=None, problems=problems, drift=[])
            continue
        drift = [*_drift(digests.get(name, {}), found.files), *_renamed(found.interface)]
        hosts[name] = HostReport(
            address=address,
            state=found,
            problems=[*_problems(found, routed=routed)],
            drift=drift,
            notes=[*_notes(found)],
        )
    report = PairReport(stack=stack, hosts=hosts, problems=[])
    if len(report.holders) > 1:
        report.problems.append(f"two holders of the VIP: {', '.join(report.holders)}; VRRP does not pass between them")
    elif not report.holders and all(host.state for host in hosts.values()):
        report.problems.append("no load balancer holds the VIP")
    if report.certificates:
        # Any host's clock will do; a certificate was read on some host.
        now = max(host.state.time for host in hosts.values() if host.state)
        report.problems.extend(_certificate_problems(report.certificates, now))
    return report


def _certificate_problems(certificates: Mapping[str, datetime], now: datetime) -> Iterator[str]:
    for name, expires in certificates.items():
        left = expires - now
        if left < CERTIFICATE_TIME_LEFT:
            when = f"expires in {left.days} days" if left > timedelta(0) else "has expired"
            yield (
                f"the certificate of API server {name} {when} ({expires:%Y-%m-%d %H:%M:%S} UTC): run "
                "`sudo kubeadm certs renew all` there, and restart the control plane's static pods; if the date stays, "
                "it is that of the CA, see docs/monitoring.md#certificateexpiressoon"
            )


def _drift(applied: Mapping[str, str], found: Mapping[str, InstalledFile | None]) -> Iterator[Drift]:
    for path, digest in applied.items():
        file = found.get(path)
        known = LOAD_BALANCER_FILES.get(path)
        if file is None:
            yield Drift(path=path, kind=DriftKind.MISSING, detail="")
        elif file.digest != digest:
            kind = DriftKind.OLDER if file.digest == file.proven_digest else DriftKind.EDITED
            if kind is DriftKind.EDITED and file.digest == file.staged_digest:
                kind = DriftKind.FAILED
            yield Drift(path=path, kind=kind, detail=f"at {file.changed:%Y-%m-%d %H:%M:%S} UTC")
        elif known is not None and (file.mode, file.owner) != (known.mode, OWNER):
            detail = f"{file.mode:04o} {file.owner} instead of {known.mode:04o} {OWNER}"
            yield Drift(path=path, kind=DriftKind.MODE, detail=detail)


def _renamed(interface: Interface | None) -> Iterator[Drift]:
    # New hardware, or another kind of virtual hardware: ens3 becomes enp3s0.
    if interface and interface.name and interface.configured and interface.name != interface.configured:
        yield Drift(
            path=KEEPALIVED_CONF, kind=DriftKind.RENAMED, detail=f"{interface.name} instead of {interface.configured}"
        )


def _problems(state: HostState, *, routed: bool) -> Iterator[str]:
    # A drained load balancer does not run keepalived, and nothing is wrong with that.
    vrrp = None if state.drained else state.vrrp
    services = {name: it for name, it in state.services.items() if not (state.drained and name == "keepalived")}
    for name, service in services.items():
        if service.state != "active":
            yield f"{name} is {service.state}: `systemctl status {name}`"
        elif not service.enabled:
            yield f"{name} does not start at boot: `sudo systemctl enable {name}`"
    haproxy = state.haproxy
    if not haproxy.alive:
        yield "HAProxy does not answer /healthz: `journalctl -u haproxy`"
    elif haproxy.configuration_id != haproxy.configured_id:
        yield (
            f"HAProxy runs the configuration {haproxy.configuration_id}, but the file has {haproxy.configured_id}: it "
            "was not reloaded, or refused the file: `journalctl -u haproxy`"
        )
    yield from _servers_down(haproxy)
    if routed and not state.default_route:
        yield (
            "it has no default route, and its peer has one: clients outside the subnet get no answer through it: "
            "`ip route`, `journalctl -u systemd-networkd`; a reboot has DHCP set it again"
        )
    for path, disk in state.disks.items():
        if min(disk.free / disk.size, disk.free_inodes) < DISK_SHARE_LEFT:
            yield (
                f"{path} is nearly full ({disk.free // 2**20} MiB and {disk.free_inodes:.0%} of the inodes free): "
                "the next `pulumi up` may fail: `sudo journalctl --vacuum-size=100M`, `sudo apt-get clean`"
            )
    expected = "MASTER" if state.holds_vip else "BACKUP"
    if vrrp and vrrp.state not in PARTICIPATING:
        yield f"keepalived does not take part in the election: it is {vrrp.state}: `journalctl -u keepalived`"
    elif vrrp and vrrp.state != expected:
        holding = "holds" if state.holds_vip else "does not hold"
        yield f"keepalived is {vrrp.state}, but the host {holding} the VIP: `journalctl -u keepalived`"


def _servers_down(haproxy: HAProxy) -> Iterator[str]:
    servers = {f"API server {name}": server for name, server in haproxy.api_servers.items()}
    for frontend, its in haproxy.frontends.items():
        servers |= {f"server {name} of frontend {frontend}": server for name, server in its.items()}
    for title, server in servers.items():
        if server.state != "UP":
            yield f"{title} is {server.state} ({server.check}) since {server.since:%Y-%m-%d %H:%M:%S} UTC"


def _notes(state: HostState) -> Iterator[str]:
    reboot = state.reboot
    if reboot.required:
        yield f"reboot required ({', '.join(reboot.packages) or 'packages were updated'})"
    elif reboot.newer_kernel:
        yield f"reboot required: runs kernel {state.versions.kernel}, and {reboot.newer_kernel} is installed"
    if abs(state.clock_difference) > CLOCK_SECONDS:
        side = "ahead of" if state.clock_difference > 0 else "behind"
        yield f"its clock is {abs(state.clock_difference):.1f} s {side} this machine's: `timedatectl` on both"
    if state.drained:
        yield f"drained by {state.drained_by}: `./ha resume` brings it back"
    if state.handover:
        yield (
            f"{state.handover.connections} connections continue through it after it has given the VIP up, for up to "
            f"{state.handover.seconds_left} s"
        )
    if state.locked_by is not None:
        yield f"in use by {state.locked_by}"
