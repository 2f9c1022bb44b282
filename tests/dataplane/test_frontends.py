"""Further ports of the VIP, in front of workers."""

import time
from collections.abc import Iterator

import pytest

from dev.bench.world import ADDRESSES, CLIENT, HAPROXY, WORKERS, World, hosts, wait_for
from dev.lab.progress import console
from tests.dataplane.client import Client
from tests.dataplane.frontends import ANOTHER, CONFIGURATION, INGRESS, ask, files, up, workers
from tests.dataplane.moves import STATUS, move, wait_until_nothing_is_left, work
from tests.watches import ends_after

WATCHES = 30
# Two snapshots reach the peer.
SNAPSHOTS_SECONDS = 2.5


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Our pair with a frontend, and the workers behind it."""
    folder = tmp_path_factory.mktemp("world")
    with World(files, folder) as world:
        world.repair()
        with workers(world, folder):
            yield world


@pytest.fixture
def world(world: World) -> World:
    """The same, with both workers in service."""
    wait_for("the holder reaches both workers", lambda: up(world.holder) == {*WORKERS}, 20)
    return world


def test_clients_reach_all_servers_which_learn_their_address(world: World):
    assert {ask(world) for _ in range(4)} == {f"{name} {ADDRESSES[CLIENT]}" for name in WORKERS}


def test_a_silent_server_costs_nobody_a_request_and_is_taken_out(world: World):
    world.segment.isolate(WORKERS[0])
    begin = time.monotonic()
    # Until it is taken out, one request in two tries it first.
    while up(world.holder) != {WORKERS[1]}:
        assert ask(world).startswith(WORKERS[1])
        assert time.monotonic() < begin + 15
    world.segment.restore()
    wait_for("it is back", lambda: up(world.holder) == {*WORKERS}, 15)


def test_a_frontend_without_servers_does_not_move_the_vip(world: World):
    holder = world.holder
    world.segment.isolate(*WORKERS)
    wait_for("no worker is left", lambda: not up(holder), 15)
    changed = world.holders.last_change
    # Longer than any reason to move it would take.
    time.sleep(3)
    assert (world.holder, world.holders.last_change) == (holder, changed)
    assert world.clients.ask(str(holder.address))
    assert not ask(world)


def test_a_reload_that_adds_a_frontend_interrupts_nothing(world: World):
    assert not ask(world, 8443)
    world.clients.begin(0.1)
    for machine, host in zip(world.machines, hosts(), strict=True):
        (text,) = (it.text for it in files(host, (INGRESS, ANOTHER)) if it.path == CONFIGURATION)
        assert machine.reload_with(CONFIGURATION, text, HAPROXY) is None
    wait_for("the new frontend serves", lambda: bool(ask(world, 8443)), 10)
    report = world.clients.end()
    assert not [held for held in report.held if held.lost_at]
    assert not [it.report.reasons for it in report.patient if it.report.failures]
    assert ask(world).startswith("k8s-worker-")


def test_clients_that_only_listen_are_reset_as_the_api_s_when_the_holder_dies(world: World, client: Client):
    api, ingress = client.watch(WATCHES), client.watch_ingress(WATCHES)
    time.sleep(SNAPSHOTS_SECONDS)
    assert all(watch.works() for watch in (*api, *ingress))
    time.sleep(SNAPSHOTS_SECONDS)
    world.segment.isolate(world.holder.name)
    ends = {id(watch): seconds for watch, seconds in ends_after([*api, *ingress], 6)}
    for name, watches in (("API", api), ("frontend", ingress)):
        ended = [ends[id(watch)] for watch in watches if id(watch) in ends]
        console.print(f"{name}: {len(ended)} of {len(watches)} ended, the last after {max(ended, default=0):.2f} s")
        assert len(ended) == len(watches)
        # As for the API's alone: test_dead_load_balancer.py.
        assert max(ended) < 3


def test_a_move_on_purpose_keeps_held_connections_and_closes_in_order_what_is_left(world: World, client: Client):
    api, ingress = client.watch(WATCHES), client.watch_ingress(WATCHES)
    old, new = move(world, grace=8)
    for _ in range(3):
        assert work([*api, *ingress]) == 2 * WATCHES
        time.sleep(0.5)
    for it in api:
        it.connection.close()
    # The frontend's are waited for as well.
    assert (old.root / STATUS).exists()
    for it in ingress:
        it.connection.settimeout(15)
        # Not a reset.
        assert it.connection.recv(1) == b""
        it.connection.close()
    wait_for("the grace ends", lambda: not (old.root / STATUS).exists(), 10)
    wait_until_nothing_is_left(old, new)
