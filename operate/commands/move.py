"""`ha move`: move the VIP to the standby."""

import time
from collections.abc import Callable
from contextlib import suppress

import typer
from rich.console import Console

from model.load_balancers import GRACE
from operate.commands.options import Grace, StackName, Yes
from operate.hosts.pair import PairError, wait_for
from operate.hosts.state import Handover
from operate.maintenance.moves import Maintenance, partners
from operate.probe import ALIVE, Probe
from operate.stack.applied import AppliedStack, read_stack

# The probe runs before the move, to see whether this machine gets answers at all, and after it.
BEFORE_SECONDS = 1.0
AFTER_SECONDS = 2.0
PATIENCE_SECONDS = 2.0
# After a grace, until its host has closed what was left.
ENDS_SECONDS = 20.0


def show_interruption(stack: AppliedStack, act: Callable[[], str], console: Console) -> None:
    """Call `act`, which moves the VIP, and show what clients noticed, if this machine can reach the endpoint.

    `act` returns why open connections were cut; empty if they go on.
    """
    with Probe(stack.outputs.endpoint, timeout=PATIENCE_SECONDS, answers=ALIVE) as probe:
        time.sleep(BEFORE_SECONDS)
        # From far away the first request takes longer; within PATIENCE_SECONDS it has ended in any case.
        with suppress(PairError):
            wait_for("a request has ended", lambda: probe.report().requests > 0, PATIENCE_SECONDS)
        before = probe.report()
        probe.mark("the VIP moves")
        cut = act()
        time.sleep(AFTER_SECONDS)
    if before.failures == before.requests:
        console.print(
            f"The interruption was not measured: {stack.outputs.endpoint} did not answer this machine before the move "
            "either (is its address in apiAllowedCidrs, and is an API server up?)"
        )
    else:
        console.print(probe.report().render(min(console.width, 100)))
    show_cut(cut, console)


def show_cut(cut: str, console: Console) -> None:
    """Show why open connections were cut, if they were."""
    if cut:
        console.print(f"Open connections were cut, and clients have to reconnect: {cut}")


def show_handover(name: str, left: Handover | None, console: Console) -> None:
    """Show what goes on through a load balancer that has given the VIP up."""
    if left:
        console.print(
            f"{left.connections} connections continue through {name} until they end, for up to {left.seconds_left} s."
        )


def await_handover(maintenance: Maintenance, name: str, console: Console) -> None:
    """Wait until no connection goes through a load balancer; shows how many are left."""
    deadline = time.monotonic() + ENDS_SECONDS
    with console.status(f"waiting for the connections of {name}") as shown:
        while (left := maintenance.handover(name)) and time.monotonic() < deadline:
            deadline = time.monotonic() + left.seconds_left + ENDS_SECONDS
            shown.update(
                f"{left.connections} connections continue through {name}, for up to {left.seconds_left} s more"
            )
            time.sleep(1)


def move(stack: StackName = None, *, grace: Grace = GRACE, yes: Yes = False) -> None:
    """Move the VIP to the standby. Refused if the standby cannot serve alone.

    Open connections continue through the old holder until they end or the grace period ends.
    """
    console = Console(soft_wrap=True)
    applied = read_stack(stack)
    maintenance = Maintenance(applied)
    holder, peer = partners(maintenance.states())
    if not yes:
        typer.confirm(f"Move the VIP {applied.outputs.vip} from {holder} to {peer}?", abort=True)
    with maintenance.alone("move") as states:
        if partners(states) != (holder, peer):
            raise PairError(
                f"the VIP has moved to {peer} in the meantime, so nothing was done: run `./ha move` again if needed"
            )
        show_interruption(applied, lambda: maintenance.move(holder, peer, grace), console)
    console.print(f"{peer} holds the VIP, {holder} is the standby.")
    show_handover(holder, maintenance.handover(holder), console)
