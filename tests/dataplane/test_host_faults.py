"""What faults of a load balancer and its keepalived cost clients, ours beside the seed's, with real daemons.

Bounds in seconds are generous, because the machine may be busy; what counts are ratios, which that hardly changes.
"""

from tests.dataplane.benched import OURS, SEED, Runs, outages

FAULTS = ("node-death", "node-returns", "keepalived-killed")


def test_a_dead_load_balancer_costs_less_than_half_of_what_it_costs_the_seed(runs: Runs):
    ours, seed = outages(runs, "node-death")
    assert ours < 2
    assert ours < seed / 2


def test_a_load_balancer_that_returns_moves_nothing(runs: Runs):
    returned = runs[OURS, "node-returns"]
    assert (returned.changes, returned.held_lost) == (0, 0)
    # The same return moves the seed's VIP, so the run can show a move.
    assert runs[SEED, "node-returns"].changes == 1


def test_a_killed_keepalived_leaves_two_holders_for_less_than_half_as_long_as_the_seed(runs: Runs):
    ours, seed = (runs[name, "keepalived-killed"].two_holders for name in (OURS, SEED))
    assert ours < 2
    assert ours < seed / 2
