"""`ha takeover`: makes a stack the holder of a VIP that load balancers built by hand have."""

import shlex
from typing import Annotated

import typer
from rich.console import Console

from operate.commands.options import StackName, Yes
from operate.hosts.lock import hold_all
from operate.stack.applied import read_stack
from operate.takeover import takeover as steps

console = Console(soft_wrap=True, highlight=False)


def takeover(
    names: Annotated[list[str], typer.Argument(help="Instances that hold the VIP now, by name or id: all of them.")],
    stack: StackName = None,
    *,
    yes: Yes = False,
) -> None:
    """Take the VIP of the stack's configuration over from load balancers that were built by hand.

    The stack's own pair has to be up beside them, on another address (docs/takeover.md). All is looked at first; a run
    that was cut off is continued by the same command. Ends with status 2 when something is in the way, and says what.
    """
    applied = read_stack(stack)
    cloud = applied.configuration.cloud()
    agreed = steps.plan(applied, cloud, names)
    _show(agreed, applied.name)
    if not yes:
        typer.confirm("Take it over?", abort=True)
    with hold_all(applied.access, applied.outputs.load_balancers, "takeover"):
        steps.narrow(applied, cloud, agreed)
        steps.reserve(applied, cloud, agreed)
        steps.move_vip(applied.name, yes=yes)
        steps.wait_until_held(applied.name, agreed.vip)
        steps.fence(cloud, agreed)
        steps.prove(applied.name)
    console.print(
        f"{applied.name} has {agreed.vip}. docs/takeover.md says how to delete the old pair, and the way back."
    )


def _show(agreed: steps.Plan, stack: str) -> None:
    console.print(f"[bold]{stack} takes {agreed.vip} over[/]")
    console.print(
        "- address pairs with a prefix are cut down to the VIP, and given back if the stack's pair does not serve all "
        f"the same for {steps.SETTLED_SECONDS:.0f} s"
    )
    for it in agreed.old:
        for pair in it.pairs:
            if pair["ip_address"] not in (str(agreed.vip), f"{agreed.vip}/32"):
                console.print(
                    f"[bold yellow]  {it.name} loses every other address of {pair['ip_address']} with it: a second VIP "
                    "there needs a pair of its own first[/]"
                )
    if agreed.reserving_port:
        console.print(f"- its reservation passes from port {agreed.reserving_port} to the stack's own")
    console.print(
        "- `pulumi up`: the stack's pair holds and announces it. Connections through the old pair are lost, once"
    )
    for it in agreed.old:
        allowed = " ".join(f"--allowed-address {shlex.quote(_pair(pair))}" for pair in it.pairs)
        console.print(f"- {it.name} ({it.address}) may hold it no more. Undone by")
        console.print(f"  openstack port set {allowed} {it.port_id}")
    console.print("- `pulumi up` proves that nobody else answers for it")
    for note in agreed.notes:
        console.print(f"[yellow]note[/] {note}")


def _pair(pair: steps.AddressPair) -> str:
    """As `openstack port set --allowed-address` wants it; a virtual router's hardware address is part of it."""
    mac = pair.get("mac_address")
    return f"ip-address={pair['ip_address']}" + (f",mac-address={mac}" if mac else "")
