"""The faults of a drill, and how each is undone, by this program or by the host itself.

Every `undo` may be called at any time and any number of times: it searches for what its fault leaves behind. A fault
that is on a host is also undone by a systemd timer there, in case this program does not come back.
"""

import asyncio
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from ipaddress import IPv4Address
from typing import ClassVar

import asyncssh

from model.timers import Profile
from model.topology import API_PORT
from operate.hosts.netfilter import NFT
from operate.hosts.pair import Pair
from operate.hosts.report import PairReport
from operate.hosts.ssh import HostError, failure_of, output
from operate.measured import FLOATING_IP, interruption, measurements
from operate.probe import PATH
from operate.stack.applied import AppliedStack
from operate.stack.resources import recorded_ids

UNDONE_BY_HOST_SECONDS = 30
"""After this time a host undoes a fault by itself; a drill leaves it in place for less."""
UNIT = "ha-api-drill"
TABLE = "inet ha_api_drill"
LISTENERS = f"ss -Hltnp 'sport = :{API_PORT}' | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u"


class FaultName(StrEnum):
    """Named as on the bench, if it has them."""

    HAPROXY_KILLED = "haproxy-killed"
    KEEPALIVED_KILLED = "keepalived-killed"
    INSTANCE_STOPPED = "instance-stopped"
    PARTITION = "partition"
    API_HUNG = "api-hung"
    CONTROL_PLANE_STOPPED = "control-plane-stopped"
    CONTROL_PLANE_CUT_OFF = "control-plane-cut-off"
    ETCD_KILLED = "etcd-killed"


class Site:
    """The hosts of a stack that a drill works on, and the load balancers' instances."""

    def __init__(self, stack: AppliedStack, patience: float = 10) -> None:
        self.outputs = stack.outputs
        self.pair = Pair(stack.outputs, recorded_ids(stack.name), stack.configuration.cloud())
        self.profile = stack.settings.failover_profile
        self._load_balancers = replace(stack.access, patience=patience)
        self._control_plane = replace(self._load_balancers, user=stack.settings.control_plane_user)

    def run(self, host: str, script: str, about_to: Callable[[], None] = lambda: None) -> str:
        """Run a script as root and return its output; `about_to` is called just before. HostError if it fails."""
        is_load_balancer = host in self.outputs.load_balancers
        access = self._load_balancers if is_load_balancer else self._control_plane
        address = (self.outputs.load_balancers if is_load_balancer else self.outputs.control_plane)[host]

        async def log_in_and_run() -> str:
            async with access.connect(address) as connection:
                about_to()
                return await output(connection, "sudo -n bash -s", f"set -euo pipefail\n{script}\n".encode())

        try:
            return asyncio.run(log_in_and_run())
        except (OSError, asyncssh.Error) as error:
            raise HostError(f"{host}: {failure_of(error)}") from error


class DrillFault(ABC):
    """One fault. It calls `about_to` just before it strikes."""

    name: ClassVar[str]
    title: ClassVar[str]
    on_bench: ClassVar[str | None] = None
    """The fault of the bench that is like it, if it has another name."""
    notice: ClassVar[str]
    """What else clients notice."""
    way_back: ClassVar[str]
    """How it is undone."""
    seconds: ClassVar[float] = 0.5
    """The least time that it is left in place."""
    asks: ClassVar[str] = PATH
    """The path that the drill's requests read."""

    def __init__(self, site: Site) -> None:
        self.site = site

    @property
    def expected(self) -> str:
        """The longest interruption to expect on this stack's path: through a router it is not the same."""
        worst = self.worst()
        direct = "not measured with this profile" if worst is None else interruption(worst)
        if not self.site.outputs.floating_ip:
            return direct
        routed = measurements().on_lab(self.name, FLOATING_IP) if self.site.profile is Profile.DEFAULT else None
        return interruption(routed.interruption.worst) if routed else f"{direct}, more through a router (not measured)"

    def worst(self) -> float | None:
        """The worst longest interruption on the bench, in seconds; None if it was not measured with this profile."""
        summary = measurements().summary(self.on_bench or self.name, self.site.profile)
        return summary.interruption.worst if summary else None

    def host(self, report: PairReport) -> str:
        """The host it strikes: the holder, in a healthy pair."""
        return next(iter(report.holders))

    def obstacle(self, report: PairReport) -> str | None:  # noqa: ARG002 - most have none
        """Why it cannot be injected here; None if it can."""
        return None

    @abstractmethod
    def inflict(self, host: str, about_to: Callable[[], None]) -> None:
        """Inject it."""

    def in_effect(self, host: str) -> bool:  # noqa: ARG002 - most are at once
        """Whether it has taken effect."""
        return True

    def undo(self, host: str) -> str | None:  # noqa: ARG002 - some are undone by systemd
        """Undo it on a host; what was done, or None if there was nothing to do."""
        return None

    def places(self) -> Iterable[str]:
        """Every host on which it may have been left."""
        return self.site.outputs.load_balancers


class HAProxyKilled(DrillFault):
    """SIGKILL to all of HAProxy."""

    name = FaultName.HAPROXY_KILLED
    title = "HAProxy is killed"
    notice = "the VIP moves, and connections through it are cut"
    way_back = "systemd restarts it at once"

    def inflict(self, host: str, about_to: Callable[[], None]) -> None:
        """All processes of its unit, and no other HAProxy on this host."""
        self.site.run(host, "systemctl kill --signal=KILL haproxy", about_to)


class KeepalivedKilled(DrillFault):
    """SIGKILL to all of keepalived."""

    name = FaultName.KEEPALIVED_KILLED
    title = "keepalived is killed"
    notice = "the VIP moves, and connections through it are cut"
    way_back = "systemd restarts it after the peer has taken over"

    def inflict(self, host: str, about_to: Callable[[], None]) -> None:
        """All processes of its unit."""
        self.site.run(host, "systemctl kill --signal=KILL keepalived", about_to)


class InstanceStopped(DrillFault):
    """The instance is shut down through Nova: keepalived stops cleanly and sends priority 0."""

    name = FaultName.INSTANCE_STOPPED
    title = "its instance is stopped through Nova"
    on_bench: ClassVar = "keepalived-stopped"
    notice = "the VIP moves; open connections have 30 s to end; there is no standby until the instance has booted"
    way_back = "it is started through Nova; if this machine dies, run `./ha drill --undo`"

    def inflict(self, host: str, about_to: Callable[[], None]) -> None:
        """Only request it: Nova takes a while, in which the drill can be interrupted."""
        about_to()
        self.site.pair.ask_to_stop(host)

    def in_effect(self, host: str) -> bool:
        """Whether Nova has it as SHUTOFF."""
        return self.site.pair.instance(host).status == "SHUTOFF"

    def undo(self, host: str) -> str | None:
        """Start it."""
        return f"{host}: its instance was started" if self.site.pair.start(host) else None


class Partition(DrillFault):
    """VRRP between the load balancers is dropped, both ways, by an nftables table of our own."""

    name = FaultName.PARTITION
    title = "VRRP to its peer is cut"
    notice = "two holders until it is undone; connections are cut when one of them gives the VIP up"
    way_back = f"the table is removed; if this machine dies, the host removes it after {UNDONE_BY_HOST_SECONDS} s"
    seconds = 8.0

    def obstacle(self, report: PairReport) -> str | None:
        """Python's nftables, which firewalld installs."""
        try:
            self.site.run(self.host(report), "python3 -c 'import nftables'")
        except HostError as error:
            return f"it needs Python's nftables: {error}"
        return None

    def inflict(self, host: str, about_to: Callable[[], None]) -> None:
        """The timer first: without it the fault is not injected."""
        peer = IPv4Address(self.site.outputs.load_balancers[self.site.pair.peer_of(host)])
        hook = "{{ type filter hook {} priority raw; ip {} {} ip protocol vrrp drop; }}"
        chains = f"chain in {hook.format('input', 'saddr', peer)}; chain out {hook.format('output', 'daddr', peer)}"
        undo_later = _timer(f"{NFT} 'delete table {TABLE}'")
        rules = f"table {TABLE} {{ {chains}; }}"
        self.site.run(host, f"{undo_later}\n{NFT} {shlex.quote(rules)}", about_to)

    def undo(self, host: str) -> str | None:
        """Remove the table and the timer."""
        there = f"{NFT} 'list table {TABLE}' 2>/dev/null"
        remove = f"{NFT} 'delete table {TABLE}'; echo VRRP is no longer dropped"
        return _done(host, self.site.run(host, f"if {there}; then {remove}; fi\n{_NO_TIMER}"))


class ApiHung(DrillFault):
    """The process on an API server's port is stopped (SIGSTOP); the kernel still accepts connections for it."""

    name = FaultName.API_HUNG
    title = "its API server is stopped (SIGSTOP)"
    notice = "its requests fail until a health check takes it out"
    way_back = f"it is continued (SIGCONT); if this machine dies, the host does that after {UNDONE_BY_HOST_SECONDS} s"
    seconds = 8.0

    def host(self, report: PairReport) -> str:
        """The first API server of the stack's own that both load balancers have up; empty if there is none."""
        return next((name for name in _up(report) if name in self.places()), "")

    def obstacle(self, report: PairReport) -> str | None:
        """It needs a second API server that is up, and SSH to this one."""
        if len(_up(report)) < 2:
            return f"it needs two API servers that are up; there are {len(_up(report))}"
        host = self.host(report)
        if not host:
            return "no API server that is up runs on a host of this stack"
        try:
            self.site.run(host, LISTENERS)
        except HostError as error:
            return f"no process listens on port {API_PORT}: {error}"
        return None

    def inflict(self, host: str, about_to: Callable[[], None]) -> None:
        """The timer first."""
        script = f"pids=$({LISTENERS})\n{_timer('kill -CONT $pids')}\nkill -STOP $pids"
        self.site.run(host, script, about_to)

    def undo(self, host: str) -> str | None:
        """Continue the process if it is stopped."""
        proceed = "kill -CONT $pid; echo process $pid continues"
        look = f"for pid in $({LISTENERS}); do if grep -q '^State:.T' /proc/$pid/status; then {proceed}; fi; done"
        return _done(host, self.site.run(host, f"{look}\n{_NO_TIMER}"))

    def places(self) -> Iterable[str]:
        """The control plane."""
        return self.site.outputs.control_plane


class OfEtcdsLeader(DrillFault):
    """A fault of the control-plane host with etcd's leader, whose loss costs most; etcd keeps its majority."""

    # An API server that stops fails /readyz while it goes on answering. Strangers get 401 here, which is an answer.
    asks = "/version"

    def worst(self) -> float | None:
        """The same in drills of a real cluster, which were all with the profile `default`."""
        spread = measurements().drill.get(self.name) if self.site.profile is Profile.DEFAULT else None
        return spread.worst if spread else None

    def host(self, report: PairReport) -> str:
        """The leader's; empty if there is none."""
        members = report.cluster.members if report.cluster else []
        return next((member.name for member in members if member.health == "leader"), "")

    def obstacle(self, report: PairReport) -> str | None:
        """It needs a cluster of the program's, and a majority of etcd members without this one."""
        if not report.cluster:
            return "the program did not create the cluster"
        if not self.host(report):
            return "etcd has no leader"
        members = report.cluster.members
        healthy = [member for member in members if member.kind == "voter" and member.health != "unhealthy"]
        if len(healthy) - 1 <= len(members) // 2:
            return f"etcd would lose its majority: {len(healthy)} of {len(members)} members are healthy"
        return None

    def places(self) -> Iterable[str]:
        """The control plane."""
        return self.site.outputs.control_plane if self.site.outputs.kubernetes_version else ()


class ControlPlaneStopped(OfEtcdsLeader, InstanceStopped):
    """The instance is shut down through Nova: API server and etcd stop gracefully."""

    name = FaultName.CONTROL_PLANE_STOPPED
    title = "its instance, with etcd's leader, is stopped through Nova"
    notice = "connections to its API server are closed, after another etcd member has become the leader"


class ControlPlaneCutOff(OfEtcdsLeader):
    """The host sends and receives nothing but SSH, by a chain of iptables of our own."""

    name = FaultName.CONTROL_PLANE_CUT_OFF
    title = "the host, with etcd's leader, is cut off"
    notice = "nothing can be written until etcd has elected a leader; connections to its API server are closed"
    way_back = f"the chain is removed; if this machine dies, the host removes it after {UNDONE_BY_HOST_SECONDS} s"
    seconds = 8.0

    def inflict(self, host: str, about_to: Callable[[], None]) -> None:
        """The timer first."""
        pass_on = "\n".join(f"iptables -w -A {CHAIN} {it} -j RETURN" for it in _STILL_PASSES)
        enter = f"for hook in INPUT OUTPUT FORWARD; do iptables -w -I $hook -j {CHAIN}; done"
        undo_later = _timer(f"bash -c {shlex.quote(_REMOVE_CHAIN)}")
        script = f"{undo_later}\niptables -w -N {CHAIN}\n{pass_on}\niptables -w -A {CHAIN} -j DROP\n{enter}"
        self.site.run(host, script, about_to)

    def undo(self, host: str) -> str | None:
        """Remove the chain and the timer."""
        remove = f"{_REMOVE_CHAIN}; echo the network is back"
        there = f"iptables -w -S {CHAIN} >/dev/null 2>&1"
        return _done(host, self.site.run(host, f"if {there}; then {remove}; fi\n{_NO_TIMER}"))


class EtcdKilled(OfEtcdsLeader):
    """SIGKILL to etcd."""

    name = FaultName.ETCD_KILLED
    title = "etcd, the leader, is killed"
    notice = "nothing can be written until etcd has elected a leader"
    way_back = "its kubelet restarts it at once"

    def inflict(self, host: str, about_to: Callable[[], None]) -> None:
        """The process of the static pod."""
        self.site.run(host, f"kill -KILL $({_PID_OF_ETCD})", about_to)


DRILL_FAULTS: Mapping[str, type[DrillFault]] = {
    fault.name: fault
    for fault in (
        *(HAProxyKilled, KeepalivedKilled, InstanceStopped, Partition, ApiHung),
        *(ControlPlaneStopped, ControlPlaneCutOff, EtcdKilled),
    )
}
"""In the order in which a drill injects them."""

CHAIN = "HA-API-DRILL"
# Of the static pod: other pods may run an etcd, too.
_PID_OF_ETCD = "crictl inspect --output go-template --template '{{.info.pid}}' $(crictl ps --quiet --name '^etcd$')"
_STILL_PASSES = ("-i lo", "-o lo", "-p tcp --dport 22", "-p tcp --sport 22")
_REMOVE_CHAIN = (
    f"for hook in INPUT OUTPUT FORWARD; do iptables -w -D $hook -j {CHAIN} 2>/dev/null || true; done; "
    f"iptables -w -F {CHAIN}; iptables -w -X {CHAIN}"
)

_NO_TIMER = f"systemctl stop {UNIT}.timer 2>/dev/null || true"


def _timer(command: str) -> str:
    """A script that has the host run a command later."""
    when = f"--on-active={UNDONE_BY_HOST_SECONDS} --timer-property=AccuracySec=100ms"
    return f"{_NO_TIMER}\nsystemd-run --quiet --collect --unit={UNIT} {when} {command}"


def _done(host: str, text: str) -> str | None:
    return f"{host}: {', '.join(text.splitlines())}" if text else None


def _up(report: PairReport) -> list[str]:
    """The API servers that every load balancer has up."""
    seen = [host.state.haproxy.api_servers for host in report.hosts.values() if host.state]
    return [name for name in seen[0] if all(name in it and it[name].state == "UP" for it in seen)] if seen else []
