"""`python -m dev.lab_bench`: what failovers cost clients on the lab, by network and path, for docs/failover.md.

Two stacks, one after the other: on the flat network, where clients are on the VIP's own network; and on the tenant
network, where they reach the VIP through the router and its floating IP.
"""

import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import typer

from dev import documents
from dev.lab.cloud import NETWORK, TENANT_NETWORK, TENANT_SUBNET
from dev.lab.progress import console, phase
from dev.lab_faults import HaproxyHung, LinkCut
from dev.lab_stack import Stack, environment
from dev.standin.hosts import StandIns
from operate.drill.faults import DRILL_FAULTS, OfEtcdsLeader
from operate.drill.run import Drill, problems_of
from operate.hosts.look import look
from operate.hosts.pair import wait_for
from operate.measured import FLAT, FLOATING_IP, Lab, LabFault, Measurements, OnPath, Range, Spread
from operate.probe import Probe
from operate.stack.applied import read_stack
from operate.stack.files import ROOT

# Its stacks have stand-in API servers, and no cluster.
FAULTS = (*(it for it in DRILL_FAULTS.values() if not issubclass(it, OfEtcdsLeader)), HaproxyHung, LinkCut)
MAX_OUTAGE = 10.0
PATHS: Mapping[str, Mapping[str, object]] = {
    FLAT: {"clusterName": "flat", "controlPlaneCount": 3, "workerCount": 0},
    FLOATING_IP: {
        "clusterName": "routed",
        "controlPlaneCount": 3,
        "workerCount": 0,
        "network": TENANT_NETWORK,
        "subnet": TENANT_SUBNET,
        "floatingNetwork": NETWORK,
    },
}

Rounds = dict[tuple[str, str], list[tuple[float, int]]]
"""By fault and its title, the longest interruption (seconds) and the failed requests of each round."""
MOVE = ("./ha move", "the VIP moves on purpose")


def measure(name: str, config: Mapping[str, object], repeats: int) -> Rounds:
    """What the faults and a move on purpose cost, on a stack that is built for it and destroyed."""
    stack = Stack(name, config)
    # What a run that was killed has left may be broken: a port is down, or an instance stopped.
    stack.destroy(refresh=True)
    with phase(f"pulumi up of {name}", expected=100):
        stack.up()
    outputs = stack.outputs()
    StandIns(stack.access(), outputs.control_plane, outputs.vip).install()
    applied = read_stack(name)
    wait_for("nothing is wrong with the pair", lambda: not problems_of(look(applied)), 120)
    rounds: Rounds = {}
    for _ in range(repeats):
        drill = Drill(applied, FAULTS, console.print)
        with drill.alone():
            result = drill.run(drill.plan(), max_outage=MAX_OUTAGE)
        for it in result.measured:
            rounds.setdefault((it.fault, it.title), []).append((it.longest_interruption, it.failed))
        with Probe(outputs.endpoint) as probe:
            subprocess.run([ROOT / "ha", "move", "--yes", "--stack", name], check=True, stdout=subprocess.DEVNULL)
        report = probe.report()
        rounds.setdefault(MOVE, []).append((report.longest_gap, report.failures))
    with phase(f"pulumi destroy of {name}", expected=40):
        stack.destroy()
    return rounds


def on_path(rounds: list[tuple[float, int]]) -> OnPath:
    """The figures of one fault on one path."""
    gaps, failed = zip(*rounds, strict=True)
    return OnPath(interruption=Spread.of(gaps), failed=Range(min(failed), max(failed)))


def main(repeats: Annotated[int, typer.Option(help="How many rounds of all faults on each stack.")] = 5) -> None:
    """Measure, and replace the figures of the lab in docs/failover/measured.json."""
    os.environ |= environment()
    stacks = {path: f"lab-bench-{config['clusterName']}" for path, config in PATHS.items()}
    rounds = {path: measure(stacks[path], config, repeats) for path, config in PATHS.items()}
    lab = Lab(
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        rounds=repeats,
        faults=tuple(
            LabFault(
                fault=fault, title=title, paths={path: on_path(them[fault, title]) for path, them in rounds.items()}
            )
            for fault, title in next(iter(rounds.values()))
        ),
    )
    Measurements.read().model_copy(update={"lab": lab}).write()
    console.print(documents.lab(Measurements.read()), markup=False)


if __name__ == "__main__":
    typer.run(main)
