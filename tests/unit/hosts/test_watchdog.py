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


def play(tmp_path: Path, scenario: Scenario, failures: int = FAILURES) -> None:
    async def whole() -> None:
        haproxy = StandInHAProxy()
        await haproxy.start()
        program = asyncio.create_task(watchdog.Watchdog(haproxy.port, INTERVAL, failures, tmp_path).run())
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

    # A new connection takes several turns of the loop. On a busy machine each may last longer than INTERVAL, and with
    # FAILURES HAProxy would be reported as hung.
    play(tmp_path, scenario, failures=100)


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


OUT_AFTER, CLOSE_AFTER = 3, 5
STAT = "# pxname,svname,status,check_status,last_chk,\n"
ANSWERS, SILENT = "UP,L4OK,", "DOWN,L4TOUT,"
OUT = ["@1 set server apiserver/k8s-cp-0 health down"]
CLOSED = [f"@1 shutdown sessions server {backend}/k8s-cp-0" for backend in ("apiserver", "last-resort")]
PROCESSES = """\
#<PID>          <type>          <reloads>       <uptime>        <version>
11              master          1 [failed: 0]   0d00h00m04s     2.6.12-1+deb12u4
# workers
28              worker          0               0d00h00m01s     2.6.12-1+deb12u4
"""
OLD_PROCESS = """\
# old workers
12              worker          1               0d00h00m04s     2.6.12-1+deb12u4
# programs

"""
SESSION = "{id}: proto=tcpv4 src=198.51.100.5:1 fe=apiserver be=apiserver srv={server} {sides} exp=57s\n"
# Of HAProxy 2.6, and of 2.4.
SIDES = "scf=[8,0h,fd=13] scb=[{state},1h,fd=14]", "s0=[8,80008h,fd=13,ex=] s1=[{state},118h,fd=14,ex=]"


class StandInMaster:
    """Answers as HAProxy's master does, on a socket of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path / "master.sock"
        self.servers = [ANSWERS, ANSWERS]
        self.processes, self.sessions = PROCESSES + "# programs\n\n", ""
        self.orders: list[str] = []
        """The commands that change something."""
        self.cut: int | None = None
        """Where the statistics end, because HAProxy dies."""
        self.instead: str | None = None
        """What it says instead of statistics."""
        self.closes = asyncio.Event()
        """Until it is set, an order to close sessions gets no answer."""
        self.closes.set()

    def answer(self, command: str) -> str:
        match command:
            case "@1 show stat last-resort 4 -1":
                rows = enumerate(self.servers)
                stat = STAT + "".join(f"last-resort,k8s-cp-{index},{result},\n" for index, result in rows) + "\n"
                return stat[: self.cut] if self.instead is None else self.instead
            case "show proc":
                return self.processes
            case "@!12 show sess":
                return self.sessions + "\n"
            case order:
                self.orders.append(order)
                return "\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The master reads until its client has no more commands, and then ends the connection.
        commands = (await reader.read()).decode().removesuffix("\n").split(";")
        if "shutdown" in commands[0]:
            await self.closes.wait()
        writer.write("".join(map(self.answer, commands)).encode())
        writer.close()


def orders_after(tmp_path: Path, *phases: tuple[int, Callable[[StandInMaster], None]]) -> list[str]:
    """The watchdog's orders: in each phase something changes, and then it checks some times."""

    async def whole() -> list[str]:
        master = StandInMaster(tmp_path)
        sessions = watchdog.Sessions(master.path, INTERVAL, OUT_AFTER, CLOSE_AFTER)
        async with await asyncio.start_unix_server(master.serve, master.path):
            for checks, change in phases:
                change(master)
                for _ in range(checks):
                    await sessions.check()
            # What closes sessions goes on beside the checks.
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
        return master.orders

    return asyncio.run(whole())


def servers(*results: str) -> Callable[[StandInMaster], None]:
    """A change of what HAProxy's handshakes show, for each API server."""

    def change(master: StandInMaster) -> None:
        master.servers = list(results)

    return change


@pytest.mark.parametrize(
    "silent", [SILENT, "DOWN,* L4TOUT,", "DOWN,L4CON,No route to host", "DOWN,* L4CON,No route to host"]
)
def test_a_server_that_answers_no_handshake_is_taken_out_and_later_its_sessions_are_closed_once(
    tmp_path: Path, silent: str
):
    assert orders_after(tmp_path, (OUT_AFTER - 1, servers(silent, ANSWERS))) == []
    assert orders_after(tmp_path, (CLOSE_AFTER - 1, servers(silent, ANSWERS))) == OUT
    assert orders_after(tmp_path, (20, servers(silent, ANSWERS))) == OUT + CLOSED


@pytest.mark.parametrize("result", [ANSWERS, "UP,* L4OK,", "UP,INI,", "DOWN,L4CON,Connection refused"])
def test_the_sessions_of_a_server_stay_whose_host_answers(tmp_path: Path, result: str):
    assert orders_after(tmp_path, (20, servers(result, ANSWERS))) == []


@pytest.mark.parametrize("other", [SILENT, "DOWN,L4CON,Connection refused"])
def test_all_sessions_stay_if_no_other_server_accepts_connections(tmp_path: Path, other: str):
    assert orders_after(tmp_path, (20, servers(SILENT, other))) == []
    # Servers come back one after another.
    assert orders_after(tmp_path, (20, servers(SILENT, other)), (2, servers(SILENT, ANSWERS))) == []


def test_handshakes_that_fail_now_and_then_do_not_add_up(tmp_path: Path):
    fails, works = (OUT_AFTER - 1, servers(SILENT, ANSWERS)), (1, servers(ANSWERS, ANSWERS))
    assert orders_after(tmp_path, *(fails, works) * 10) == []


def test_a_server_that_answers_again_in_time_keeps_its_sessions(tmp_path: Path):
    assert orders_after(tmp_path, (OUT_AFTER, servers(SILENT, ANSWERS)), (20, servers(ANSWERS, ANSWERS))) == OUT


@pytest.mark.parametrize("sides", SIDES)
def test_an_old_process_closes_those_that_are_established_one_by_one(tmp_path: Path, sides: str):
    established = [f"0x{number}" for number in range(250)]

    def session(identity: str, server: str, state: int) -> str:
        return SESSION.format(id=identity, server=server, sides=sides.format(state=state))

    def reloaded(master: StandInMaster) -> None:
        master.servers = [SILENT, ANSWERS]
        master.processes = PROCESSES + OLD_PROCESS
        master.sessions = "".join(session(it, "k8s-cp-0", 8) for it in established)
        master.sessions += session("0xa", "k8s-cp-0", 5)
        master.sessions += session("0xb", "k8s-cp-1", 8)
        # Of a frontend, whose servers have the same names.
        master.sessions += session("0xc", "k8s-cp-0", 8).replace("be=apiserver", "be=rke2")

    orders = orders_after(tmp_path, (20, reloaded))
    assert orders == OUT + CLOSED + [f"@!12 shutdown session {it}" for it in established]


def test_a_haproxy_that_does_not_answer_is_logged_once_and_checked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    async def whole() -> None:
        master = StandInMaster(tmp_path)
        master.servers = [SILENT, ANSWERS]
        program = asyncio.create_task(watchdog.Sessions(master.path, INTERVAL, OUT_AFTER, CLOSE_AFTER).run())
        await asyncio.sleep(INTERVAL * 3)
        async with await asyncio.start_unix_server(master.serve, master.path), asyncio.timeout(5):
            while master.orders != OUT + CLOSED:  # noqa: ASYNC110
                await asyncio.sleep(INTERVAL)
        assert not program.done()
        program.cancel()

    asyncio.run(whole())
    assert capsys.readouterr().err.count("no answer on") == 1


@pytest.mark.parametrize("answer", ["", "Can't find the target PID matching the prefix '@1'\n\n", "Unknown\ncommand\n"])
def test_an_answer_without_statistics_is_none(tmp_path: Path, answer: str):
    def says(master: StandInMaster) -> None:
        master.instead = answer

    with pytest.raises(OSError, match="no statistics"):
        orders_after(tmp_path, (1, says))


@pytest.mark.parametrize("last", ["last-res", "last-resort,k8s-cp-0", "last-resort,k8s-cp-0,DOWN,L4"])
def test_statistics_that_end_in_the_middle_are_no_answer(tmp_path: Path, last: str):
    def dies(master: StandInMaster) -> None:
        master.servers, master.cut = [SILENT, ANSWERS], len(STAT + last)

    with pytest.raises(OSError, match="not all"):
        orders_after(tmp_path, (1, dies))


def test_checks_go_on_while_many_sessions_are_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 1.5)

    async def whole() -> None:
        master = StandInMaster(tmp_path)
        master.servers = [SILENT, ANSWERS, ANSWERS]
        master.closes.clear()
        program = asyncio.create_task(watchdog.Sessions(master.path, INTERVAL, OUT_AFTER, CLOSE_AFTER).run())
        async with await asyncio.start_unix_server(master.serve, master.path), asyncio.timeout(10):
            while master.orders != OUT:  # noqa: ASYNC110
                await asyncio.sleep(INTERVAL)
            await asyncio.sleep(INTERVAL * CLOSE_AFTER)
            master.servers[1] = SILENT
            while len(master.orders) < 2:  # noqa: ASYNC110
                await asyncio.sleep(INTERVAL)
            master.closes.set()
            while len(master.orders) < 2 + 2 * len(CLOSED):  # noqa: ASYNC110
                await asyncio.sleep(INTERVAL)
        program.cancel()
        another = [order.replace("k8s-cp-0", "k8s-cp-1") for order in CLOSED]
        assert master.orders == [*OUT, OUT[0].replace("k8s-cp-0", "k8s-cp-1"), *CLOSED, *another]

    asyncio.run(whole())
    assert "no answer" not in capsys.readouterr().err


def test_closing_that_fails_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watchdog, "CLOSE_SECONDS", 0.2)

    async def whole() -> None:
        master = StandInMaster(tmp_path)
        master.servers = [SILENT, ANSWERS]
        master.closes.clear()
        program = asyncio.create_task(watchdog.Sessions(master.path, INTERVAL, OUT_AFTER, CLOSE_AFTER).run())
        async with await asyncio.start_unix_server(master.serve, master.path), asyncio.timeout(10):
            while master.orders.count(OUT[0]) < 2:  # noqa: ASYNC110
                await asyncio.sleep(INTERVAL)
            master.closes.set()
        assert not program.done()
        program.cancel()

    asyncio.run(whole())
    assert "not all sessions of k8s-cp-0 are closed" in capsys.readouterr().err
