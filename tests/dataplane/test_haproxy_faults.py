"""What faults of HAProxy cost clients, ours beside the seed's, with real daemons.

Bounds in seconds are generous, because the machine may be busy; what counts are ratios, which that hardly changes.
"""

from tests.dataplane.benched import Runs, outages

FAULTS = ("haproxy-stopped", "haproxy-hung")


def test_a_haproxy_that_stays_down_costs_less_than_a_tenth_of_what_it_costs_the_seed(runs: Runs):
    ours, seed = outages(runs, "haproxy-stopped")
    assert ours < 2
    assert ours < seed / 10


def test_a_haproxy_that_hangs_costs_less_than_a_fifth_of_what_it_costs_the_seed(runs: Runs):
    ours, seed = outages(runs, "haproxy-hung")
    assert ours < 4
    assert ours < seed / 5
