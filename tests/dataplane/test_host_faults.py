"""What faults of a load balancer and its keepalived cost clients, ours beside the seed's, with real daemons.

Bounds in seconds are generous, because the machine may be busy; what counts are ratios, which that hardly changes.
"""

import math

from dev.bench.summary import summarize
from tests.dataplane.benched import OURS, SEED, Runs, outages

FAULTS = ("node-death", "node-returns", "keepalived-killed")


def test_a_dead_load_balancer_costs_less_than_half_of_what_it_costs_the_seed(runs: Runs):
    ours, seed = outages(runs, "node-death")
    assert ours < 2
    assert ours < seed / 2


def test_clients_hear_of_a_dead_load_balancer_soon_which_the_seed_s_never_do_if_they_only_listen(runs: Runs):
    ours, seed = (summarize([runs[name, "node-death"]]).kinds for name in (OURS, SEED))
    assert max(spread.worst for spread in ours.values()) < 2
    assert (seed["watch"].worst, seed["events"].worst) == (math.inf, math.inf)
    assert seed["writes"].worst < math.inf


def test_a_load_balancer_that_returns_moves_nothing(runs: Runs):
    returned = runs[OURS, "node-returns"]
    assert (returned.changes, returned.held_lost) == (0, 0)
    # The same return moves the seed's VIP, so the run can show a move.
    assert runs[SEED, "node-returns"].changes == 1


def test_a_killed_keepalived_leaves_two_holders_for_less_than_half_as_long_as_the_seed(runs: Runs):
    ours, seed = (runs[name, "keepalived-killed"].two_holders for name in (OURS, SEED))
    assert ours < 2
    assert ours < seed / 2
