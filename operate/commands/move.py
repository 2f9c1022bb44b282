"""`ha move`: move the VIP to the standby."""

import time
from collections.abc import Callable
from contextlib import suppress

import typer
from rich.console import Console

from operate.commands.options import StackName, Yes
from operate.hosts.pair import PairError, wait_for
from operate.maintenance.moves import Maintenance, partners
from operate.probe import ALIVE, Probe
from operate.stack.applied import AppliedStack, read_stack

# The probe runs before the move, to see whether this machine gets answers at all, and after it.
BEFORE_SECONDS = 1.0
AFTER_SECONDS = 2.0
PATIENCE_SECONDS = 2.0


def show_interruption(stack: AppliedStack, act: Callable[[], None], console: Console) -> None:
    """Call `act`, which moves the VIP, and show what clients noticed, if this machine can reach the endpoint."""
    with Probe(stack.outputs.endpoint, timeout=PATIENCE_SECONDS, answers=ALIVE) as probe:
        time.sleep(BEFORE_SECONDS)
        # From far away the first request takes longer; within PATIENCE_SECONDS it has ended in any case.
        with suppress(PairError):
            wait_for("a request has ended", lambda: probe.report().requests > 0, PATIENCE_SECONDS)
        before = probe.report()
        probe.mark("the VIP moves")
        act()
        time.sleep(AFTER_SECONDS)
    if before.failures == before.requests:
        console.print(
            f"The interruption was not measured: {stack.outputs.endpoint} did not answer this machine before the move "
            "either (is its address in apiAllowedCidrs, and is an API server up?)"
        )
    else:
        console.print(probe.report().render(min(console.width, 100)))


def move(stack: StackName = None, *, yes: Yes = False) -> None:
    """Move the VIP to the standby. Refused if the standby cannot serve alone."""
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
        show_interruption(applied, lambda: maintenance.move(holder, peer), console)
    console.print(f"{peer} holds the VIP, {holder} is the standby.")
