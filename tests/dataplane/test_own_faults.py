"""Faults that our configuration has an answer of its own to, with the real keepalived and HAProxy."""

from collections.abc import Mapping

from dev.bench.results import Run

FAULTS = ("vip-added", "partition", "holder-without-api", "api-401", "api-all-down")


def test_a_second_vip_that_reaches_one_load_balancer_first_never_makes_two_holders(our_runs: Mapping[str, Run]):
    run = our_runs["vip-added"]
    assert (run.two_holders, run.changes, run.held_lost) == (0, 0, 0)


def test_after_a_partition_no_client_stays_with_the_load_balancer_that_yielded(our_runs: Mapping[str, Run]):
    run = our_runs["partition"]
    assert run.fixed_at is not None
    assert sum(map(len, run.holders.values())) == 2
    # Half a second for the moment in which one yields; without its last advertisement all requests failed for five.
    late = [at for at in run.quick.failures if at > run.fixed_at + 0.5 + run.longest_stall]
    # A busy machine alone fails one or another of them.
    assert len(late) * run.pace < 0.5


def test_a_holder_that_reaches_no_api_server_hands_the_vip_to_a_peer_that_does(our_runs: Mapping[str, Run]):
    run = our_runs["holder-without-api"]
    assert run.changes == 1
    assert run.quick.longest_gap < 4


def test_the_vip_stays_when_all_api_servers_go_down_and_come_back(our_runs: Mapping[str, Run]):
    assert our_runs["api-all-down"].changes == 0


def test_api_servers_that_refuse_anonymous_checks_stay_in_use(our_runs: Mapping[str, Run]):
    refused = our_runs["api-401"]
    assert set(refused.backends_out.values()) == {None}
    assert (refused.held_lost, refused.changes) == (0, 0)
    # All of them out would fail four fifths of the requests. A busy machine alone has failed one in forty.
    assert refused.quick.failed < refused.quick.count / 4
