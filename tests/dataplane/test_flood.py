"""Floods of a frontend, on a machine that does nothing else meanwhile: `make dataplane` runs it by itself."""

import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median

import pytest

from dev.bench.clients import ClientsReport
from dev.bench.world import DIE_WITH_BENCH, TOP_PRIORITY, VIP, World, wait_for
from tests.dataplane import flood
from tests.dataplane.frontends import BURST, RATE, SHARE, ask, connections, files, workers

SECONDS = 8.0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Our pair with a frontend, and the workers behind it."""
    folder = tmp_path_factory.mktemp("world")
    with World(files, folder) as world:
        world.repair()
        with workers(world, folder):
            yield world


@contextmanager
def flooded(world: World, how: str, count: int, processes: int = 1) -> Generator[list[int]]:
    """A flood for as long as the context lasts; afterwards how many connections or answers each process had."""
    # What floods gets the CPU time that is left: what is measured is HAProxy, not the machine of the tests.
    inside = ["nsenter", f"--net=/proc/{world.clients.pid}/ns/net", "nice", "-n", str(19 - TOP_PRIORITY)]
    command = [*DIE_WITH_BENCH, *inside, sys.executable, flood.__file__, how, str(VIP), "443", str(count)]
    had: list[int] = []
    with ExitStack() as stack:
        floods: list[subprocess.Popen[str]] = []
        for _ in range(processes):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            floods.append(stack.enter_context(process))
            # Of a test that fails: the next one's machine does nothing else.
            stack.callback(process.kill)
        for process in floods:
            assert process.stdout
            assert process.stdout.readline() == "tried\n"
        yield had
        had += [int(process.communicate(timeout=60)[0]) for process in floods]


def api_requests(world: World) -> tuple[Sequence[float], ClientsReport]:
    """Requests to the API for some seconds, each on a new connection; the seconds that the answered ones took."""
    world.clients.begin(0.02)
    time.sleep(SECONDS)
    report = world.clients.end()
    return [it.ended - it.started for it in report.quick.report.samples if not it.failure], report


def insist(quiet: Sequence[float], report: ClientsReport, times: Sequence[float]) -> None:
    """The API's clients lost nothing. The bound is wide: the flood itself needs a part of the machine."""
    assert not [held for held in report.held if held.lost_at]
    assert not report.patient[-1].report.failures, "of requests with a timeout of 5 s"
    assert median(times) < 5 * median(quiet) + 0.05


def test_clients_that_fill_a_frontend_take_nothing_from_the_api(world: World):
    quiet, _ = api_requests(world)
    moved = world.holders.last_change
    with flooded(world, "hold", 10_000, processes=2) as had:
        wait_for("the frontend is full", lambda: connections(world.holder) == SHARE, 120)
        times, report = api_requests(world)
        assert connections(world.holder) == SHARE
        assert not ask(world), "there is room for one more"
    assert sum(had) > SHARE
    insist(quiet, report, times)
    assert world.holders.last_change == moved


def test_a_frontend_s_new_connections_take_nothing_from_the_api(world: World):
    quiet, _ = api_requests(world)
    moved = world.holders.last_change
    begin = time.monotonic()
    with flooded(world, "churn", 300) as had:
        times, report = api_requests(world)
    assert RATE < sum(had) < BURST + RATE * (time.monotonic() - begin)
    insist(quiet, report, times)
    assert world.holders.last_change == moved
