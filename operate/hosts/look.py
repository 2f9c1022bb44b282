"""One look at a stack: its load balancers' state, how it differs from what was applied, and the cluster."""

from operate.hosts.cluster import look_at_cluster
from operate.hosts.instance import describe
from operate.hosts.report import PairReport, compare_with_applied
from operate.hosts.state import collect
from operate.stack.applied import AppliedStack


def look(stack: AppliedStack, *, with_instances: bool = False) -> PairReport:
    """Query both load balancers.

    With `with_instances` also the cluster, and the cloud about the instance of a load balancer that does not answer.
    """
    outputs, states = stack.outputs, collect(stack)
    down = [name for name, state in states.items() if isinstance(state, str)] if with_instances else []
    instances = {name: describe(stack, name) for name in down}
    report = compare_with_applied(stack.name, outputs.load_balancers, outputs.configuration_digests, states, instances)
    return report.model_copy(update={"cluster": look_at_cluster(stack)}) if with_instances else report
