"""What faults cost clients, with the real keepalived and HAProxy: our configuration beside the seed's, in one bench.

Bounds on seconds are generous, for the machine may be busy; what counts are ratios, which that hardly changes.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.faults import QUICK
from bench.results import Results, Run

OURS, SEED = "default", "seed"

Runs = Mapping[tuple[str, str], Run]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    out = tmp_path_factory.mktemp("bench")
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(run.configuration, run.fault): run for run in Results.read(Path(out, "results.json")).runs}
    assert found.keys() == {(configuration, fault) for configuration in (OURS, SEED) for fault in QUICK}
    return found


def outages(runs: Runs, fault: str) -> tuple[float, float]:
    """Ours and the seed's, in seconds."""
    ours, seed = runs[OURS, fault], runs[SEED, fault]
    # What is compared must be the systems', not the probe's.
    assert ours.longest_stall < 0.3
    assert seed.longest_stall < 0.3
    return ours.quick.longest_gap, seed.quick.longest_gap


def test_a_load_balancer_that_dies_costs_less_than_half_of_the_seeds(runs: Runs):
    ours, seed = outages(runs, "node-death")
    assert ours < 2
    assert ours < seed / 2


def test_a_return_moves_nothing(runs: Runs):
    returned = runs[OURS, "node-returns"]
    assert (returned.changes, returned.held_lost) == (0, 0)
    # The same return in the seed's world does move it, so the run can tell.
    assert runs[SEED, "node-returns"].changes == 1


def test_two_holders_after_keepalived_was_killed_are_a_matter_of_a_moment(runs: Runs):
    ours, seed = (runs[name, "keepalived-killed"].split_brain for name in (OURS, SEED))
    assert ours < 2
    assert ours < seed / 2


def test_haproxy_that_stays_down_costs_a_tenth_of_the_seeds(runs: Runs):
    ours, seed = outages(runs, "haproxy-stopped")
    assert ours < 2
    assert ours < seed / 10


def test_haproxy_that_hangs_costs_a_fifth_of_the_seeds(runs: Runs):
    ours, seed = outages(runs, "haproxy-hung")
    assert ours < 4
    assert ours < seed / 5


def test_api_servers_that_refuse_anonymous_checks_stay_in(runs: Runs):
    refused = runs[OURS, "api-401"]
    assert set(refused.backends_out.values()) == {None}
    assert (refused.held_lost, refused.changes) == (0, 0)
    assert refused.quick.failed <= refused.quick.count / 50
