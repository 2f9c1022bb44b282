"""The watchdog on a load balancer, before a real HTTP server that dies, hangs and returns."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.unit.hosts.programs import load

INTERVAL = 0.02
FAILURES = 5


watchdog = load("watchdog")


class StandInHAProxy:
    """Answers as the health frontend does, on a port of its own."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.status = 200
        self.works = asyncio.Event()
        self.works.set()
        self.turns_away = False
        self.answers = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def die(self) -> None:
        assert self._server
        self._server.close()
        self.close_connections()

    def close_connections(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self.turns_away:
            writer.transport.abort()
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await self.works.wait()
                self.answers += 1
                writer.write(b"HTTP/1.1 %d Whatever\r\ncontent-length: 0\r\n\r\n" % self.status)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)


class Folder:
    """The files that keepalived follows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def becomes(self, file: str, value: str) -> None:
        async with asyncio.timeout(5):
            while not (self.path / file).exists() or (self.path / file).read_text() != value + "\n":  # noqa: ASYNC110
                await asyncio.sleep(INTERVAL / 4)

    async def stays(self, file: str, value: str, seconds: float) -> None:
        async with asyncio.timeout(seconds + 5):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                assert (self.path / file).read_text() == value + "\n"
                await asyncio.sleep(INTERVAL / 4)


Scenario = Callable[[StandInHAProxy, Folder], Awaitable[None]]


def play(tmp_path: Path, scenario: Scenario) -> None:
    async def whole() -> None:
        haproxy = StandInHAProxy()
        await haproxy.start()
        program = asyncio.create_task(watchdog.Watchdog(haproxy.port, INTERVAL, FAILURES, tmp_path).run())
        folder = Folder(tmp_path)
        await folder.becomes("haproxy", "0")
        await folder.becomes("api_servers", "0")
        await scenario(haproxy, folder)
        assert not program.done()
        program.cancel()

    asyncio.run(whole())


def test_a_dead_haproxy_is_reported_without_waiting_for_failed_requests(tmp_path: Path):
    async def scenario(haproxy: StandInHAProxy, folder: Folder) -> None:
        # Its next question is long after the connection's end: what is seen is the end.
        await haproxy.die()
        await folder.becomes("haproxy", "1")
        before = haproxy.answers
        await haproxy.start()
        await folder.becomes("haproxy", "0")
        assert haproxy.answers - before >= watchdog.RISE

    play(tmp_path, scenario)


def test_a_haproxy_that_hangs_is_reported_dead_until_it_answers_again(tmp_path: Path):
    async def scenario(haproxy: StandInHAProxy, folder: Folder) -> None:
        haproxy.works.clear()
        begin = time.monotonic()
        await folder.becomes("haproxy", "1")
        assert time.monotonic() - begin > INTERVAL * (FAILURES - 1)
        haproxy.works.set()
        await folder.becomes("haproxy", "0")

    play(tmp_path, scenario)


def test_a_reload_that_closes_connections_is_not_reported_as_dead(tmp_path: Path):
    async def scenario(haproxy: StandInHAProxy, folder: Folder) -> None:
        for _ in range(5):
            haproxy.close_connections()
            await folder.stays("haproxy", "0", INTERVAL * 3)

    play(tmp_path, scenario)


def test_a_haproxy_that_accepts_and_closes_connections_is_reported_dead(tmp_path: Path):
    async def scenario(haproxy: StandInHAProxy, folder: Folder) -> None:
        haproxy.turns_away = True
        haproxy.close_connections()
        await folder.becomes("haproxy", "1")
        haproxy.turns_away = False
        await folder.becomes("haproxy", "0")

    play(tmp_path, scenario)


def test_a_pause_of_the_whole_host_does_not_count_against_haproxy(tmp_path: Path):
    async def scenario(_: StandInHAProxy, folder: Folder) -> None:
        time.sleep(INTERVAL * FAILURES * 3)  # noqa: ASYNC251 nothing runs meanwhile, neither watchdog nor server
        await folder.stays("haproxy", "0", INTERVAL * FAILURES * 2)

    play(tmp_path, scenario)


def test_without_an_api_server_the_priority_drops_and_haproxy_counts_as_alive(tmp_path: Path):
    async def scenario(haproxy: StandInHAProxy, folder: Folder) -> None:
        haproxy.status = 503
        await folder.becomes("api_servers", "-50")
        assert (folder.path / "haproxy").read_text() == "0\n"
        haproxy.status = 200
        await folder.becomes("api_servers", "0")

    play(tmp_path, scenario)


class Clock:
    """What the watchdog believes the time to be."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock.now)
    return clock


# An IPv4 header of 20 bytes, then version and type, virtual router id, priority, one address, 100 ms.
ADVERTISEMENT = bytes([0x45]) + bytes(19) + bytes([0x31, 51, 250, 1, 0, 10, 0, 0])
HEAD = bytes([0x31, 51])
PRIORITY_0 = ADVERTISEMENT[:22] + b"\0" + ADVERTISEMENT[23:]


class StandInSocket:
    """Packets that have arrived."""

    def __init__(self, packet: bytes, source: str) -> None:
        self.packet, self.source = packet, source

    def recvfrom(self, _: int) -> tuple[bytes, tuple[str, int]]:
        return self.packet, (self.source, 0)


RIVAL_SECONDS = 0.5


class Pair:
    """This host's watchdog and its peer's advertisements."""

    def __init__(self, clock: Clock, folder: Path) -> None:
        self._clock, self._state = clock, folder / "vrrp_state"
        self.vrrp = StandInSocket(ADVERTISEMENT, "198.51.100.12")
        self.killed = 0
        self._rival = watchdog.Rival(self.vrrp, "198.51.100.12", HEAD, self._state, self._kill, seconds=RIVAL_SECONDS)

    def _kill(self) -> None:
        self.killed += 1

    def is_now(self, state: str) -> None:
        self._state.write_text(f"{state} 1\n")

    def hears(self, seconds: float) -> None:
        """An advertisement every tenth of a second."""
        for _ in range(round(seconds * 10)):
            self._rival.heard()
            self._clock.now += 0.1

    def hears_nothing(self, seconds: float) -> None:
        self._clock.now += seconds


@pytest.fixture
def pair(clock: Clock, tmp_path: Path) -> Pair:
    return Pair(clock, tmp_path)


@pytest.mark.parametrize(
    ("state", "packet", "seconds", "killed"),
    [
        ("MASTER", (ADVERTISEMENT, "198.51.100.12"), 0.8, True),
        ("MASTER", (ADVERTISEMENT, "198.51.100.12"), 0.4, False),
        ("BACKUP", (ADVERTISEMENT, "198.51.100.12"), 1.3, False),
        ("MASTER", (ADVERTISEMENT, "198.51.100.13"), 1.3, False),
        ("MASTER", (PRIORITY_0, "198.51.100.12"), 1.3, False),
        ("MASTER", (ADVERTISEMENT[:22], "198.51.100.12"), 1.3, False),
        # Another router id, another version: a change of VRRP itself, which has reached one of the two.
        ("MASTER", (ADVERTISEMENT[:21] + b"\x34" + ADVERTISEMENT[22:], "198.51.100.12"), 1.3, False),
        ("MASTER", (ADVERTISEMENT[:20] + b"\x21" + ADVERTISEMENT[21:], "198.51.100.12"), 1.3, False),
        # Killed once, and it still does not yield: it does not hang.
        ("MASTER", (ADVERTISEMENT, "198.51.100.12"), 20, True),
    ],
)
def test_a_keepalived_that_does_not_yield_to_its_advertising_peer_is_killed(
    pair: Pair, *, state: str, packet: tuple[bytes, str], seconds: float, killed: bool
):
    pair.is_now(state)
    pair.vrrp.packet, pair.vrrp.source = packet
    pair.hears(seconds)
    assert pair.killed == killed


def test_conflicts_far_apart_do_not_add_up(pair: Pair):
    pair.is_now("MASTER")
    for _ in range(20):
        pair.hears(0.3)
        pair.hears_nothing(1)
    assert not pair.killed


def test_what_a_standby_heard_before_it_took_over_is_no_conflict(pair: Pair):
    """It did not hear its peer for long enough to take the VIP, and hears it again: it yields by itself."""
    for _ in range(5):
        pair.is_now("BACKUP")
        pair.hears(2)
        pair.is_now("MASTER")
        pair.hears(0.3)
    assert not pair.killed
