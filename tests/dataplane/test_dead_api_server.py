"""Connections through HAProxy to an API server that dies, stops or is slow, with the real HAProxy and watchdog.

Bounds in seconds are generous, because the machine may be busy; docs/failover.md has what was measured.
"""

import select
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from socket import create_connection

import pytest
from pyroute2 import netns

from dev.bench.clients import API_PORT
from dev.bench.configurations import CONFIGURATIONS
from dev.bench.world import API_SERVERS, HAPROXY, VIP, ApiServer, World, wait_for
from dev.standin.apiserver import BACKEND_HEADER
from model.topology import HEALTH_PORT
from tests.dataplane.benched import OURS

WATCHES, REQUESTS = 9, 100
REQUEST_EVERY_SECONDS = 0.02
# Longer than HAProxy tries another server, shorter than a retransmitted SYN after the third try.
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Watch:
    """A connection on which nothing is sent, like a watch of something that does not change."""

    connection: ssl.SSLSocket
    backend: str

    def works(self) -> bool:
        """Whether the API server answers on it."""
        self.connection.sendall(b".")
        return self.connection.recv(1) == b"."


class Client:
    """Opens connections in the network of the client."""

    def __init__(self, world: World) -> None:
        enter = netns.setns  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] partly typed
        network = f"/proc/{world.clients.pid}/ns/net"
        # A namespace belongs to a thread; its sockets keep it, in whatever thread they are used.
        self._threads = ThreadPoolExecutor(REQUESTS, initializer=enter, initargs=(network,))  # pyright: ignore[reportUnknownArgumentType]
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE

    def watch(self, count: int) -> list[Watch]:
        """Open watches, spread over the API servers."""
        opening = [self._threads.submit(self._watch) for _ in range(count)]
        return [watch.result() for watch in opening]

    def begin_request(self) -> Callable[[], str]:
        """Begin a request on a new connection; calling the result waits, and returns the API server that answered."""
        return self._threads.submit(self._request).result

    def is_ready(self, host: str) -> bool:
        """Whether an API server is ready, in the eyes of the HAProxy on a host."""
        return self._threads.submit(self._status, host).result() == b"200"

    def close(self) -> None:
        """End its threads."""
        self._threads.shutdown()

    def _open(self, request: str) -> tuple[ssl.SSLSocket, str]:
        plain = create_connection((str(VIP), API_PORT), PATIENCE_SECONDS)
        connection = self._tls.wrap_socket(plain)
        connection.sendall(f"GET {request} HTTP/1.1\r\nHost: api\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = connection.recv(1)
            if not byte:
                raise ConnectionError("closed before the answer")
            head += byte
        return connection, head.decode().partition(f"{BACKEND_HEADER}: ")[2].partition("\r\n")[0]

    def _watch(self) -> Watch:
        return Watch(*self._open("/watch"))

    def _request(self) -> str:
        connection, backend = self._open("/readyz")
        connection.close()
        return backend

    @staticmethod
    def _status(host: str) -> bytes:
        with create_connection((host, HEALTH_PORT), PATIENCE_SECONDS) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return connection.recv(100).split(b" ")[1]


def ends_after(watches: Sequence[Watch], seconds: float) -> list[tuple[Watch, float]]:
    """The watches whose end arrives within some seconds, each with the seconds until then."""
    begin, ends = time.monotonic(), list[tuple[Watch, float]]()
    left = {watch.connection: watch for watch in watches}
    while left and (now := time.monotonic()) < begin + seconds:
        for connection in select.select(list(left), (), (), begin + seconds - now)[0]:
            # Not suddenly silent, and not with an answer.
            with suppress(ConnectionResetError, ssl.SSLEOFError):
                assert connection.recv(1) == b""
            ends.append((left.pop(connection), time.monotonic() - begin))
    return ends


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(CONFIGURATIONS[OURS].files, tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def world(built: World) -> World:
    built.repair()
    return built


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with ExitStack() as stack:
        client = Client(world)
        stack.callback(client.close)
        yield client


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
    for server in world.api_servers:
        world.segment.isolate(server.name)
    assert ends_after(watches, 4) == []
    world.segment.restore()
    # Not all at the same moment: TCP has waited for longer and longer between two tries.
    assert ends_after(watches, 3) == []
    assert all(watch.works() for watch in watches)
