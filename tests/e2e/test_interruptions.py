"""Drills that are refused, interrupted or killed. Nothing is measured here: test_faults.py does that.

The tests run in the order of the file; each leaves the pair whole.
"""

import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dev.lab.progress import console
from operate.drill.faults import TABLE, UNDONE_BY_HOST_SECONDS, FaultName
from operate.hosts.lock import hold_all
from operate.hosts.pair import wait_for
from operate.stack.files import ROOT
from tests.e2e.harness import System, start


@pytest.fixture(scope="module")
def pair(watched: System) -> Generator[System]:
    """The pair with three API servers, so that a drill can hang one, and without the secrets of other modules."""
    for secret in ("vrrpPassword", "apiClientCertificate"):
        watched.config.pop(secret, None)
    watched.up(controlPlaneCount=3)
    watched.serve()
    watched.wait_until_whole()
    yield watched
    assert watched.problems() == []


def cut_off(pair: System) -> list[str]:
    """The load balancers that have a drill's table."""
    listed = f"sudo python3 -c 'import nftables; print(nftables.Nftables().cmd(\"list table {TABLE}\")[0])'"
    return [name for name in pair.outputs.load_balancers if str(pair.run(name, listed).stdout).strip() == "0"]


def stopped(pair: System) -> list[str]:
    """The API servers that are stopped (SIGSTOP)."""
    state = "sudo sh -c 'ps -o stat= -p $(ss -Hltnp \"sport = :6443\" | grep -o pid=[0-9]* | cut -d= -f2)'"
    return [name for name in pair.outputs.control_plane if "T" in str(pair.run(name, state).stdout)]


def status_of(pair: System, name: str) -> str:
    return pair.pair.instance(name).status


@contextmanager
def running(pair: System, fault: FaultName, *arguments: str) -> Generator[subprocess.Popen[str]]:
    """A drill that has begun with its fault."""
    pair.wait_for_all_backends()
    command = (ROOT / "ha", "drill", fault, "--stack", pair.name, "--yes", *arguments)
    process = start(*command, env={"PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(f"{fault}: on"):
                break
        else:
            raise AssertionError("".join(lines))
        yield process
    finally:
        process.kill()
        process.wait()


def test_refusing_the_prompt_changes_nothing(pair: System):
    found = pair.ha("drill", stdin="n\n", status=2)
    assert "Start?" in found.stdout
    assert pair.problems() == []


def test_a_pair_that_is_not_whole_is_left_alone(pair: System):
    pair.do("watched-lb-0", "sudo systemctl stop ha-api-watchdog")
    try:
        found = pair.ha("drill", "--yes", status=2)
    finally:
        pair.do("watched-lb-0", "sudo systemctl start ha-api-watchdog")
    assert "watched-lb-0: ha-api-watchdog is inactive" in found.words
    assert f"`./ha drill --undo --stack {pair.name}`" in found.words
    pair.wait_until_whole()


def test_a_drill_does_not_disturb_another_operator(pair: System):
    one = {"watched-lb-1": pair.outputs.load_balancers["watched-lb-1"]}
    with hold_all(pair.access, one, "a test"):
        found = pair.ha("drill", "--yes", status=2)
    assert "watched-lb-1 is in use by" in found.words
    assert ", a test, since" in found.words


@pytest.mark.parametrize(
    ("fault", "number"),
    [
        pytest.param(FaultName.HAPROXY_KILLED, signal.SIGINT, marks=pytest.mark.extended),
        pytest.param(FaultName.KEEPALIVED_KILLED, signal.SIGINT, marks=pytest.mark.extended),
        (FaultName.INSTANCE_STOPPED, signal.SIGINT),
        pytest.param(FaultName.INSTANCE_STOPPED, signal.SIGTERM, marks=pytest.mark.extended),
        (FaultName.PARTITION, signal.SIGINT),
        pytest.param(FaultName.API_HUNG, signal.SIGINT, marks=pytest.mark.extended),
    ],
)
def test_an_interrupted_drill_undoes_its_fault(pair: System, tmp_path: Path, fault: FaultName, number: signal.Signals):
    page = tmp_path / "drill.html"
    with running(pair, fault, "--report", str(page)) as process:
        # In place by then, and not yet undone.
        time.sleep(3.5)
        process.send_signal(number)
        output, _ = process.communicate(timeout=300)
    console.print(output, markup=False)
    assert process.returncode == 128 + number
    assert f"interrupted ({number.name})" in page.read_text()
    assert cut_off(pair) == stopped(pair) == []
    assert {status_of(pair, name) for name in pair.outputs.load_balancers} == {"ACTIVE"}
    pair.wait_until_whole()


def test_a_host_heals_itself_when_the_drill_that_cut_it_off_was_killed(pair: System):
    with running(pair, FaultName.PARTITION) as process:
        wait_for("a host is cut off", lambda: bool(cut_off(pair)), 30)
        began = time.monotonic()
        process.kill()
    wait_for("it has healed itself", lambda: not cut_off(pair), UNDONE_BY_HOST_SECONDS + 15)
    console.print(f"the host healed itself {time.monotonic() - began:.0f} s after it was cut off")
    pair.wait_until_whole()


@pytest.mark.extended
def test_an_api_server_that_a_killed_drill_has_stopped_is_continued_by_the_operator(pair: System):
    with running(pair, FaultName.API_HUNG) as process:
        wait_for("an API server is stopped", lambda: bool(stopped(pair)), 30)
        process.kill()
    found = pair.ha("drill", "--undo")
    assert re.search(r"watched-cp-0: process \d+ continues", found.stdout)
    assert stopped(pair) == []
    pair.wait_until_whole()


@pytest.mark.extended
def test_an_instance_that_a_killed_drill_has_stopped_is_found_and_started(pair: System):
    names = pair.outputs.load_balancers
    with running(pair, FaultName.INSTANCE_STOPPED) as process:
        wait_for("Nova was asked", lambda: any(pair.pair.instance(it).task_state for it in names), 30)
        process.kill()
    wait_for("it is off", lambda: any(status_of(pair, name) == "SHUTOFF" for name in names), 120)
    refused = pair.ha("drill", "--yes", status=2)
    assert f"`./ha drill --undo --stack {pair.name}`" in refused.words
    assert "its instance was started" in pair.ha("drill", "--undo").stdout
    pair.wait_until_whole()
    assert "Nothing to undo" in pair.ha("drill", "--undo").stdout
