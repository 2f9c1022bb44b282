"""Work on one load balancer while its peer serves: move the VIP, drain and resume a load balancer, rebuild one."""

import shlex
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from model.topology import API_PORT
from operate.hosts.lock import Lock, hold_all, sign
from operate.hosts.netfilter import NFT
from operate.hosts.on_host import DRAINED, HANDOVER
from operate.hosts.pair import BOOT_SECONDS, Pair, PairError, wait_for
from operate.hosts.report import PARTICIPATING
from operate.hosts.ssh import HostError, on_all
from operate.hosts.state import Handover, HostState, collect
from operate.signals import uninterrupted
from operate.stack import engine
from operate.stack.applied import AppliedStack
from operate.stack.resources import INSTANCE, recorded_ids

# The peer takes over within milliseconds of priority 0; the rest is for a busy host to answer.
TAKE_OVER_SECONDS = 15.0
# Until health checks have found the API servers, and keepalived its state.
RETURN_SECONDS = 60.0
# Most requests are answered in less. A longer time makes more new connections wait: TCP sends a SYN again after one
# second (RFC 6298), and the new holder answers it.
HOLD_SECONDS = 0.1
HANDOVER_PROGRAM = "/usr/local/lib/ha-api/handover.py"
HELD = "inet ha_api_move"
"""The nftables table in which the holder drops new connections to the VIP during a move that cuts open ones."""

States = Mapping[str, HostState | str]


def holder_of(states: States) -> str | None:
    """The load balancer that holds the VIP; None if none is known to."""
    return next((name for name, state in states.items() if isinstance(state, HostState) and state.holds_vip), None)


def unfit(name: str, states: States) -> list[str]:
    """Why a load balancer cannot serve alone; empty if it can.

    It needs an API server or a default route only if its peer has one: otherwise there is nothing to lose.
    """
    state = states[name]
    if isinstance(state, str):
        return [f"not reachable: {state}"]
    if state.drained:
        return [f"it was drained by {state.drained_by}: `./ha resume {name}` brings it back"]
    found = [it for it in states.values() if isinstance(it, HostState)]
    needs_api_server = any(it.haproxy.ready for it in found)
    reasons = [f"{unit} is {service.state}" for unit, service in state.services.items() if service.state != "active"]
    if not state.haproxy.alive:
        reasons.append("HAProxy does not answer")
    elif needs_api_server and not state.haproxy.ready:
        reasons.append("its HAProxy has no API server")
    if not state.default_route and any(it.default_route for it in found):
        reasons.append("it has no default route, so clients outside the subnet would get no answer")
    if state.vrrp is None or state.vrrp.state not in PARTICIPATING:
        reasons.append(
            f"keepalived does not take part in the election ({state.vrrp.state if state.vrrp else 'no state'})"
        )
    return reasons


def insist(name: str, states: States) -> None:
    """PairError if a load balancer cannot serve alone."""
    reasons = unfit(name, states)
    if reasons:
        raise PairError(f"{name} cannot serve alone, so nothing was done: {'; '.join(reasons)}. See `./ha status`")


def insist_in_service(name: str, states: States) -> None:
    """PairError if a load balancer is drained: who did that relies on it, and a drain that fails would end it."""
    state = states[name]
    if isinstance(state, HostState) and state.drained:
        raise PairError(
            f"{name} is already drained by {state.drained_by}, so nothing was done: `./ha resume {name}` first"
        )


def partners(states: States) -> tuple[str, str]:
    """The holder and the standby; PairError if the standby could not take over at once."""
    holder = holder_of(states)
    if holder is None:
        raise PairError("no load balancer is known to hold the VIP, so nothing was done. See `./ha status`")
    peer = peer_of(holder, states)
    insist(peer, states)
    return holder, peer


def peer_of(name: str, states: Mapping[str, object]) -> str:
    """The other load balancer; PairError for an unknown name."""
    if name not in states:
        raise PairError(f"this stack has no load balancer {name}, only {' and '.join(states)}")
    (peer,) = states.keys() - {name}
    return peer


def hold_back(vip: str) -> str:
    """Rules for nftables that hold back new connections to the VIP; they may be applied again at any time."""
    # The set's element expires: even if this program and the shell on the host die, no client is held back for longer.
    return f"""
        add table {HELD}
        delete table {HELD}
        add table {HELD}
        add set {HELD} vip {{ type ipv4_addr; flags timeout; }}
        add chain {HELD} input {{ type filter hook input priority -300; }}
        add rule {HELD} input ip daddr @vip tcp dport {API_PORT} tcp flags & (syn | ack) == syn drop
        add element {HELD} vip {{ {vip} timeout 2s }}
    """


class Maintenance:
    """Work on the load balancers of a stack that is up.

    PairError for a refusal and for a time-out, HostError for a command that fails on a host.
    """

    def __init__(self, stack: AppliedStack) -> None:
        self._stack = stack
        self._addresses = stack.outputs.load_balancers
        self._lock = Lock()

    def states(self) -> States:
        """The states of both load balancers, without the lock: the operator may take long to answer a question."""
        return collect(self._stack)

    @contextmanager
    def alone(self, purpose: str, *, rebuilt: str | None = None) -> Generator[States]:
        """Hold the operators' lock while the context lasts; yields the states of both load balancers.

        A host that is down is not locked: its peer's lock is enough. Nor is a host that is to be rebuilt and cannot be
        locked.
        """
        states = self.states()
        up = {name: address for name, address in self._addresses.items() if isinstance(states[name], HostState)}
        with hold_all(self._stack.access, up, purpose, spared=rebuilt) as self._lock:
            # Again: the previous owner of the lock may have changed them.
            yield self.states()

    def insist_alone(self) -> None:
        """HostError if the lock was lost meanwhile. Before each change; what was changed is undone without it."""
        self._lock.check()

    def move(self, holder: str, peer: str, grace: int) -> str:
        """Move the VIP to the peer. Returns why open connections were cut; empty if they go on."""
        # One command, so that keepalived starts again even if this program dies.
        cut = self._change(holder, self._giving_away("systemctl restart keepalived", grace))
        self._wait_until_holds(peer)
        return cut

    def drain(self, name: str, peer: str, reason: str, grace: int) -> str:
        """Take a load balancer out of service until `resume`, also across reboots. Returns what `move` does."""
        try:
            self._change(name, shlex.join(["sh", "-c", f'echo "$0" >{DRAINED}', sign(reason)]))
            cut = self.stop_keepalived(name, peer, grace)
            # After the move: systemd reloads all units for it, which keeps the host busy for a moment.
            self._change(name, "systemctl disable keepalived")
        except BaseException:
            with uninterrupted():
                self._back(name)
            raise
        return cut

    def handover(self, name: str) -> Handover | None:
        """What goes on through a load balancer that has given the VIP up; None if nothing does, or none is left."""
        said = self._run(name, f"sh -c 'cat {HANDOVER} 2>/dev/null || true'")
        found = Handover.model_validate_json(said) if said else None
        return found if found and found.connections else None

    def wait_until_reachable(self, name: str) -> None:
        """Wait for a load balancer that is booting; PairError for an unknown name, HostError on a time-out."""
        peer_of(name, self._addresses)
        self._run(name, "true", patience=BOOT_SECONDS)

    def resume(self, name: str) -> None:
        """Bring a load balancer back, and wait until it could serve alone."""
        self.insist_alone()
        self._back(name)
        reasons: list[str] = []

        def fit() -> bool:
            reasons[:] = unfit(name, collect(self._stack))
            return not reasons

        try:
            wait_for(f"{name} is able to serve alone", fit, RETURN_SECONDS)
        except PairError as error:
            raise PairError(f"{error}: {'; '.join(reasons)}. See `./ha status`") from None

    def stop_keepalived(self, name: str, peer: str, grace: int) -> str:
        """Have a load balancer give up the VIP, if it holds it, and stay out of the election until it boots.

        Returns what `move` does.
        """
        cut = self._change(name, self._giving_away("systemctl stop keepalived", grace))
        self._wait_until_holds(peer)
        return cut

    def start_keepalived(self, name: str) -> None:
        """Have a load balancer take part in the election again, if it still exists."""
        with suppress(HostError):
            self._run(name, "systemctl start keepalived")

    def _wait_until_holds(self, peer: str) -> None:
        # keepalived sends priority 0 when it stops, and the peer takes over within milliseconds. Lowering the priority
        # instead costs more: for a moment there are two holders, and clients reach the wrong one.
        def holds() -> bool:
            return holder_of({peer: collect(self._stack)[peer]}) == peer

        wait_for(f"{peer} holds the VIP", holds, TAKE_OVER_SECONDS)

    def _giving_away(self, command: str, grace: int) -> str:
        """A script that has the peer pass open connections on, and then runs `command`, which gives up the VIP.

        It prints why they are cut. Then requests in progress end first, if they are quick, and new connections are
        answered a second later, by the new holder.
        """
        # If new connections cannot be held back, the VIP is moved nevertheless.
        hold = f"{NFT} {shlex.quote(hold_back(self._stack.outputs.vip))} && sleep {HOLD_SECONDS}"
        script = f"""
            cut=$(/usr/bin/python3 {HANDOVER_PROGRAM} --grace {grace} 2>&1) {"||" if grace else ";"} {{ {hold}; }}
            {command}
            status=$?
            {NFT} {shlex.quote(f"add table {HELD}; delete table {HELD}")}
            printf %s "$cut"
            exit $status
        """
        return shlex.join(["sh", "-c", script])

    def _back(self, name: str) -> None:
        self._run(name, f"rm -f {DRAINED}")
        self._run(name, "systemctl enable --now keepalived")

    def _change(self, name: str, command: str) -> str:
        self.insist_alone()
        return self._run(name, command)

    def _run(self, name: str, command: str, patience: float = 0) -> str:
        access = replace(self._stack.access, patience=patience)
        said: list[str] = []

        async def run(address: str) -> None:
            said.append(await access.run(address, f"sudo -n {command}"))

        on_all([self._addresses[name]], run)
        return said[0]


@dataclass(frozen=True, kw_only=True)
class Rebuild:
    """What a rebuild of a load balancer found, and will do."""

    name: str
    peer: str
    holds_vip: bool
    instances: tuple[str, ...]
    """Ids of all its instances in the cloud."""
    shown: str
    """The instances and their status, for the operator."""
    orphans: tuple[str, ...]
    """Ids of instances that are not in Pulumi's state: an `up` was cut off while it created them."""

    def is_within(self, agreed: "Rebuild") -> bool:
        """Whether it does no more than the plan that the operator agreed to.

        What a cut-off run left behind may have changed since: Nova has built it, it has booted, or it was deleted.
        """
        return (
            (self.peer, self.holds_vip) == (agreed.peer, agreed.holds_vip)
            and {*self.instances} <= {*agreed.instances}
            and {*self.orphans} <= {*agreed.orphans}
        )


def plan_rebuild(stack: AppliedStack, pair: Pair, name: str, states: States) -> Rebuild:
    """Check the host, the cloud and Pulumi's state; PairError if the peer does not serve."""
    peer = peer_of(name, states)
    insist(peer, states)
    state = states[name]
    holds = isinstance(state, HostState) and state.holds_vip
    if not holds and holder_of(states) != peer:
        raise PairError(f"{peer} does not hold the VIP, so nothing was done. See `./ha status`")
    known = recorded_ids(stack.name).get((INSTANCE, name))
    instances = pair.instances(name)
    for it in instances:
        if it.id != known and it.name != name:
            raise PairError(
                f"the port of {name} is plugged into {it.name} ({it.id}), which no `pulumi up` created, so nothing was "
                "done: unplug it (`openstack server remove port`), and run this again"
            )
    return Rebuild(
        name=name,
        peer=peer,
        holds_vip=holds,
        instances=tuple(it.id for it in instances),
        shown=", ".join(f"{it.status} ({it.id})" for it in instances) or "missing",
        orphans=tuple(it.id for it in instances if it.id != known),
    )


def replacement_command(stack: str, name: str) -> list[str]:
    """The `pulumi` arguments that re-create one load balancer and touch nothing else.

    With --refresh: an instance that was deleted manually is not deleted again.
    """
    return [
        *("up", "--stack", stack, "--suppress-outputs", "--refresh", "--target-replace", f"**:Instance::{name}"),
        *("--target", f"**:Port::{name}", "--target", f"**::{name}-*"),
    ]


def replace_instance(stack: str, name: str, *, ask: bool) -> None:
    """Re-create a load balancer; Pulumi shows its plan, and asks. StackError if it fails or the operator refuses."""
    _pulumi(stack, name, *replacement_command(stack, name), *([] if ask else ["--yes", "--skip-preview"]))


def insist_on_no_other_run(stack: str, name: str) -> None:
    """StackError while another `pulumi` works on the stack: its new instances are not in the state yet."""
    # The cheapest command that takes Pulumi's lock and changes nothing in the cloud.
    _pulumi(stack, name, "refresh", "--stack", stack, "--yes", "--skip-preview", "--target", f"**:Port::{name}")


def _pulumi(stack: str, name: str, *arguments: str) -> None:
    engine.run_pulumi(*arguments, stack=stack, again=f"./ha rebuild {name}")
