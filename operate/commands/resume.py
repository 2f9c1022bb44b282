"""`ha resume`: bring a drained load balancer back."""

from rich.console import Console

from operate.commands.options import LoadBalancer, StackName
from operate.maintenance.moves import Maintenance
from operate.stack.applied import read_stack


def resume(name: LoadBalancer, stack: StackName = None) -> None:
    """Bring a drained load balancer back, and wait until it could serve alone. The VIP does not move."""
    applied = read_stack(stack)
    maintenance = Maintenance(applied)
    maintenance.wait_until_reachable(name)
    with maintenance.alone(f"resume of {name}"):
        maintenance.resume(name)
    Console().print(f"{name} is back in service.")
