"""Connections through HAProxy to an API server that dies, stops or is slow, with the real HAProxy and watchdog.

Bounds in seconds are generous, because the machine may be busy; docs/failover.md has what was measured.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from dev.bench.world import API_SERVERS, HAPROXY, ApiServer, World, wait_for
from tests.dataplane.client import Client
from tests.watches import Watch, ends_after

WATCHES, REQUESTS = 9, 100
REQUEST_EVERY_SECONDS = 0.02


def busiest(world: World, watches: Sequence[Watch]) -> ApiServer:
    """The API server with the most watches: one that has just come back gets few."""
    ((name, _),) = Counter(watch.backend for watch in watches).most_common(1)
    return next(server for server in world.api_servers if server.name == name)


def check_dead_and_alive(world: World, watches: Sequence[Watch]) -> None:
    """All watches of a server whose host dies now end soon, and the others work."""
    dead = busiest(world, watches).name
    world.segment.isolate(dead)
    ends = ends_after(watches, 4)
    assert {watch.backend for watch, _ in ends} == {dead}
    assert max(seconds for _, seconds in ends) < 2
    others = [watch for watch in watches if watch.backend != dead]
    assert len(others) == len(watches) - len(ends)
    assert all(watch.works() for watch in others)


def test_quiet_watches_of_a_dead_host_end_at_once_and_no_others(world: World, client: Client):
    check_dead_and_alive(world, client.watch(WATCHES))


def test_watches_that_an_old_haproxy_keeps_after_a_reload_end_as_well(world: World, client: Client):
    watches = client.watch(WATCHES)
    assert world.holder.systemctl("reload", HAPROXY) is None
    world.wait_until_serving(20, world.machines)
    check_dead_and_alive(world, watches)


def test_no_request_is_lost_that_another_server_can_answer(world: World, client: Client):
    dead = busiest(world, client.watch(WATCHES)).name
    world.segment.isolate(dead)
    answers: list[Callable[[], str]] = []
    for _ in range(REQUESTS):
        answers.append(client.begin_request())
        time.sleep(REQUEST_EVERY_SECONDS)
    assert {answer() for answer in answers} == set(API_SERVERS) - {dead}


@pytest.mark.parametrize("word", ["failing", "slow 3000"])
def test_watches_of_a_server_that_is_not_ready_stay(world: World, client: Client, word: str):
    watches = client.watch(WATCHES)
    hit = busiest(world, watches)
    hit.answer(word)
    assert ends_after(watches, 4) == []
    assert hit.name not in {client.begin_request()() for _ in range(6)}
    assert all(watch.works() for watch in watches)


def test_watches_of_a_server_that_stops_in_order_stay(world: World, client: Client):
    watches = client.watch(WATCHES)
    hit = busiest(world, watches)
    hit.stop_listening()
    assert ends_after(watches, 4) == []
    assert hit.name not in {client.begin_request()() for _ in range(6)}
    assert all(watch.works() for watch in watches)


def test_watches_stay_in_a_storm_in_which_all_checks_are_late(world: World, client: Client):
    watches = client.watch(WATCHES)
    for server in world.api_servers:
        server.answer("slow 2000")
    wait_for("no server is ready", lambda: not client.is_ready(world.holder.address), 10)
    assert ends_after(watches, 3) == []
    assert all(watch.works() for watch in watches)


def test_watches_stay_while_no_server_answers_at_all(world: World, client: Client):
    watches = client.watch(WATCHES)
    # One after the other would be dead while another one answers.
    world.segment.isolate(*API_SERVERS)
    assert ends_after(watches, 4) == []
    world.segment.restore()
    # Not all at the same moment: TCP has waited for longer and longer between two tries.
    assert ends_after(watches, 3) == []
    assert all(watch.works() for watch in watches)
