"""`ha rebuild`: re-create a load balancer that is broken."""

import typer
from rich.console import Console

from model.load_balancers import GRACE
from operate.commands.move import await_handover, show_cut
from operate.commands.options import Grace, LoadBalancer, StackName, Yes, insist_on_answer
from operate.hosts.pair import Pair, PairError
from operate.hosts.state import collect
from operate.maintenance.checks import insist_on_rebuild
from operate.maintenance.moves import Maintenance, insist_on_no_other_run, plan_rebuild, replace_instance, unfit
from operate.signals import uninterrupted
from operate.stack.applied import read_stack
from operate.stack.resources import recorded_ids


def rebuild(name: LoadBalancer, stack: StackName = None, *, grace: Grace = GRACE, yes: Yes = False) -> None:
    """Delete a load balancer's instance, or what is left of it, and re-create it while its peer serves.

    It keeps its address and host key. If it holds the VIP, its open connections continue until they end or the grace
    period ends; only then is it deleted. Refused if the peer does not serve, if something is missing that it needs, or
    if other changes wait for a `pulumi up`. To continue a rebuild that was interrupted, run it again.
    """
    insist_on_answer(yes=yes)
    console = Console(soft_wrap=True)
    applied = read_stack(stack)
    maintenance = Maintenance(applied)
    cloud = applied.configuration.cloud()
    pair = Pair(applied.outputs, recorded_ids(applied.name), cloud)
    plan = plan_rebuild(applied, pair, name, maintenance.states())
    console.print(f"{plan.peer} serves; the instance of {name} is {plan.shown}. The rebuild")
    if plan.holds_vip:
        console.print(f"  moves the VIP from {name} to {plan.peer}")
    for orphan in plan.orphans:
        console.print(f"  deletes the instance {orphan}, left by a run that was interrupted and not in Pulumi's state")
    console.print(f"  has Pulumi delete what is left of {name}, re-create it, and configure it")
    if not yes:
        typer.confirm(f"Rebuild {name}?", abort=True)
    with maintenance.alone(f"rebuild of {name}", rebuilt=name):
        # Before anything is changed: Pulumi itself would refuse only afterwards.
        insist_on_rebuild(applied, cloud, name, freed=len(plan.instances), creator=pair.instance(plan.peer).user_id)
        if plan.orphans or plan.holds_vip:
            insist_on_no_other_run(applied.name, name)
        # Last, because these checks take long enough for the peer to die.
        agreed, plan = plan, plan_rebuild(applied, pair, name, maintenance.states())
        if not plan.is_within(agreed):
            raise PairError(f"{name} has changed since you confirmed, so nothing was done: run this again")
        try:
            if plan.holds_vip:
                show_cut(maintenance.stop_keepalived(name, plan.peer, grace), console)
                await_handover(maintenance, name, console)
                # Again: the peer may have died while its connections were waited for.
                plan_rebuild(applied, pair, name, maintenance.states())
            for orphan in plan.orphans:
                maintenance.insist_alone()
                pair.delete_instance(orphan)
            # From here on Pulumi's own lock keeps others away, and to end halfway would leave the pair without standby.
            maintenance.insist_alone()
            replace_instance(applied.name, name, ask=not yes)
        except BaseException:
            # Given up, refused, or failed before anything was deleted: the pair must not stay without a standby.
            # A terminal that is closed sends more than one signal.
            with uninterrupted():
                if plan.holds_vip:
                    maintenance.start_keepalived(name)
            raise
    # Read again: the outputs have changed.
    reasons = unfit(name, collect(read_stack(applied.name)))
    if reasons:
        console.print(f"{name} was re-created, but cannot serve yet: {'; '.join(reasons)}. See `./ha status`.")
        raise typer.Exit(1)
    console.print(f"{name} was re-created and is back in service.")
