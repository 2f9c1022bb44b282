"""The cloud's view of a load balancer that does not answer, and what to do about it."""

from keystoneauth1.exceptions import ClientException
from openstack.exceptions import SDKException

from operate.hosts.pair import Pair, PairError
from operate.stack.applied import AppliedStack
from operate.stack.engine import StackError
from operate.stack.resources import recorded_ids

CLOUD_SECONDS = 10.0
"""Time-out for one request to the cloud; the operator has already waited for the host itself."""


def describe(stack: AppliedStack, name: str) -> str:
    """The state of a load balancer's instance and a remedy, in one sentence; or why the cloud could not be queried."""
    try:
        cloud = stack.configuration.cloud()
        cloud.session.timeout = CLOUD_SECONDS
        server = Pair(stack.outputs, recorded_ids(stack.name), cloud).instance(name)
    except (PairError, StackError) as error:
        return str(error)
    # openstacksdk passes on keystoneauth's own errors, such as a wrong password.
    except (SDKException, ClientException) as error:
        return f"the cloud could not be queried for its instance: {error}"
    return advice(name, server.id, server.status, server.fault["message"] if server.fault else None)


def advice(name: str, server: str, status: str, fault: str | None) -> str:
    """What to do about a load balancer that is down while Nova has its instance, with the id `server`, in `status`."""
    reason = f" ({fault})" if fault else ""
    match status:
        case "ACTIVE":
            log = f"`openstack console log show {server}`"
            remedy = f"it hangs, is booting, or is cut off: {log}; then `./ha rebuild {name}`"
        case "SHUTOFF":
            remedy = f"`openstack server start {server}`, or `./ha drill --undo` if a drill stopped it"
        case "ERROR":
            remedy = f"`./ha rebuild {name}`"
        case _:
            remedy = f"`openstack server show {server}`"
    return f"its instance is {status}{reason}: {remedy}"
