"""`ha takeover`: move the VIP of load balancers that were built manually to a stack."""

from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from operate.commands.options import StackName, Yes
from operate.hosts.lock import hold_all
from operate.hosts.pair import PairError
from operate.stack.applied import read_stack
from operate.takeover import takeover as steps
from operate.takeover.undo import undone_on_failure

console = Console(soft_wrap=True, highlight=False)


def takeover(
    names: Annotated[list[str], typer.Argument(help="All instances that hold or may hold the VIP now, by name or id.")],
    stack: StackName = None,
    *,
    yes: Yes = False,
) -> None:
    """Take over the VIP in the stack's configuration from load balancers that were built manually.

    The stack's own pair must already be up beside them, on another address (docs/takeover.md). Everything is checked
    before the question, and again after it. If a step fails, or after Ctrl-C, every step is undone. Exit status 2 if a
    check or a step fails, with the reason.
    """
    applied = read_stack(stack)
    cloud = applied.configuration.cloud()
    agreed = steps.plan(applied, cloud, names)
    _show(agreed, applied.name)
    if not yes:
        typer.confirm("Take the VIP over?", abort=True)
    with hold_all(applied.access, applied.outputs.load_balancers, "takeover") as lock:
        # Again: the operator may have taken a while to answer, and others may have changed something.
        now = read_stack(applied.name)
        if (now.outputs, steps.plan(now, cloud, names)) != (applied.outputs, agreed):
            raise PairError("the plan has changed since you confirmed, so nothing was done: run `./ha takeover` again")
        with undone_on_failure(partial(typer.echo, err=True)) as done:
            for step in (
                partial(steps.narrow, applied, cloud, agreed, done),
                partial(steps.reserve, applied, cloud, agreed, done),
                partial(steps.move_vip, applied, cloud, agreed, done),
                partial(steps.wait_until_held, applied.name, agreed.vip),
                partial(steps.fence, cloud, agreed, done),
                partial(steps.prove, applied.name),
            ):
                lock.check()
                step()
    console.print(
        f"{applied.name} holds {agreed.vip}. docs/takeover.md says how to delete the old pair, and how to go back."
    )


def _show(agreed: steps.Plan, stack: str) -> None:
    console.print(f"[bold]{stack} takes over {agreed.vip}[/]")
    console.print(
        "- address pairs with a prefix are narrowed to the VIP, and the stack's pair has to keep serving for "
        f"{steps.SETTLED_SECONDS:.0f} s"
    )
    for it in agreed.old:
        for pair in it.pairs:
            if pair["ip_address"] not in (str(agreed.vip), f"{agreed.vip}/32"):
                console.print(
                    f"[bold yellow]  {it.name} loses all other addresses in {pair['ip_address']}: if it has a second "
                    "VIP there, add an address pair for that first[/]"
                )
    if agreed.reserving_port:
        console.print(f"- the VIP's reservation moves from port {agreed.reserving_port} to the stack's own port")
    console.print(
        "- `pulumi up`: the stack's pair takes and announces the VIP. Connections through the old pair are cut, once"
    )
    for it in agreed.old:
        console.print(
            f"- {it.name} ({', '.join(it.addresses)}) is no longer allowed to hold the VIP. To undo that later:"
        )
        console.print(f"  openstack port set {steps.allowed_addresses(it.pairs)} {it.port_id}")
    console.print("- `pulumi up` proves that no other host answers for the VIP")
    console.print("If a step fails, or after Ctrl-C, all of this is undone, the last step first.")
    for note in agreed.notes:
        console.print(f"[yellow]note[/] {note}")
