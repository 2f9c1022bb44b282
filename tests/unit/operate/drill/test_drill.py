"""A drill's order of events with fakes for hosts and cloud, its result, and its page."""

import re
import subprocess
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import StringIO
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console

from model.settings import FrontendSettings
from model.timers import Profile
from operate.commands import drill as command
from operate.commands.drill import seconds
from operate.drill import faults as faults_module
from operate.drill import run as run_module
from operate.drill.faults import (
    CHAIN,
    DRILL_FAULTS,
    UNDONE_BY_HOST_SECONDS,
    DrillFault,
    FaultName,
    InstanceStopped,
    OfEtcdsLeader,
)
from operate.drill.page import page, timeline
from operate.drill.result import Answers, DrillResult, Measured, Planned, Seen
from operate.drill.run import Drill
from operate.hosts.cluster import ClusterReport, Member, Node
from operate.hosts.lock import Lock
from operate.hosts.pair import PairError
from operate.hosts.ssh import HostError
from operate.hosts.state import HostState
from operate.measured import (
    FLOATING_IP,
    Lab,
    LabFault,
    OnPath,
    Range,
    Share,
    Spread,
    Summary,
    interruption,
    measurements,
)
from operate.probe import ProbeReport, Request, Sample
from operate.signals import DeferredSignals, InterruptionError
from operate.stack.engine import StackError

PAIR_FAULTS = {name: fault for name, fault in DRILL_FAULTS.items() if not issubclass(fault, OfEtcdsLeader)}


@pytest.mark.parametrize(("text", "expected"), [("1s", 1), ("500ms", 0.5), ("1.5s", 1.5), ("0s", 0)])
def test_durations(text: str, expected: float):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["1", "s", "-1s", "1m", "1 s", "1e3s", "", "1s; reboot"])
def test_an_invalid_duration_is_refused(text: str):
    with pytest.raises(typer.BadParameter, match="write 1s"):
        seconds(text)


def on_site(name: str, profile: Profile, floating_ip: str | None = None) -> DrillFault:
    site: Any = SimpleNamespace(profile=profile, outputs=SimpleNamespace(floating_ip=floating_ip))
    return DRILL_FAULTS[name](site)


def test_the_plan_expects_the_worst_that_was_measured():
    for name in PAIR_FAULTS:
        # After a stop through Nova keepalived sends priority 0; the bench has no Nova, and no cluster.
        on_bench = "keepalived-stopped" if name == FaultName.INSTANCE_STOPPED else name
        summary = measurements().summary(on_bench, Profile.DEFAULT)
        assert summary
        assert on_site(name, Profile.DEFAULT).expected == interruption(summary.interruption.worst)
    for name in DRILL_FAULTS.keys() - PAIR_FAULTS.keys():
        assert on_site(name, Profile.DEFAULT).expected == interruption(measurements().drill[name].worst)


@pytest.mark.parametrize(
    ("name", "profile", "floating_ip", "expected"),
    [
        ("haproxy-killed", Profile.DEFAULT, None, "0.06 s"),
        ("haproxy-killed", Profile.DEFAULT, "100.64.0.9", "0.10 s"),
        ("haproxy-killed", Profile.FAST, None, "none"),
        ("haproxy-killed", Profile.FAST, "100.64.0.9", "none, more through a router (not measured)"),
        ("haproxy-killed", Profile.STEADY, None, "not measured with this profile"),
        ("instance-stopped", Profile.FAST, None, "0.04 s"),
        ("etcd-killed", Profile.DEFAULT, None, "0.48 s"),
        ("etcd-killed", Profile.DEFAULT, "100.64.0.9", "0.48 s, more through a router (not measured)"),
        ("etcd-killed", Profile.FAST, None, "not measured with this profile"),
    ],
)
def test_what_to_expect_depends_on_fault_profile_and_path(
    name: str, profile: Profile, floating_ip: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
):
    def summary(fault: str, profile: Profile, worst: float) -> Summary:
        return Summary(
            fault=fault, configuration=profile, bench="", runs=3, interruption=Spread(0, worst), failed=(),
            cut=Share(0, 0), stall=0,
        )  # fmt: skip

    on_lab = OnPath(interruption=Spread(0.08, 0.10), failed=Range(1, 2))
    figures = measurements().model_copy(
        update={
            "faults": (
                summary("haproxy-killed", Profile.DEFAULT, 0.06),
                summary("haproxy-killed", Profile.FAST, 0),
                summary("keepalived-stopped", Profile.FAST, 0.04),
            ),
            "lab": Lab(
                date=None, rounds=3, faults=(LabFault(fault="haproxy-killed", title="", paths={FLOATING_IP: on_lab}),)
            ),
            "drill": {"etcd-killed": Spread(0.27, 0.48)},
        }
    )
    monkeypatch.setattr(faults_module, "measurements", lambda: figures)
    assert on_site(name, profile, floating_ip).expected == expected


def test_a_host_undoes_a_fault_only_after_the_drill_would_have():
    assert all(fault.seconds < UNDONE_BY_HOST_SECONDS / 2 for fault in DRILL_FAULTS.values())


def report(**api_servers: str) -> Any:
    """Two healthy load balancers with these API servers."""
    servers = {name.replace("_", "-"): SimpleNamespace(state=state) for name, state in api_servers.items()}
    hosts = {
        name: SimpleNamespace(
            state=SimpleNamespace(haproxy=SimpleNamespace(api_servers=servers), drained=False),
            problems=[],
            drift=[],
        )
        for name in ("dev-lb-0", "dev-lb-1")
    }
    return SimpleNamespace(hosts=hosts, holders={"dev-lb-1": None}, problems=[], cluster=None)


class FakeSite:
    """Hosts on which every script succeeds, or none does."""

    def __init__(self, error: HostError | None = None) -> None:
        self.scripts: list[tuple[str, str]] = []
        self.outputs = SimpleNamespace(control_plane={f"cp-{index}": f"198.51.100.2{index}" for index in range(3)})
        self._error = error

    def run(self, host: str, script: str) -> str:
        self.scripts.append((host, script))
        if self._error:
            raise self._error
        return ""


def test_an_api_server_is_stopped_only_if_another_one_is_up():
    site: Any = FakeSite()
    fault = DRILL_FAULTS[FaultName.API_HUNG](site)
    for found, up in ((report(cp_0="UP"), 1), (report(cp_0="DOWN", cp_1="UP"), 1), (report(), 0)):
        obstacle = fault.obstacle(found)
        assert obstacle and "needs two API servers" in obstacle and f"there are {up}" in obstacle
    assert site.scripts == []
    assert fault.obstacle(report(cp_0="DOWN", cp_1="UP", cp_2="UP")) is None
    assert [host for host, _ in site.scripts] == ["cp-1"]


def test_api_servers_outside_the_stack_are_never_stopped():
    site: Any = FakeSite()
    fault = DRILL_FAULTS[FaultName.API_HUNG](site)
    obstacle = fault.obstacle(report(old_0="UP", old_1="UP"))
    assert obstacle and "host of this stack" in obstacle
    assert fault.obstacle(report(old_0="UP", cp_2="UP")) is None
    assert [host for host, _ in site.scripts] == ["cp-2"]


def members(*health: str) -> list[Member]:
    return [
        Member(name=f"cp-{index}", address="198.51.100.21", kind="voter", health=it) for index, it in enumerate(health)
    ]


def test_etcd_s_leader_is_struck_only_if_the_others_can_spare_it():
    site: Any = FakeSite()
    fault = DRILL_FAULTS[FaultName.ETCD_KILLED](site)
    found = report(cp_0="UP")
    assert "did not create" in (fault.obstacle(found) or "")
    for health, obstacle in (
        (["follower", "leader", "follower"], None),
        (["follower", "leader", "unhealthy"], "2 of 3 members are healthy"),
        (["leader"], "1 of 1 members are healthy"),
    ):
        found.cluster = ClusterReport(members=members(*health))
        assert fault.host(found) == f"cp-{health.index('leader')}"
        assert (fault.obstacle(found) or "").endswith(obstacle or "")
        assert (fault.obstacle(found) is None) == (obstacle is None)
    assert fault.host(report()) == ""
    found.cluster = ClusterReport(members=members("follower", "follower", "follower"))
    assert "no leader" in (fault.obstacle(found) or "")


def test_a_host_that_was_cut_off_gets_its_network_back_whatever_is_left_of_the_chain(tmp_path: Path):
    site: Any = FakeSite()
    DRILL_FAULTS[FaultName.CONTROL_PLANE_CUT_OFF](site).undo("cp-0")
    (_, script), calls = site.scripts.pop(), tmp_path / "calls"
    for name, text in {
        "iptables": f'echo "$*" >>{calls}; [[ $* != *"-D FORWARD"* ]]',
        "systemctl": "",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "the network is back\n")
    assert calls.read_text().splitlines()[-1] == f"-w -X {CHAIN}"


def test_a_fault_that_a_host_does_not_support_is_skipped():
    site: Any = FakeSite(HostError("dev-lb-1: ended with status 1"))
    for name in (FaultName.API_HUNG, FaultName.PARTITION):
        obstacle = DRILL_FAULTS[name](site).obstacle(report(cp_0="UP", cp_1="UP"))
        assert obstacle and "dev-lb-1: ended with status 1" in obstacle


def test_a_drained_pair_is_not_healthy_enough_for_a_drill():
    pair = report(cp_0="UP")
    assert run_module.problems_of(pair) == []
    pair.hosts["dev-lb-0"].state.drained = True
    pair.hosts["dev-lb-0"].state.drained_by = "ops, new kernel"
    (expected,) = run_module.problems_of(pair)
    assert "ops, new kernel" in expected and "`./ha resume dev-lb-0`" in expected


@pytest.mark.parametrize(
    ("role", "cordoned", "drained_by", "problem"),
    [
        (
            "control-plane",
            True,
            "ops, new disk",
            "cp-0 was drained by ops, new disk: `./ha resume cp-0` brings it back",
        ),
        ("control-plane", True, None, "cp-0 was cordoned: `./ha resume cp-0` brings it back"),
        ("control-plane", False, None, None),
        ("none", True, "ops, new disk", None),
    ],
)
def test_a_drained_control_plane_node_is_gone_for_a_drill(
    role: str, drained_by: str | None, problem: str | None, *, cordoned: bool
):
    pair = report(cp_0="UP")
    node = Node(
        name="cp-0", role=role, version="v1.37.2", ready=True, reason="", cordoned=cordoned, drained_by=drained_by
    )
    pair.cluster = ClusterReport(nodes=[node])
    assert run_module.problems_of(pair) == ([problem] if problem else [])


class Rehearsal(Drill):
    """A drill that only records its events."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Callable[[str], None] = lambda _: None) -> None:
        self.events: list[str] = []
        self._signals = DeferredSignals()
        self._lock = Lock()
        self._progress = self.events.append
        self.in_place = None
        self._fails = fails
        monkeypatch.setattr(run_module, "UNDO_SECONDS", 0)

    @property
    def undo_command(self) -> str:
        return "./ha drill --undo --stack dev"

    def happens(self, event: str) -> None:
        self.events.append(event)
        self._fails(event)


class FakeFault(DrillFault):
    name = FaultName.PARTITION
    title = "VRRP is cut"
    seconds = 0

    def __init__(self, drill: Rehearsal) -> None:
        self._drill = drill

    def inflict(self, host: str, about_to: Callable[[], None]) -> None:  # noqa: ARG002
        about_to()
        self._drill.happens("inflicted")

    def in_effect(self, host: str) -> bool:  # noqa: ARG002
        self._drill.happens("in effect?")
        return True

    def undo(self, host: str) -> str | None:
        self._drill.happens("undone")
        return f"{host}: undone"


class FakeProbe:
    elapsed = 1.0


def strike(drill: Rehearsal) -> Measured:
    """Inject and undo a fault as a drill does."""
    untyped: Any = drill
    fault, found = FakeFault(drill), Measured(fault=FaultName.PARTITION, title="", host="lb-0", before="lb-0")
    try:
        with untyped._undone(fault, "lb-0", found, FakeProbe()):
            untyped._strike(fault, "lb-0", found, FakeProbe())
    finally:
        drill.events.append(f"in place: {drill.in_place}; left: {found.left}")
    return found


def fail_at(event: str, error: BaseException) -> Callable[[str], None]:
    def fail(happened: str) -> None:
        if happened == event:
            raise error

    return fail


def test_a_fault_is_undone(monkeypatch: pytest.MonkeyPatch):
    drill = Rehearsal(monkeypatch)
    found = strike(drill)
    assert drill.events == ["inflicted", "in effect?", "undone", "in place: None; left: None"]
    assert (found.inflicted, found.undone, found.undo_result) == (1.0, 1.0, "lb-0: undone")


@pytest.mark.parametrize("event", ["inflicted", "in effect?"])
@pytest.mark.parametrize("error", [HostError("gone"), PairError("late"), ZeroDivisionError(), KeyboardInterrupt()])
def test_a_fault_is_undone_whatever_happens(monkeypatch: pytest.MonkeyPatch, event: str, error: BaseException):
    drill = Rehearsal(monkeypatch, fail_at(event, error))
    with pytest.raises(type(error)):
        strike(drill)
    assert drill.events[-2:] == ["undone", "in place: None; left: None"]


def test_a_signal_ends_the_waiting_and_the_fault_is_undone(monkeypatch: pytest.MonkeyPatch):
    drill = Rehearsal(monkeypatch)
    untyped: Any = drill
    untyped._signals.received = 15
    with pytest.raises(InterruptionError, match=r"interrupted \(SIGTERM\)"):
        strike(drill)
    assert drill.events == ["inflicted", "undone", "in place: None; left: None"]


def test_a_lost_lock_ends_the_drill_and_the_fault_is_undone(monkeypatch: pytest.MonkeyPatch):
    drill = Rehearsal(monkeypatch)
    untyped: Any = drill
    untyped._lock.lost = "dev-lb-1 is in use by ada"
    with pytest.raises(HostError, match="in use by ada"):
        strike(drill)
    assert drill.events == ["inflicted", "undone", "in place: None; left: None"]
    with pytest.raises(HostError, match="in use by ada"):
        untyped._measure(FakeFault(drill), [])
    assert drill.events[-1] == "in place: None; left: None"


def test_a_fault_that_cannot_be_undone_is_reported_with_the_command_that_undoes_it(monkeypatch: pytest.MonkeyPatch):
    drill = Rehearsal(monkeypatch, fail_at("undone", HostError("lb-0: unreachable")))
    with pytest.raises(PairError, match=r"on lb-0 .* is cut .*unreachable.*`\./ha drill --undo --stack dev`"):
        strike(drill)
    assert "left: on lb-0 VRRP is cut (lb-0: unreachable)" in drill.events[-1]


def test_giving_up_during_an_undo_leaves_the_fault_recorded(monkeypatch: pytest.MonkeyPatch):
    drill = Rehearsal(monkeypatch, fail_at("undone", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        strike(drill)
    assert drill.in_place == "on lb-0 VRRP is cut"


def samples(failed_from: float, failed_to: float, duration: float = 10.0) -> list[Sample]:
    """One every 20 ms; those in the given time fail, the others are answered at once."""
    found: list[Sample] = []
    for number in range(int(duration / 0.02)):
        at = number * 0.02
        failure = "TimeoutError" if failed_from <= at < failed_to else None
        found.append(Sample(started=at, ended=at + 0.001, failure=failure))
    return found


def measured(**changes: Any) -> Measured:
    values: dict[str, Any] = {
        "fault": FaultName.HAPROXY_KILLED,
        "title": "HAProxy is killed",
        "host": "dev-lb-0",
        "before": "dev-lb-0",
        "after": "dev-lb-1",
        "inflicted": 3.0,
        "healthy": 6.0,
        "duration": 10.0,
        "samples": samples(3.0, 3.5),
        "seen": [Seen(at=0, holder="dev-lb-0"), Seen(at=3.2, holder=None), Seen(at=3.6, holder="dev-lb-1")],
    }
    return Measured(**values | changes)


def result(**changes: Any) -> DrillResult:
    planned = Planned(
        fault=FaultName.HAPROXY_KILLED,
        title="HAProxy is killed",
        where="dev-lb-0",
        longest="0.06 s",
        notice="the VIP moves",
        way_back="systemd starts it again",
        left_out=None,
    )
    values: dict[str, Any] = {
        "stack": "dev",
        "began": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "seconds": 60.0,
        "max_outage": 1.0,
        "profile": "default",
        "versions": {"HAProxy": "2.6.12"},
        "plan": [planned],
        "measured": [measured()],
        "ended_by": None,
    }
    return DrillResult(**values | changes)


def test_a_gap_before_the_fault_does_not_count():
    assert measured(samples=samples(1.0, 1.5)).longest_interruption == pytest.approx(0.02)
    assert measured(samples=samples(2.5, 3.2)).longest_interruption == pytest.approx(0.72)


def test_numbers_of_a_measurement():
    found = measured()
    assert (found.requests, found.failed) == (500, 25)
    assert found.longest_interruption == pytest.approx(0.52)
    assert found.gap == pytest.approx((2.981, 3.501))
    assert found.taken_over == pytest.approx(0.6)
    assert found.whole_after == pytest.approx(3)
    assert measured(undo_result="dev-lb-0: started", undone=5.0).whole_after == pytest.approx(1)
    assert measured(seen=[Seen(at=0, holder="dev-lb-0"), Seen(at=4, holder=None)]).taken_over is None


@pytest.mark.parametrize(
    ("changes", "status", "verdict"),
    [
        ({}, 0, "Within the objective: no interruption was longer than 1 s"),
        ({"max_outage": 0.5}, 1, "Over the objective of 0.5 s: haproxy-killed"),
        ({"ended_by": "timed out after 300 s, waiting until the pair is healthy again"}, 2, "Ended early: timed out"),
        ({"ended_by": "interrupted (SIGINT)", "interrupted_by": 2}, 130, "Ended early: interrupted"),
        ({"ended_by": "interrupted (SIGTERM)", "interrupted_by": 15, "max_outage": 0.1}, 143, "Ended early"),
        (
            {"ended_by": "x", "interrupted_by": 2, "measured": [measured(left="dev-lb-0 is off")]},
            1,
            "Not undone: dev",
        ),
    ],
)
def test_verdict_and_exit_status(changes: dict[str, Any], status: int, verdict: str):
    found = result(**changes)
    assert found.status == status
    assert found.verdict.startswith(verdict)


class Page(HTMLParser):
    """Parses a page and checks that every element is closed."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_valid_and_self_contained():
    text = page(result())
    found = Page(text)
    assert not {tag for tag, _ in found.elements} & {"script", "link", "img", "iframe", "object", "form"}
    assert not [name for _, attributes in found.elements for name in attributes if name in ("src", "href", "onload")]
    assert not re.search(r"https?:|url\(|@import|//", text)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in found.elements
    for expected in (
        "Within the objective",
        "0.52 s",
        "25 of 500",
        "dev-lb-0, dev-lb-1",
        "2.6.12",
        "systemd starts it",
    ):
        assert expected in found.text


FRONTENDS = {
    "ingress": Answers(inflicted=3.0, duration=10.0, samples=samples(3.0, 3.7)),
    "closed": Answers(inflicted=3.0, duration=10.0, samples=samples(0.0, 10.0)),
}


def test_what_clients_of_frontends_noticed_is_reported_and_not_judged():
    with_frontends = result(measured=[measured(frontends=FRONTENDS)])
    console = Console(width=150, record=True, file=StringIO())
    command.show_result(with_frontends, console)
    shown = console.export_text()
    for text in (shown, Page(page(with_frontends)).text):
        assert "ingress" in text and "0.72 s" in text and "35 of 500" in text
        assert "10.00 s: not one answer to this machine" in text and "500 of 500" in text
    assert (with_frontends.status, with_frontends.over) == (0, [])
    assert with_frontends.model_dump()["measured"][0]["frontends"]["ingress"]["failed"] == 35
    console = Console(width=150, record=True, file=StringIO())
    command.show_result(result(), console)
    assert "frontends" not in console.export_text()


INGRESS = {"name": "ingress", "port": 443, "check": "https", "checkPath": "/healthz", "checkStatus": 204}


@pytest.mark.parametrize(
    ("settings", "url", "path", "status"),
    [
        ({"name": "passthrough", "port": 80}, "tcp://198.51.100.100:80", "", 200),
        (INGRESS, "https://198.51.100.100:443", "/healthz", 204),
    ],
)
def test_each_frontend_is_asked_as_its_servers_are_checked_also_if_the_drill_fails(
    settings: dict[str, Any], url: str, path: str, status: int, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[str, str, Any]] = []

    class Asks:
        def __init__(self, url: str, *, limit: float, answers: Any, request: Callable[[], Request]) -> None:
            assert limit > 60
            asked.append((url, request().path, answers))

        def __enter__(self) -> "Asks":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def report(self) -> ProbeReport:
            return ProbeReport(duration=10.0, samples=samples(3.0, 3.7))

    monkeypatch.setattr(run_module, "Probe", Asks)
    drill, found = Rehearsal(monkeypatch), measured()
    untyped: Any = drill
    frontend = FrontendSettings.model_validate(settings)
    untyped._stack = SimpleNamespace(
        outputs=SimpleNamespace(reachable_vip="198.51.100.100"), settings=SimpleNamespace(frontends=[frontend])
    )
    with pytest.raises(PairError), untyped._frontends_asked(found):
        raise PairError("late")
    assert asked == [(url, path, (status,))]
    assert found.frontends[frontend.name].longest_interruption == pytest.approx(0.72)


def test_the_page_is_valid_without_any_measurement():
    found = Page(page(result(measured=[], ended_by="interrupted (SIGINT)", interrupted_by=2)))
    assert "interrupted (SIGINT)" in found.text
    found = Page(page(result(measured=[Measured(fault=FaultName.API_HUNG, title="x", host="h", before="b")])))
    assert "unknown" in found.text


def test_text_from_hosts_is_escaped_in_the_page():
    evil = "<script>alert(1)</script>\"'"
    text = page(
        result(
            stack=evil,
            ended_by=evil,
            versions={evil: evil},
            measured=[measured(host=evil, before=evil, after=evil, undo_result=evil, seen=[Seen(at=0, holder=evil)])],
        )
    )
    assert "<script>" not in text
    assert Page(text).text.count(evil) >= 5


def test_the_timeline_shows_events_at_their_time():
    drawn = timeline(measured(undo_result="started", undone=5.0), ["dev-lb-0", "dev-lb-1"])
    assert [(bar.kind, round(bar.x), round(bar.x + bar.width)) for bar in drawn.requests] == [
        ("answered", 0, 30), ("failed", 30, 34), ("answered", 34, 100),
    ]  # fmt: skip
    assert [(bar.kind, bar.label, bar.x) for bar in drawn.holders] == [
        ("holder-0", "dev-lb-0", 0), ("holder-1", "dev-lb-1", 36),
    ]  # fmt: skip
    assert [(mark.x, mark.kind) for mark in drawn.marks] == [(30, "1"), (50, "2"), (60, "3")]
    assert [tick.label for tick in drawn.ticks] == ["-2 s", "0 s", "2 s", "4 s", "6 s"]
    assert drawn.close_gap and drawn.close_gap.label == "0.52 s"
    assert 25 < len(drawn.close) < 80
    assert timeline(measured(samples=samples(0, 0)), []).close_gap is None


def test_the_page_is_small_enough_for_a_phone(tmp_path: Path):
    many = samples(100, 130, 300)
    long = [measured(fault=name, duration=300.0, samples=many) for name in FaultName]
    file = tmp_path / "page.html"
    file.write_text(page(result(measured=long)))
    assert file.stat().st_size < 3_000_000


def looking(monkeypatch: pytest.MonkeyPatch, *problems: str) -> Any:
    """A drill that sees a problem in each of its first looks, and then none."""
    seen = iter(problems)

    def look(*_: object, **__: object) -> Any:
        pair = report()
        pair.problems = [*islice(seen, 1)]
        return pair

    monkeypatch.setattr(run_module, "look", look)
    drill: Any = Rehearsal(monkeypatch)
    drill._stack = None
    return drill


def test_a_problem_that_passes_does_not_end_a_drill(monkeypatch: pytest.MonkeyPatch):
    healthy, _ = looking(monkeypatch, "API server cp-0 is DOWN")._wait_until_healthy("the pair is healthy", 10)
    assert healthy.problems == []


def test_a_problem_that_stays_is_named(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        PairError, match="timed out after 0 s, waiting until the pair is healthy: API server cp-0 is DOWN"
    ):
        looking(monkeypatch, *["API server cp-0 is DOWN"] * 3)._wait_until_healthy("the pair is healthy", 0)


@pytest.mark.parametrize(
    ("lost", "undone", "failures"),
    [
        (None, ["dev-lb-1: instance-stopped", "dev-lb-1: partition"], ["no route", "no route"]),
        # What failed before is reported nevertheless.
        ("ada has it", [], ["no route", "ada has it", "ada has it", "ada has it"]),
    ],
    ids=["", "the lock is lost"],
)
def test_undoing_leftovers_starts_instances_first_and_continues_past_a_failing_host(
    monkeypatch: pytest.MonkeyPatch, lost: str | None, undone: list[str], failures: list[str]
):
    """Also an instance that is shutting down: ACTIVE in Nova, but it can no longer be locked."""
    locked: list[str] = []
    lock = Lock()

    class Left(FakeFault):
        def __init__(self, _site: object) -> None:
            pass

        def places(self) -> list[str]:
            return ["dev-lb-0", "dev-lb-1"]

        def undo(self, host: str) -> str | None:
            if host == "dev-lb-0":
                lock.lost = lost
                raise HostError("no route")
            return f"{host}: {self.name}"

    class Stopped(Left, InstanceStopped):
        name = FaultName.INSTANCE_STOPPED

    @contextmanager
    def hold_all(_access: object, addresses: Mapping[str, str], _purpose: str) -> Generator[Lock]:
        locked.extend(addresses)
        yield lock

    def collect(_stack: object) -> Mapping[str, object]:
        return {"dev-lb-0": "TimeoutError", "dev-lb-1": HostState.model_construct()}

    def site(_stack: object, patience: float) -> None:
        assert patience > 0

    monkeypatch.setattr(run_module, "DRILL_FAULTS", {FaultName.PARTITION: Left, FaultName.INSTANCE_STOPPED: Stopped})
    for name, fake in (("hold_all", hold_all), ("collect", collect), ("Site", site)):
        monkeypatch.setattr(run_module, name, fake)
    outputs = SimpleNamespace(load_balancers={"dev-lb-0": "198.51.100.11", "dev-lb-1": "198.51.100.12"})
    stack: Any = SimpleNamespace(outputs=outputs, access=None)
    done: list[str] = []
    expected = "not undone:" + "".join(rf"\ndev-lb-\d: .*{failure}.*" for failure in failures)
    with pytest.raises(PairError, match=f"{expected}$"):
        for line in run_module.undo_leftovers(stack):
            done.append(line)  # noqa: PERF402 - until it raises
    assert done == undone
    assert locked == ["dev-lb-1"]


def test_a_drill_with_an_unwritable_report_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def read_stack(_: object) -> object:
        return SimpleNamespace(name="dev")

    def begin(*_: object) -> None:
        raise AssertionError("it has begun")

    monkeypatch.setattr(command, "read_stack", read_stack)
    monkeypatch.setattr(command, "Drill", begin)
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match=r"drill.html cannot be written, so nothing was done"):
        command.drill(report=tmp_path / "file" / "drill.html", yes=True)


def test_a_refused_drill_leaves_no_report_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def read_stack(_: object) -> object:
        return SimpleNamespace(name="dev")

    def refuse(*_: object) -> None:
        raise PairError("the pair is not whole")

    monkeypatch.setattr(command, "read_stack", read_stack)
    monkeypatch.setattr(command, "Drill", refuse)
    before = tmp_path / "before.json"
    before.write_text("of the last drill")
    with pytest.raises(PairError):
        command.drill(report=tmp_path / "drill.html", as_json=before, yes=True)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"before.json": "of the last drill"}


def test_the_json_report_is_written_even_if_the_page_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page_file, numbers = tmp_path / "drill.html", tmp_path / "drill.json"

    class Done:
        def __init__(self, *_: object) -> None:
            self.alone = nullcontext

        def plan(self) -> list[Planned]:
            return []

        def run(self, *_: object) -> DrillResult:
            page_file.mkdir()  # what was writable before the drill no longer is
            return result()

    def read_stack(_: object) -> object:
        return SimpleNamespace(name="dev", settings=SimpleNamespace(failover_profile="default"))

    monkeypatch.setattr(command, "read_stack", read_stack)
    monkeypatch.setattr(command, "Drill", Done)
    with pytest.raises(typer.Exit) as ended:
        command.drill(report=page_file, as_json=numbers, yes=True)
    assert ended.value.exit_code == 2
    assert numbers.read_text() == result().model_dump_json(indent=2)
    assert "Cannot write" in capsys.readouterr().out
