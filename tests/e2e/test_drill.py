"""Drills on a real pair: whole ones, refused ones, and ones that are cut off at every step.

The tests run in the order of the file; each leaves the pair whole.
"""

import html
import os
import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dev.lab.progress import console
from dev.lab_stack import Stack, environment
from dev.standin.hosts import StandIns
from operate.drill.faults import TABLE, UNDONE_BY_HOST_SECONDS, FaultName, Site
from operate.hosts.lock import hold_all
from operate.hosts.look import look
from operate.hosts.pair import BOOT_SECONDS, wait_for
from operate.stack.applied import AppliedStack, read_stack
from operate.stack.files import ROOT

NAME = "lab-drill"
CHROMIUM = [
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
]


class Ground:
    """The stack on which the drills take place."""

    def __init__(self, stack: AppliedStack) -> None:
        self.stack = stack
        self.site = Site(stack, patience=BOOT_SECONDS)

    def troubles(self) -> list[str]:
        """What is wrong with the pair."""
        report = look(self.stack)
        hosts = [f"{name}: {it}" for name, host in report.hosts.items() for it in (*host.troubles, *host.drift)]
        return [*report.troubles, *hosts]

    def wait_until_whole(self, seconds: float = 120) -> None:
        wait_for("the pair is whole", lambda: not self.troubles(), seconds)

    def status_of(self, name: str) -> str:
        return self.site.pair.instance(name).status

    def cut_off(self) -> list[str]:
        """The load balancers that have our table."""
        script = f"python3 -c 'import nftables; print(nftables.Nftables().cmd(\"list table {TABLE}\")[0])'"
        return [name for name in self.stack.outputs.load_balancers if self.site.run(name, script) == "0"]

    def stopped(self) -> list[str]:
        """The API servers that are stopped (SIGSTOP)."""
        script = "ps -o stat= -p $(ss -Hltnp 'sport = :6443' | grep -o 'pid=[0-9]*' | cut -d= -f2)"
        return [name for name in self.stack.outputs.control_plane if "T" in self.site.run(name, script)]


def ha(*arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run `./ha drill` to its end."""
    found = subprocess.run(
        [ROOT / "ha", "drill", "--stack", NAME, *arguments],
        env=os.environ | environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    console.print(found.stdout + found.stderr, markup=False, highlight=False)
    return found


@contextmanager
def running(fault: FaultName, *arguments: str) -> Generator[subprocess.Popen[str]]:
    """A drill that has begun with its fault."""
    process = subprocess.Popen(
        [ROOT / "ha", "drill", fault, "--stack", NAME, "--yes", *arguments],
        env=os.environ | environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
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


@pytest.fixture(scope="module")
def ground() -> Generator[Ground]:
    stack = Stack(NAME, {"clusterName": "drill", "controlPlaneCount": 3, "workerCount": 0})
    stack.destroy()
    stack.up()
    outputs = stack.outputs()
    StandIns(stack.access(), outputs.control_plane, outputs.vip).install()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        ground = Ground(read_stack(NAME))
        ground.wait_until_whole()
        yield ground
    stack.destroy()


def scroll_width(page: Path, width: int) -> int:
    """How wide a page is that a browser shows in a window of this width (its own windows are no narrower than 500)."""
    probe = "<script>onload = () => { document.title = document.documentElement.scrollWidth }</script></body>"
    copy = page.with_name("copy.html")
    copy.write_text(page.read_text().replace("</body>", probe))
    frame = page.with_name("frame.html")
    frame.write_text(
        f'<!doctype html><iframe srcdoc="{html.escape(copy.read_text())}" style="width:{width}px;border:0">'
        "</iframe><script>onload = () => { document.title = 'width ' + frames[0].document.title }</script>"
    )
    options = [f"--user-data-dir={page.parent / 'browser'}", "--virtual-time-budget=5000", "--dump-dom"]
    shown = subprocess.run(
        [*CHROMIUM, *options, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r"<title>width (\d+)</title>", shown.stdout)
    assert found, shown.stdout[-2000:] + shown.stderr[-2000:]
    return int(found[1])


def test_a_whole_drill_costs_clients_little_and_its_report_fits_every_screen(ground: Ground, tmp_path: Path):
    page, numbers = tmp_path / "drill.html", tmp_path / "drill.json"
    # Generous: the machine may be busy.
    found = ha("--yes", "--max-outage", "5s", "--report", str(page), "--json", str(numbers))
    assert found.returncode == 0, found.stdout + found.stderr
    for name in FaultName:
        assert f"{name}: on drill-" in found.stdout
    assert "Within the objective" in page.read_text()
    for secret in (ground.stack.configuration.private_key, *ground.stack.configuration.secrets):
        assert secret.strip() not in page.read_text() + numbers.read_text() + found.stdout
    assert scroll_width(page, 360) == 360
    assert scroll_width(page, 1200) == 1200
    assert ground.troubles() == []


def test_an_objective_that_is_missed_is_told(ground: Ground):
    found = ha("haproxy-killed", "--yes", "--max-outage", "1ms")
    assert found.returncode == 1
    assert "Over the objective of 0.001 s: haproxy-killed" in found.stdout
    assert ground.troubles() == []


def test_without_a_yes_nothing_is_done(ground: Ground):
    found = subprocess.run(
        [ROOT / "ha", "drill", "--stack", NAME], input="n\n", capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 2
    assert "Start?" in found.stdout
    assert ground.troubles() == []


def test_a_pair_that_is_not_whole_is_left_alone(ground: Ground):
    ground.site.run("drill-lb-0", "systemctl stop ha-api-watchdog")
    try:
        found = ha("--yes")
    finally:
        ground.site.run("drill-lb-0", "systemctl start ha-api-watchdog")
    assert found.returncode == 2
    told = " ".join((found.stdout + found.stderr).split())
    assert "so nothing was done: drill-lb-0: ha-api-watchdog is inactive" in told
    assert f"`./ha drill --put-back --stack {NAME}`" in told
    ground.wait_until_whole()


def test_another_operator_is_not_disturbed(ground: Ground):
    one = {"drill-lb-1": ground.stack.outputs.load_balancers["drill-lb-1"]}
    with hold_all(ground.stack.access, one, "a test"):
        found = ha("--yes")
    assert found.returncode == 2
    assert "drill-lb-1 is in use by" in found.stderr
    assert ", a test, since" in " ".join(found.stderr.split())


@pytest.mark.parametrize(
    ("fault", "number"),
    [*((fault, signal.SIGINT) for fault in FaultName), (FaultName.INSTANCE_STOPPED, signal.SIGTERM)],
)
def test_who_interrupts_a_drill_gets_everything_back(
    ground: Ground, tmp_path: Path, fault: FaultName, number: signal.Signals
):
    page = tmp_path / "drill.html"
    with running(fault, "--report", str(page)) as process:
        # In place by then, and not yet undone.
        time.sleep(3.5)
        process.send_signal(number)
        output, _ = process.communicate(timeout=300)
    console.print(output, markup=False)
    assert process.returncode == 128 + number
    assert f"interrupted ({number.name})" in page.read_text()
    assert ground.cut_off() == ground.stopped() == []
    assert {ground.status_of(name) for name in ground.stack.outputs.load_balancers} == {"ACTIVE"}
    ground.wait_until_whole()


def test_a_host_that_is_cut_off_by_a_drill_that_was_killed_heals_itself(ground: Ground):
    with running(FaultName.PARTITION) as process:
        wait_for("a host is cut off", lambda: bool(ground.cut_off()), 30)
        began = time.monotonic()
        process.kill()
    wait_for("it has healed itself", lambda: not ground.cut_off(), UNDONE_BY_HOST_SECONDS + 15)
    console.print(f"the host healed itself {time.monotonic() - began:.0f} s after it was cut off")
    ground.wait_until_whole()


def test_an_api_server_that_was_stopped_by_a_drill_that_was_killed_is_put_back_by_hand(ground: Ground):
    with running(FaultName.API_HUNG) as process:
        wait_for("an API server is stopped", lambda: bool(ground.stopped()), 30)
        process.kill()
    found = ha("--put-back")
    assert found.returncode == 0
    assert re.search(r"drill-cp-0: process \d+ continues", found.stdout)
    assert ground.stopped() == []
    ground.wait_until_whole()


def test_an_instance_that_was_stopped_by_a_drill_that_was_killed_is_found_and_started(ground: Ground):
    names = ground.stack.outputs.load_balancers
    with running(FaultName.INSTANCE_STOPPED) as process:
        wait_for("Nova was asked", lambda: any(ground.site.pair.instance(it).task_state for it in names), 30)
        process.kill()
    wait_for("it is off", lambda: any(ground.status_of(name) == "SHUTOFF" for name in names), 120)
    refused = ha("--yes")
    assert refused.returncode == 2
    assert f"`./ha drill --put-back --stack {NAME}`" in " ".join(refused.stderr.split())
    found = ha("--put-back")
    assert found.returncode == 0
    assert "its instance was started" in found.stdout
    ground.wait_until_whole()
    again = ha("--put-back")
    assert (again.returncode, again.stdout.strip()) == (0, "Nothing to undo.")
