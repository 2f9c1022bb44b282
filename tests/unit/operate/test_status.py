"""How a report is shown."""

import io
from typing import Any

import pytest
from rich.console import Console

from operate.commands.status import render_report
from operate.hosts.report import PairReport, compare_with_applied
from operate.hosts.state import HostState
from tests.unit.operate.hosts.test_report import ADDRESSES, DIGESTS, NOW, certificate, state

DAY = 86_400
NAMES = [f"production-cp-{index}" for index in range(5)]


def shown(report: PairReport, width: int = 100) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(render_report(report))
    return text.getvalue()


@pytest.fixture
def states() -> dict[str, dict[str, Any]]:
    return {name: state(name, holds_vip=name == "k8s-lb-0") for name in ADDRESSES}


def report(states: dict[str, Any]) -> PairReport:
    found = {name: it if isinstance(it, str) else HostState.model_validate(it) for name, it in states.items()}
    return compare_with_applied("production", ADDRESSES, DIGESTS, found)


def test_five_api_servers_have_one_line_each_in_100_columns(states: dict[str, dict[str, Any]]):
    for host in states.values():
        up = {"state": "UP", "check": "L7OK", "code": 200, "duration_ms": 13, "since": NOW - 90 * DAY}
        down = {"state": "DOWN", "check": "L4TOUT", "code": None, "duration_ms": 1400, "since": NOW - 90}
        host["haproxy"]["api_servers"] = dict.fromkeys(NAMES, up) | {NAMES[1]: down}
        host["certificates"] = {name: {"pem": certificate(expires=NOW + 300 * DAY)} for name in NAMES}
    lines = shown(report(states)).splitlines()
    assert max(map(len, lines)) <= 100
    rows = [" ".join(line.replace("│", "").split()) for line in lines if line.startswith("│ production-cp")]
    assert [row.partition(" ")[0] for row in rows] == NAMES
    assert rows[0] == f"{NAMES[0]} {'UP 90 d, L7OK 200, 13 ms ' * 2}2027-11-11"
    assert rows[1] == f"{NAMES[1]} {'DOWN 90 s, L4TOUT, 1400 ms ' * 2}2027-11-11"


def test_the_holder_is_on_the_first_line(states: dict[str, Any]):
    assert shown(report(states)).startswith("k8s-lb-0 has held the VIP since 2027-01-15 07:46:40 UTC, for 13 min\n")
    nobody = states | {"k8s-lb-0": states["k8s-lb-0"] | {"holds_vip": False}}
    assert shown(report(nobody)).startswith("no load balancer holds the VIP\n")
    unknown = nobody | {"k8s-lb-1": "TimeoutError"}
    assert shown(report(unknown)).startswith("holder of the VIP unknown")


def test_changes_on_both_hosts_are_merged_by_time(states: dict[str, dict[str, Any]]):
    for offset, host in enumerate(states.values()):
        host["changes"] = [
            {"time": NOW - 60 + 2 * turn + offset, "source": "keepalived", "text": f"change {2 * turn + offset}"}
            for turn in range(2)
        ]
    text = shown(report(states))
    assert [text.index(f"change {number}") for number in range(4)] == sorted(
        text.index(f"change {number}") for number in range(4)
    )


def test_text_from_a_host_is_never_markup(states: dict[str, Any]):
    states["k8s-lb-0"]["locked_by"] = "[/red] ada [bold]on\x1b[31m desk"
    text = shown(report(states | {"k8s-lb-1": "[red]refused[/]"}), width=200)
    assert "[/red] ada [bold]on" in text
    assert "not reachable: [red]refused[/]" in text
    assert "\x1b" not in text
