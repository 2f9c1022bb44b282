"""What faults cost clients, with the real keepalived and HAProxy: our configuration beside the seed's, in one bench.

Bounds on seconds are generous, for the machine may be busy; what counts are ratios, which that hardly changes.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.faults import QUICK
from dev.bench.results import Results, Run
from dev.bench.storm import measure

OURS, SEED = "default", "seed"
ALONE = ("vip-added", "partition", "holder-without-api", "api-all-down")

Runs = Mapping[tuple[str, str], Run]


def bench(out: Path, *options: str) -> Results:
    done = subprocess.run(
        [sys.executable, "-m", "dev.bench", *options, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Results.read(Path(out, "results.json"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A few faults with the seed's configuration beside ours."""
    results = bench(tmp_path_factory.mktemp("quick"), "--quick")
    found = {(run.configuration, run.fault): run for run in results.runs}
    assert found.keys() == {(configuration, fault) for configuration in (OURS, SEED) for fault in QUICK}
    return found


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    """Faults in which ours does something of its own, once each."""
    only = [option for fault in ALONE for option in ("--only", fault)]
    results = bench(tmp_path_factory.mktemp("ours"), "--configuration", OURS, "--repeats", "1", *only)
    return {run.fault: run for run in results.runs}


def outages(runs: Runs, fault: str) -> tuple[float, float]:
    """Ours and the seed's, in seconds, without what may be the probe's own."""
    ours, seed = runs[OURS, fault], runs[SEED, fault]
    for run in (ours, seed):
        assert run.longest_stall < 1
    return ours.quick.longest_gap - ours.longest_stall, seed.quick.longest_gap - seed.longest_stall


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


def test_two_lists_of_vips_never_make_two_holders(ours: Mapping[str, Run]):
    run = ours["vip-added"]
    assert (run.split_brain, run.changes, run.held_lost) == (0, 0, 0)


def test_a_partition_that_heals_leaves_nobody_with_the_one_that_yielded(ours: Mapping[str, Run]):
    run = ours["partition"]
    assert run.mended_at is not None
    assert sum(map(len, run.holders.values())) == 2
    # Half a second for the moment in which one yields; without its last advertisement it was five.
    assert not [at for at in run.quick.failures if at > run.mended_at + 0.5 + run.longest_stall]


def test_a_holder_that_reaches_no_api_server_gives_the_vip_to_a_peer_that_does(ours: Mapping[str, Run]):
    run = ours["holder-without-api"]
    assert run.changes == 1
    assert run.quick.longest_gap < 4


def test_the_vip_stays_when_all_api_servers_go_and_come_back(ours: Mapping[str, Run]):
    assert ours["api-all-down"].changes == 0


def test_thousands_of_clients_at_once_are_answered_and_do_not_move_the_vip(tmp_path: Path):
    storm = measure(CONFIGURATIONS[OURS], 2000, tmp_path)
    assert not storm.moved
    assert None not in storm.at_vip
    assert None not in storm.after_death
