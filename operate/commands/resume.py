"""`ha resume`: a load balancer that was taken out takes part again."""

from rich.console import Console

from operate.commands.options import LoadBalancer, StackName
from operate.maintenance.moves import Maintenance
from operate.stack.applied import read_stack


def resume(name: LoadBalancer, stack: StackName = None) -> None:
    """Bring a load balancer back that was taken out, and wait until it could serve alone. The VIP stays where it is."""
    applied = read_stack(stack)
    maintenance = Maintenance(applied)
    maintenance.wait_until_reachable(name)
    with maintenance.alone(f"resume of {name}"):
        maintenance.resume(name)
    Console().print(f"{name} takes part again.")
