"""One look at a stack's load balancers: their state, and how it differs from what was applied."""

from operate.hosts.instance import describe
from operate.hosts.report import PairReport, compare_with_applied
from operate.hosts.state import collect
from operate.stack.applied import AppliedStack


def look(stack: AppliedStack, *, with_instances: bool = False) -> PairReport:
    """Query both load balancers, and with `with_instances` the cloud about the instance of one that does not answer."""
    outputs, states = stack.outputs, collect(stack)
    down = [name for name, state in states.items() if isinstance(state, str)] if with_instances else []
    instances = {name: describe(stack, name) for name in down}
    return compare_with_applied(stack.name, outputs.load_balancers, outputs.configuration_digests, states, instances)
