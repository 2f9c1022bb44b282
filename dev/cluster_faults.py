"""What a cluster's clients notice when a control-plane host or load balancer fails: for the demo and the e2e tests."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from dev.cluster_client import WATCH_TIMEOUT, ClusterClient, Seen
from operate.drill.faults import DrillFault, Site
from operate.hosts.cluster import ClusterReport
from operate.hosts.look import look
from operate.hosts.pair import BOOT_SECONDS, STOP_SECONDS, PairError, wait_for
from operate.stack.applied import AppliedStack

STEADY_SECONDS = 2.0
RECOVERY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class ClusterMeasured:
    """What clients noticed of one fault on one host."""

    fault: DrillFault
    host: str
    seen: Seen


def leader(cluster: ClusterReport) -> str:
    """The control-plane host with etcd's leader: its loss costs most."""
    (name,) = (member.name for member in cluster.members if member.health == "leader")
    return name


def wait_until_whole(stack: AppliedStack) -> ClusterReport:
    """Wait until nothing is wrong with the pair, and every node and every etcd member is well."""
    report = look(stack, with_instances=True)

    def whole() -> bool:
        nonlocal report
        report = look(stack, with_instances=True)
        return report.healthy

    if not report.healthy:
        wait_for("the pair and the cluster are whole", whole, BOOT_SECONDS)
    if not report.cluster:
        raise PairError(f"the stack {stack.name} has no cluster: kubernetesVersion is empty")
    return report.cluster


@contextmanager
def used(kubeconfig: Path) -> Generator[ClusterClient]:
    """The cluster is read, written and watched meanwhile; all of that works at the beginning and at the end."""
    with ClusterClient(kubeconfig.read_text()) as client:
        _wait_until_steady(client)
        yield client
        _wait_until_steady(client)


def measure(stack: AppliedStack, kubeconfig: Path, kind: type[DrillFault], host: str) -> ClusterMeasured:
    """Inflicts a fault on a host and undoes it, while the cluster is used, until everything is whole again."""
    fault = kind(Site(stack))
    with used(kubeconfig) as client:
        try:
            fault.inflict(host, lambda: None)
            wait_for(f"on {host} {fault.title}", lambda: fault.in_effect(host), STOP_SECONDS)
            time.sleep(fault.seconds)
            _wait_until_steady(client)
        finally:
            fault.undo(host)
        wait_until_whole(stack)
    return ClusterMeasured(fault=fault, host=host, seen=client.report())


def _wait_until_steady(client: ClusterClient) -> None:
    wait_for("the cluster is read, written and watched", lambda: client.steady >= STEADY_SECONDS, RECOVERY_SECONDS)


def table(measured: list[ClusterMeasured]) -> Table:
    """For each fault, the longest time without an answer, and how many requests failed."""
    shown = Table(
        *("fault", "reads", "writes", "watch"),
        title_justify="left",
        caption_justify="left",
        caption=f"The watch gives up a silent connection after {WATCH_TIMEOUT:.0f} s.",
    )
    for it in measured:
        reads, writes, watch = it.seen.reads, it.seen.writes, it.seen.watch
        shown.add_row(
            f"{it.host}: {it.fault.title}",
            f"{reads.longest_gap:.2f} s, {reads.failures} of {reads.requests} failed",
            f"{writes.longest_gap:.2f} s, {writes.failures} of {writes.requests} failed",
            f"{watch.longest_silence:.2f} s, closed {watch.closed} times",
        )
    return shown
