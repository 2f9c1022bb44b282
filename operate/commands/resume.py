"""`ha resume`: bring a drained host back."""

from rich.console import Console

from operate.commands.options import HostName, StackName
from operate.maintenance.moves import Maintenance
from operate.maintenance.nodes import is_node, resume_node
from operate.stack.applied import read_stack


def resume(name: HostName, stack: StackName = None) -> None:
    """Bring a drained host back.

    Waits until a load balancer could serve alone; the VIP does not move. Waits until a node is Ready.
    """
    applied = read_stack(stack)
    maintenance = Maintenance(applied)
    if is_node(applied, name):
        with maintenance.alone(f"resume of {name}"):
            resume_node(applied, name)
    else:
        maintenance.wait_until_reachable(name)
        with maintenance.alone(f"resume of {name}"):
            maintenance.resume(name)
    Console().print(f"{name} is back in service.")
