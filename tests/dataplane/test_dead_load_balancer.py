"""Connections through a load balancer that dies, with the real keepalived and HAProxy: their clients notice it at once.

Bounds in seconds are generous, because the machine may be busy; docs/failover.md has what was measured.
"""

import signal
import struct
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from socket import SO_LINGER, SOL_SOCKET, create_connection, create_server, inet_aton

import pytest

from dev.bench.world import KEEPALIVED, VIP, Machine, World, wait_for
from dev.lab.progress import console
from model.topology import API_PORT
from tests.dataplane.client import Client
from tests.unit.hosts.programs import load
from tests.watches import Watch, ends_after

WATCHES = 30
# Outside of those that Linux chooses from.
FIRST_PORT = 20_000
HELD_CONNECTIONS = "ha-api-held-connections.service"
# Two snapshots reach the peer.
SNAPSHOTS_SECONDS = 2.5
# The peer learns of a new connection within 0.1 s.
NEW_SECONDS = 0.3


def nothing(machine: Machine) -> None:
    pass


def restart(machine: Machine) -> None:
    assert machine.systemctl("restart", HELD_CONNECTIONS) is None


def kill(machine: Machine) -> None:
    """It knows the connections afterwards, but none of their numbers."""
    machine.signal(signal.SIGKILL, HELD_CONNECTIONS)
    time.sleep(2)


def sockets(machine: Machine, *state: str) -> str:
    """Its connections to the VIP: of a state, or those that have not ended."""
    command = ["nsenter", "--target", str(machine.pid), "--net", "ss", "-Htn", *state, "src", f"{VIP}:{API_PORT}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def drop_invalid(machine: Machine) -> Generator[None]:
    """As firewalld does: packets that belong to no connection that the kernel tracks."""

    def nft(command: str) -> None:
        words = ["nsenter", "--target", str(machine.pid), "--net", "nft", command]
        subprocess.run(words, check=True, capture_output=True)

    rules = "ct state invalid drop;"
    nft(f"table ip strict {{ chain input {{ type filter hook input priority 0; {rules}; }}; }}")
    try:
        yield
    finally:
        nft("delete table ip strict")


def check(world: World, watches: Sequence[Watch], *, quiet_seconds: float = SNAPSHOTS_SECONDS) -> None:
    """All notice the death of the holder soon, for so long after the last data."""
    time.sleep(SNAPSHOTS_SECONDS)
    assert all(watch.works() for watch in watches)
    time.sleep(quiet_seconds)
    cut_off(world, watches)


def cut_off(world: World, watches: Sequence[Watch]) -> None:
    """All notice soon that the holder is gone."""
    # Not by killing its processes: then its kernel would end their connections.
    world.segment.isolate(world.holder.name)
    ends = [seconds for _, seconds in ends_after(watches, 6)]
    console.print(
        f"{len(ends)} of {len(watches)} ended, after {min(ends, default=0):.2f} to {max(ends, default=0):.2f} s"
    )
    assert len(ends) == len(watches)
    assert max(ends) < 3


@pytest.mark.parametrize("what", [nothing, restart, kill])
def test_quiet_watches_through_a_dead_holder_end_at_once(world: World, client: Client, what: Callable[[Machine], None]):
    watches = client.watch(WATCHES)
    what(world.holder)
    check(world, watches)


def test_a_firewall_that_drops_what_it_does_not_know_lets_them_end(world: World, client: Client):
    with drop_invalid(world.peer):
        check(world, client.watch(WATCHES))


def test_watches_that_have_just_had_an_event_end_as_well(world: World, client: Client):
    check(world, client.watch(WATCHES), quiet_seconds=0)


def test_clients_of_which_the_new_holder_has_an_older_connection_end_as_well(world: World, client: Client):
    """From the same port, through itself: it was cut off, so neither its sockets nor its tracker know of the end."""
    # When the one that was cut off is back, the higher address keeps the VIP, and that has to be the other one.
    _, higher = world.machines
    if world.holder is higher:
        assert higher.systemctl("restart", KEEPALIVED) is None
        world.wait_until_serving(40, world.machines)
    first, second = world.holder, world.peer
    with drop_invalid(first):
        before = client.watch(WATCHES, FIRST_PORT)
        time.sleep(NEW_SECONDS)
        cut_off(world, before)
        for it in before:
            it.connection.close()
        world.segment.restore()
        world.wait_until_serving(40, world.machines)
        assert world.holder is second
        check(world, client.watch(WATCHES, FIRST_PORT))


def test_clients_of_which_the_new_holder_has_a_connection_in_time_wait_end_as_well(world: World, client: Client):
    """From the same port: its kernel acknowledges what they send, instead of resetting them."""
    first, second = world.holder, world.peer
    client.leave_in_time_wait(WATCHES, FIRST_PORT)
    # Not all: a client whose own end comes first is in TIME-WAIT itself.
    wait_for("most are in TIME-WAIT", lambda: len(sockets(first, "state", "time-wait").splitlines()) > WATCHES / 2, 5)
    assert first.systemctl("restart", KEEPALIVED) is None
    world.wait_until_serving(40, world.machines)
    assert world.holder is second
    check(world, client.watch(WATCHES, FIRST_PORT))


def test_watches_through_a_holder_that_gives_the_vip_up_end_as_well(world: World, client: Client):
    """The other one was cut off and has had the VIP all the time, so nothing tells it that the VIP has come."""
    cut, other = world.holder, world.peer
    world.segment.isolate(cut.name)
    watches = client.watch(WATCHES)
    time.sleep(SNAPSHOTS_SECONDS)
    assert all(watch.works() for watch in watches)
    # Until the last answers are acknowledged (delayed ACK); nobody is there to reset those whose are not.
    time.sleep(NEW_SECONDS)
    assert other.systemctl("stop", KEEPALIVED) is None
    ends = [seconds for _, seconds in ends_after(watches, 6)]
    console.print(f"{len(ends)} ended, after {min(ends, default=0):.2f} to {max(ends, default=0):.2f} s")
    assert len(ends) == WATCHES
    assert max(ends) < 3
    # Once the VIP is back, a socket that is left gets the segments of a later connection from the same port.
    wait_for("its own sockets are gone", lambda: not sockets(other), 10)


def test_watches_that_have_just_begun_end_as_well(world: World, client: Client):
    watches = client.watch(WATCHES)
    time.sleep(NEW_SECONDS)
    cut_off(world, watches)


def test_those_who_have_reconnected_keep_their_new_connections(world: World, client: Client):
    world.segment.isolate(world.holder.name)
    watches = client.watch(WATCHES)
    assert ends_after(watches, 3) == []
    assert all(watch.works() for watch in watches)


def test_of_a_hosts_sockets_only_those_that_are_meant_are_ended():
    held = load("held_connections")
    with create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        pairs = [(create_connection(("127.0.0.1", port), 5), server.accept()[0]) for _ in range(2)]
        sockets = [it.socket for it in held.connections(inet_aton("127.0.0.1"), port)]
        assert len(sockets) == len(pairs)
        client, gone = pairs.pop()
        # Reset, so that nothing is left of it.
        gone.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        client.close()
        held.destroy(sockets)
        with pairs[0][0] as left, pytest.raises(ConnectionResetError):
            left.recv(1)
        # By its addresses, the kernel finds the listening socket for the one that is gone.
        with create_connection(("127.0.0.1", port), 5):
            server.accept()[0].close()
