"""`ha drain`: take one host out of service, for a kernel update, a reboot, work on its hypervisor."""

from typing import Annotated

import typer
from rich.console import Console

from model.load_balancers import GRACE
from operate.commands.move import await_handover, show_handover, show_interruption
from operate.commands.options import Grace, HostName, StackName, Yes
from operate.maintenance.moves import Maintenance, insist, insist_in_service, peer_of
from operate.maintenance.nodes import drain_node, is_node
from operate.stack.applied import AppliedStack, read_stack


def drain(
    name: HostName,
    stack: StackName = None,
    *,
    grace: Grace = GRACE,
    reason: Annotated[str, typer.Option(help="Shown by `./ha status`.")] = "maintenance",
    yes: Yes = False,
) -> None:
    """Take a host out of service until `resume`, reboots included. Refused if it is drained already.

    A load balancer gives its peer the VIP; refused if the peer cannot serve alone. Open connections continue through
    it until they end or the grace period ends, and this command waits for that. A node's pods are evicted, and if it
    leads etcd, another member takes over; refused if etcd would lose its majority without it.
    """
    console = Console(soft_wrap=True)
    applied = read_stack(stack)
    maintenance = Maintenance(applied)
    if is_node(applied, name):
        _drain_node(applied, maintenance, name, reason, yes=yes)
        console.print(f"{name} is drained until `./ha resume {name}`. It may be rebooted or stopped.")
        return
    states = maintenance.states()
    peer = peer_of(name, states)
    insist_in_service(name, states)
    insist(peer, states)
    if not yes:
        typer.confirm(f"Drain {name}? {peer} will serve alone.", abort=True)
    with maintenance.alone(f"drain of {name}") as states:
        # Again: the operator may have taken a while to answer.
        insist_in_service(name, states)
        insist(peer, states)
        show_interruption(applied, lambda: maintenance.drain(name, peer, reason, grace), console)
    console.print(
        f"{name} is drained until `./ha resume {name}`, or until a `pulumi up` changes it. {peer} serves alone."
    )
    if left := maintenance.handover(name):
        show_handover(name, left, console)
        console.print("Wait for them before you stop it. Ctrl-C ends this command, not the connections.")
        await_handover(maintenance, name, console)
        if not maintenance.handover(name):
            console.print(f"No connection goes through {name} any more.")


def _drain_node(stack: AppliedStack, maintenance: Maintenance, name: str, reason: str, *, yes: bool) -> None:
    if not yes:
        typer.confirm(f"Drain {name}? Its pods will move to other nodes.", abort=True)
    with maintenance.alone(f"drain of {name}"):
        drain_node(stack, name, reason)
