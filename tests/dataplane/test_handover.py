"""The VIP moves on purpose, with the real keepalived and HAProxy: connections that are held through it go on.

Bounds in seconds are generous, because the machine may be busy; ADR 45 has what was measured.
"""

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from dev.bench.world import INTERFACE, KEEPALIVED, VIP, World, wait_for
from tests.dataplane.client import Client
from tests.dataplane.moves import HANDOVER, STATUS, left_behind, move, on, wait_until_nothing_is_left, work
from tests.watches import Watch, ends_after

WATCHES = 30
HELD_CONNECTIONS = "ha-api-held-connections.service"
# Longer than a move takes, and more than a tracker lets pass that sees one direction only.
DOWNLOAD_BYTES = 100 << 20


@pytest.fixture
def watches(client: Client) -> Iterator[list[Watch]]:
    """Connections through the holder."""
    watches = client.watch(WATCHES)
    yield watches
    for it in watches:
        it.connection.close()


def test_held_connections_go_on_busy_or_quiet_and_nothing_is_left_behind(world: World, watches: list[Watch]):
    busy, quiet = watches[:15], watches[15:]
    old, new = move(world)
    for _ in range(10):
        assert work(busy) == len(busy)
        time.sleep(0.1)
    assert work(quiet) == len(quiet)
    assert (old.root / STATUS).exists()
    for it in watches:
        it.connection.close()
    wait_for("the grace ends", lambda: not (old.root / STATUS).exists(), 15)
    wait_until_nothing_is_left(old, new)


def test_a_download_that_is_under_way_is_completed(world: World, client: Client):
    received = client.begin_download(DOWNLOAD_BYTES)
    time.sleep(1)
    move(world)
    assert received() == DOWNLOAD_BYTES


def test_a_client_s_full_segment_fits_into_the_tunnel(world: World, watches: list[Watch]):
    mtu = int(on(world.holder, "cat", f"/sys/class/net/{INTERFACE}/mtu"))
    segment = watches[0].connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    assert mtu - 150 < segment <= mtu - 90


def test_a_second_move_during_the_grace_keeps_all_connections(world: World, client: Client, watches: list[Watch]):
    move(world)
    later = client.watch(WATCHES)
    assert work(watches) == WATCHES
    move(world)
    for _ in range(3):
        assert work([*watches, *later]) == 2 * WATCHES
        time.sleep(0.5)
    move(world)
    assert work([*watches, *later]) == 2 * WATCHES


def test_if_the_new_holder_dies_the_old_one_serves_its_connections_again(
    world: World, client: Client, watches: list[Watch]
):
    _, new = move(world)
    later = client.watch(WATCHES)
    time.sleep(2.5)
    assert work(watches) == WATCHES
    world.segment.isolate(new.name)
    # Those of the new holder end as after any death.
    assert len(ends_after(later, 6)) == WATCHES
    assert work(watches) == WATCHES


def test_if_the_old_holder_dies_its_clients_notice(world: World, watches: list[Watch]):
    old, _ = move(world)
    assert work(watches) == WATCHES
    time.sleep(2.5)
    world.segment.isolate(old.name)
    ends = [seconds for _, seconds in ends_after(watches, 10)]
    assert len(ends) == WATCHES
    assert max(ends) < 5


def test_what_is_left_after_the_grace_is_closed_in_order(world: World, watches: list[Watch]):
    old, new = move(world, grace=6)
    assert work(watches) == WATCHES
    for it in watches:
        it.connection.settimeout(10)
        # Not a reset.
        with suppress(ssl.SSLEOFError):
            assert it.connection.recv(1) == b""
    wait_for("the grace ends", lambda: not (old.root / STATUS).exists(), 5)
    wait_until_nothing_is_left(old, new)


def test_a_shutdown_gives_requests_in_progress_time_to_end(world: World, watches: list[Watch]):
    old, new = world.holder, world.peer
    with ThreadPoolExecutor(1) as background, closing(watches[0].connection):
        down = background.submit(old.shut_down, world.holders)
        wait_for("the VIP moves", lambda: world.holders.current() == [new.name], 5)
        for _ in range(10):
            assert work(watches) == WATCHES
            time.sleep(0.1)
        for it in watches:
            it.connection.close()
        down.result(20)


def test_without_a_peer_that_can_help_the_vip_moves_nevertheless(world: World):
    old, new = world.holder, world.peer
    assert new.systemctl("stop", HELD_CONNECTIONS) is None
    with pytest.raises(subprocess.CalledProcessError):
        on(old, "/usr/bin/python3", HANDOVER, "--grace", "60")
    assert old.systemctl("restart", KEEPALIVED) is None
    wait_for("the VIP moves", lambda: world.holders.current() == [new.name], 5)
    assert left_behind(old) == ""
    assert world.clients.ask(str(VIP))
