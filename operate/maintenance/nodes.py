"""Work on one node of the cluster while the others run its pods: drain and resume."""

import asyncio
import shlex
from contextlib import suppress
from dataclasses import replace

import asyncssh

from operate.hosts.cluster import DRAINED
from operate.hosts.lock import sign
from operate.hosts.pair import BOOT_SECONDS, PairError
from operate.hosts.ssh import HostError, failure_of, output
from operate.signals import uninterrupted
from operate.stack.applied import AppliedStack

# Pods have this long to end, and budgets (PodDisruptionBudget) to admit an eviction.
DRAIN_SECONDS = 300
READY_SECONDS = 120
_KUBECTL = "kubectl --kubeconfig=/etc/kubernetes/admin.conf"
_DRAIN = f"--ignore-daemonsets --delete-emptydir-data --timeout={DRAIN_SECONDS}s"
_ETCD = "/usr/local/lib/ha-api/etcd.py"


def is_node(stack: AppliedStack, name: str) -> bool:
    """Whether it is a host of the stack's cluster; PairError if it is a host without one."""
    found = name in {**stack.outputs.control_plane, **stack.outputs.workers}
    if found and not stack.outputs.kubernetes_version:
        raise PairError(
            f"{name} is a bare host: this stack did not create its cluster. Nothing was done; drain it with kubectl"
        )
    return found


def drain_node(stack: AppliedStack, name: str, reason: str) -> None:
    """Evict a node's pods, and keep new ones away; etcd's leadership goes elsewhere.

    If that fails (HostError) or is interrupted, the node is as before, except for pods that have moved. If only the
    connection is lost, which the error says, the host goes on by itself.
    """
    marker = f"ha-drain-{name}"
    address = stack.outputs.control_plane.get(name)
    majority = len(stack.outputs.control_plane) // 2 + 1
    # One that is drained may be stopped, so it counts as gone.
    spare = f"{_ETCD} spare {address} $(({majority} + others))" if address else ""
    script = f"""
        # The rest of this input, under a name by which the script is found from its first line to its last.
        exec bash -s {marker}
        set -euo pipefail
        trap 'exit 143' TERM
        cordoned() {{
            local only="spec.unschedulable=true,metadata.name$1"
            {_KUBECTL} get nodes --field-selector "$only" --output name "${{@:2}}" | wc -l
        }}
        before=$(cordoned '={name}')
        by=$({_KUBECTL} get node {name} --output 'jsonpath={{.metadata.annotations.{DRAINED}}}')
        if [ "$before" = 1 ] && [ "$by" ]; then
            echo "already drained by $by:" {shlex.quote(f"`./ha resume {name}` first")} >&2
            exit 1
        fi
        others=$(cordoned '!={name}' --selector node-role.kubernetes.io/control-plane)
        {spare}
        trap '[ $? = 0 ] || [ "$before" = 1 ] || {_KUBECTL} uncordon {name} >/dev/null' EXIT
        {_KUBECTL} drain {name} {_DRAIN} >/dev/null
        {_KUBECTL} annotate node {name} --overwrite {shlex.quote(f"{DRAINED}={sign(reason)}")} >/dev/null
        {f"{_ETCD} yield" if address else ""}
    """
    try:
        _run(stack, name, script, seconds=DRAIN_SECONDS + 60)
    except BaseException as error:
        cause = error.__context__
        if isinstance(cause, asyncssh.ProcessError) and cause.exit_status is not None:
            raise  # the script has ended
        # It goes on without this end of the connection. Its traps undo the rest, once the program that it runs ends.
        with uninterrupted():
            for host in [name] if address else stack.outputs.control_plane:
                with suppress(HostError):
                    _run(stack, host, f"pkill --full '{marker}$|kubectl .*drain {name} '", seconds=10)
        raise


def resume_node(stack: AppliedStack, name: str) -> None:
    """Wait until a node is Ready, and let it run pods again. HostError if it is not Ready in time."""
    address = stack.outputs.control_plane.get(name)
    script = f"""
        renewed() {{
            {_KUBECTL} --namespace kube-node-lease get lease {name} --output 'jsonpath={{.spec.renewTime}}'
        }}
        # A node that has just lost its power counts as Ready for most of a minute; one that runs renews its lease.
        before=$(renewed)
        deadline=$((SECONDS + {BOOT_SECONDS:.0f}))
        until now=$(renewed) && [ "$now" != "$before" ]; do
            [ $SECONDS -lt $deadline ] || {{ echo "its kubelet does not reach the API" >&2 && exit 1; }}
            sleep 1
        done
        {_KUBECTL} wait --for=condition=Ready node/{name} --timeout={READY_SECONDS}s >/dev/null
        {f"{_ETCD} healthy {address}" if address else ""}
        {_KUBECTL} annotate node {name} {DRAINED}- >/dev/null
        {_KUBECTL} uncordon {name} >/dev/null
    """
    # A control-plane host is asked itself, and may be booting.
    _run(stack, name, script, seconds=BOOT_SECONDS + READY_SECONDS + 60, patience=BOOT_SECONDS if address else 0)


def _run(stack: AppliedStack, name: str, script: str, *, seconds: float, patience: float = 0) -> None:
    """For a control-plane host on itself: only etcd's leader can yield. For a worker on the first that answers."""
    outputs = stack.outputs
    hosts = {name: outputs.control_plane[name]} if name in outputs.control_plane else outputs.control_plane
    access = replace(stack.access, user=stack.settings.control_plane_user, patience=patience)

    async def run(address: str) -> None:
        async with access.connect(address) as connection:
            try:
                await output(connection, "sudo -n bash -s", f"set -euo pipefail\n{script}\n".encode(), seconds=seconds)
            except (OSError, asyncssh.Error) as error:
                # No other host is tried: without a connection, the script may still be running on this one.
                raise HostError(f"{name}: {failure_of(error)}") from None

    reasons: list[str] = []
    for host, address in hosts.items():
        try:
            return asyncio.run(run(address))
        except (OSError, asyncssh.Error) as error:
            reasons.append(f"{host}: {failure_of(error)}")
    raise HostError("\n".join(reasons))
