"""`ha drain`: one load balancer is out, for a kernel update, a reboot, work on its hypervisor."""

from typing import Annotated

import typer
from rich.console import Console

from operate.commands.move import show_what_clients_feel
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
    """Take a load balancer out until `resume`, also when it boots. Refused unless the other one could serve alone."""
    console = Console(soft_wrap=True)
    applied = read_stack(stack)
    maintenance = Maintenance(applied)
    states = maintenance.states()
    peer = peer_of(name, states)
    insist(peer, states)
    if not yes:
        typer.confirm(f"Take {name} out? {peer} serves alone then.", abort=True)
    with maintenance.alone(f"drain of {name}") as states:
        # Anew, for the question may have stood for long.
        insist(peer, states)
        show_what_clients_feel(applied, lambda: maintenance.drain(name, peer, reason), console)
    console.print(f"{name} is out, until `./ha resume {name}`, or a `pulumi up` that changes it. {peer} serves alone.")
