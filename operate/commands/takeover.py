"""`ha takeover`: move the VIP of load balancers that were built manually to a stack."""

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
    names: Annotated[list[str], typer.Argument(help="All instances that hold or may hold the VIP now, by name or id.")],
    stack: StackName = None,
    *,
    yes: Yes = False,
) -> None:
    """Take over the VIP in the stack's configuration from load balancers that were built manually.

    The stack's own pair must already be up beside them, on another address (docs/takeover.md). Everything is checked
    first. To continue a run that was cut off, run it again. Exit status 2 if a check fails, with the reason.
    """
    applied = read_stack(stack)
    cloud = applied.configuration.cloud()
    agreed = steps.plan(applied, cloud, names)
    _show(agreed, applied.name)
    if not yes:
        typer.confirm("Take the VIP over?", abort=True)
    with hold_all(applied.access, applied.outputs.load_balancers, "takeover"):
        steps.narrow(applied, cloud, agreed)
        steps.reserve(applied, cloud, agreed)
        steps.move_vip(applied.name, yes=yes)
        steps.wait_until_held(applied.name, agreed.vip)
        steps.fence(cloud, agreed)
        steps.prove(applied.name)
    console.print(
        f"{applied.name} holds {agreed.vip}. docs/takeover.md says how to delete the old pair, and how to go back."
    )


def _show(agreed: steps.Plan, stack: str) -> None:
    console.print(f"[bold]{stack} takes over {agreed.vip}[/]")
    console.print(
        "- address pairs with a prefix are narrowed to the VIP; they are restored if the stack's pair does not keep "
        f"serving for {steps.SETTLED_SECONDS:.0f} s"
    )
    for it in agreed.old:
        for pair in it.pairs:
            if pair["ip_address"] not in (str(agreed.vip), f"{agreed.vip}/32"):
                console.print(
                    f"[bold yellow]  {it.name} loses all other addresses in {pair['ip_address']}: if it has a second "
                    "VIP there, add an address pair for that first[/]"
                )
    if agreed.reserving_port:
        console.print(f"- its reservation moves from port {agreed.reserving_port} to the stack's own port")
    console.print(
        "- `pulumi up`: the stack's pair takes and announces it. Connections through the old pair are cut, once"
    )
    for it in agreed.old:
        allowed = " ".join(f"--allowed-address {shlex.quote(_pair(pair))}" for pair in it.pairs)
        console.print(f"- {it.name} ({it.address}) is no longer allowed to hold it. To undo:")
        console.print(f"  openstack port set {allowed} {it.port_id}")
    console.print("- `pulumi up` proves that no other host answers for it")
    for note in agreed.notes:
        console.print(f"[yellow]note[/] {note}")


def _pair(pair: steps.AddressPair) -> str:
    """In the form of `openstack port set --allowed-address`, with a virtual router's MAC address if it has one."""
    mac = pair.get("mac_address")
    return f"ip-address={pair['ip_address']}" + (f",mac-address={mac}" if mac else "")
