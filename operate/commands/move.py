"""`ha move`: the other load balancer holds the VIP."""

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

# Asked before the VIP moves, to know whether this machine gets answers at all, and after it, for what it has cost.
BEFORE_SECONDS = 1.0
AFTER_SECONDS = 2.0
PATIENCE_SECONDS = 2.0


def show_what_clients_feel(stack: AppliedStack, act: Callable[[], None], console: Console) -> None:
    """Do what moves the VIP, and tell what clients felt, where this machine is one."""
    with Probe(stack.outputs.endpoint, timeout=PATIENCE_SECONDS, answers=ALIVE) as probe:
        time.sleep(BEFORE_SECONDS)
        # The first may take longer, from far away; in PATIENCE_SECONDS it has ended in any case.
        with suppress(PairError):
            wait_for("a request has ended", lambda: probe.report().requests > 0, PATIENCE_SECONDS)
        before = probe.report()
        probe.mark("the VIP moves")
        act()
        time.sleep(AFTER_SECONDS)
    if before.failures == before.requests:
        console.print(
            f"What clients felt is not known: {stack.outputs.endpoint} did not answer this machine before either "
            "(is it in apiAllowedCidrs, and is there an API server?)"
        )
    else:
        console.print(probe.report().render(min(console.width, 100)))


def move(stack: StackName = None, *, yes: Yes = False) -> None:
    """Have the other load balancer hold the VIP. Refused unless it could serve alone."""
    console = Console(soft_wrap=True)
    applied = read_stack(stack)
    maintenance = Maintenance(applied)
    holder, peer = partners(maintenance.states())
    if not yes:
        typer.confirm(f"Move the VIP {applied.outputs.vip} from {holder} to {peer}?", abort=True)
    with maintenance.alone("move") as states:
        if partners(states) != (holder, peer):
            raise PairError(f"the VIP has moved to {peer} in the meantime, so nothing was done")
        show_what_clients_feel(applied, lambda: maintenance.move(holder, peer), console)
    console.print(f"{peer} holds the VIP, {holder} is the standby.")
