"""One run: a healthy world, clients, the fault and its effects, the fix and its effects."""

import random
import time
from collections.abc import Sequence

from dev.bench.clients import ClientsReport, Probed
from dev.bench.faults import Fault, Scene
from dev.bench.heard import heard_after
from dev.bench.results import FIXED, Held, Mark, Requests, Run
from dev.bench.world import World, WorldError

PACE_SECONDS, LONG_PACE_SECONDS = 0.02, 0.1
"""Between two requests; the longer pace is for faults that are watched for minutes."""
BEFORE_SECONDS, SERVED_WITHIN_SECONDS = 2.0, 60.0
"""How long clients must be served before the fault, and after how long without that the bench gives up."""
STEADY_SECONDS = 3.0
"""A fault is over after this long without a failed request and without a move of the VIP."""
FIXED_AT_LEAST, FIXED_AT_MOST = 4.0, 20.0
STILL_SECONDS = 1.0
"""An API server that got a request in this time before the fix was never taken out."""


def _served_clients(world: World, pace: float) -> tuple[float, float]:
    """Start the clients, again until they are served; raises WorldError if they never are.

    Returns when they began, and their pace.

    A busy machine may answer a request late although nothing is broken. It must not count as the fault's. A slow one
    cannot answer so many requests, and gets fewer.
    """
    deadline = time.monotonic() + SERVED_WITHIN_SECONDS
    while True:
        begin = time.monotonic()
        world.clients.begin(pace)
        # At a random point of the intervals of checks and advertisements.
        time.sleep(BEFORE_SECONDS + random.random())  # noqa: S311 not a secret
        if world.clients.steady() >= BEFORE_SECONDS - 0.5:
            return begin, pace
        world.clients.end()
        pace = min(pace * 2, max(pace, LONG_PACE_SECONDS))
        if time.monotonic() > deadline:
            raise WorldError(f"requests fail although nothing is broken, for {SERVED_WITHIN_SECONDS:g} s")


def _observe(world: World, at_least: float, at_most: float) -> None:
    since = time.monotonic()
    while (elapsed := time.monotonic() - since) < at_most:
        still = min(time.monotonic() - world.holders.last_change, world.clients.steady())
        if elapsed >= at_least and still >= STEADY_SECONDS:
            return
        time.sleep(0.05)


def measure(world: World, configuration: str, fault: Fault, repeat: int) -> Run:
    """Repair the world and inject a fault once; raises WorldError if the world cannot be repaired."""
    world.repair()
    marks: list[tuple[float, str]] = []
    scene = Scene(world, lambda label: marks.append((time.monotonic(), label)))
    with scene.clean_up:
        fault.prepare(scene)
        if not fault.pair_before:
            world.wait_until_serving(40, [machine for machine in world.machines if machine.running])
        begin, pace = _served_clients(world, LONG_PACE_SECONDS if fault.long else PACE_SECONDS)
        scene.mark(fault.title)
        fault.inject(scene)
        _observe(world, fault.at_least, fault.at_most)
        if fault.fix is not None:
            world.clients.prove()
        fixed_at = time.monotonic()
        if fault.fix is not None:
            scene.mark(FIXED)
            fault.fix(scene)
            _observe(world, FIXED_AT_LEAST, FIXED_AT_MOST)
        report = world.clients.end()
        end = time.monotonic()
    return Run(
        configuration=configuration,
        fault=fault.name,
        repeat=repeat,
        duration=end - begin,
        injected_at=marks[0][0] - begin,
        marks=tuple(Mark(at=at - begin, label=label) for at, label in marks),
        pace=pace,
        quick=requests(report.quick, begin),
        patient=tuple(requests(probed, begin) for probed in report.patient),
        held=tuple(
            Held(
                kind=held.kind,
                lost_at=None if held.lost_at is None else held.lost_at - begin,
                heard=heard_after(held, report.held, marks[0][0]),
            )
            for held in report.held
        ),
        holders=world.holders.spans([machine.name for machine in world.machines], begin, end),
        backends_out={name: out_after(report, name, marks[0][0], fixed_at) for name in fault.hit},
        longest_stall=report.quick.report.longest_stall,
    )


def requests(probed: Probed, begin: float) -> Requests:
    """One kind of request, with times relative to `begin`."""
    samples = sorted(probed.report.samples, key=lambda sample: sample.started)
    return Requests(
        timeout=probed.timeout,
        count=len(samples),
        failed=probed.report.failures,
        longest_gap=probed.report.longest_gap,
        failures=tuple(probed.begin + s.started - begin for s in samples if s.failure is not None),
    )


def out_after(report: ClientsReport, backend: str, injected_at: float, fixed_at: float) -> float | None:
    """Seconds after the fault until the last request went to an API server, as clients see it.

    That is a request that it answered, or that got no answer: until STEADY_SECONDS without one, because in a minute
    requests also fail for other reasons. None if that went on until the fix.
    """
    kinds: Sequence[Probed] = (report.quick, *report.patient)
    begun = [
        (probed.begin + sample.started, sample.backend)
        for probed in kinds
        for sample in probed.report.samples
        if sample.backend == backend or (sample.failure is not None and sample.backend is None)
    ]
    last = injected_at
    for at, answered_by in sorted(begun, key=lambda it: it[0]):
        if last <= at < fixed_at and (answered_by == backend or at - last < STEADY_SECONDS):
            last = at
    return None if last > fixed_at - STILL_SECONDS else last - injected_at
