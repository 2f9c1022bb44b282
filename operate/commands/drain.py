"""`ha drain`: take one load balancer out of service, for a kernel update, a reboot, work on its hypervisor."""

from typing import Annotated

import typer
from rich.console import Console

from operate.commands.move import show_interruption
from operate.commands.options import LoadBalancer, StackName, Yes
from operate.maintenance.moves import Maintenance, insist, peer_of
from operate.stack.applied import read_stack


def drain(
    name: LoadBalancer,
    stack: StackName = None,
    *,
    reason: Annotated[str, typer.Option(help="Shown by `./ha status`.")] = "maintenance",
    yes: Yes = False,
) -> None:
    """Take a load balancer out of service until `resume`, reboots included. Refused if its peer cannot serve alone."""
    console = Console(soft_wrap=True)
    applied = read_stack(stack)
    maintenance = Maintenance(applied)
    states = maintenance.states()
    peer = peer_of(name, states)
    insist(peer, states)
    if not yes:
        typer.confirm(f"Drain {name}? {peer} will serve alone.", abort=True)
    with maintenance.alone(f"drain of {name}") as states:
        # Again: the operator may have taken a while to answer.
        insist(peer, states)
        show_interruption(applied, lambda: maintenance.drain(name, peer, reason), console)
    console.print(
        f"{name} is drained until `./ha resume {name}`, or until a `pulumi up` changes it. {peer} serves alone."
    )
