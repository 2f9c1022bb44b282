"""Runs the bench for tests: our configuration alone, or beside the seed's."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev.bench.faults import QUICK
from dev.bench.results import Results, Run

OURS, SEED = "default", "seed"

Runs = Mapping[tuple[str, str], Run]
"""By configuration and fault."""


def beside_the_seed(out: Path, faults: Sequence[str]) -> Runs:
    """Each fault once, with both configurations at the same time, as `make bench QUICK=1` does it."""
    assert set(faults) <= set(QUICK)
    return _bench(out, [OURS, SEED], faults, "--quick")


def ours(out: Path, faults: Sequence[str]) -> Mapping[str, Run]:
    """Each fault once, with our configuration; by fault."""
    runs = _bench(out, [OURS], faults, "--configuration", OURS, "--repeats", "1")
    return {fault: run for (_, fault), run in runs.items()}


def _bench(out: Path, configurations: Sequence[str], faults: Sequence[str], *options: str) -> Runs:
    only = [option for fault in faults for option in ("--only", fault)]
    done = subprocess.run(
        [sys.executable, "-m", "dev.bench", *options, *only, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {(run.configuration, run.fault): run for run in Results.read(out / "results.json").runs}
    assert runs.keys() == {(configuration, fault) for configuration in configurations for fault in faults}
    return runs


def outages(runs: Runs, fault: str) -> tuple[float, float]:
    """Ours and the seed's, in seconds, without what may be the probe's own."""
    ours, seed = runs[OURS, fault], runs[SEED, fault]
    for run in (ours, seed):
        assert run.longest_stall < 1
    return ours.quick.longest_gap - ours.longest_stall, seed.quick.longest_gap - seed.longest_stall
