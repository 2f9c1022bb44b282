"""How a report is shown."""

import io
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console

from operate.commands import status as command
from operate.commands.status import render_report
from operate.hosts.cluster import DRAINED, parse_cluster
from operate.hosts.pair import PairError
from operate.hosts.report import PairReport, compare_with_applied
from operate.hosts.state import HostState
from operate.stack import engine
from operate.stack.engine import StackError
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


def test_each_frontend_has_a_table_of_its_servers(states: dict[str, dict[str, Any]]):
    states["k8s-lb-1"]["haproxy"]["frontends"] = {}
    lines = [" ".join(line.replace("│", "").replace("┃", "").split()) for line in shown(report(states)).splitlines()]
    assert lines[lines.index("frontend ingress k8s-lb-0 k8s-lb-1") + 2] == "k8s-worker-0 UP 60 s, L4OK, 1 ms ?"


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


def giving(result: object) -> Callable[..., object]:
    """A function that always returns `result`."""

    def give(*_: object, **__: object) -> object:
        return result

    return give


@pytest.fixture
def pulumi(states: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A pair with a file that was edited manually; how Pulumi is run, which restores it."""
    edited = next(iter(states["k8s-lb-0"]["files"].values()))
    applied = edited["digest"]
    edited["digest"] = "edited"
    runs: list[tuple[str, ...]] = []

    def run_pulumi(*arguments: str, **_: object) -> None:
        runs.append(arguments)
        edited["digest"] = applied

    monkeypatch.setattr(command, "read_stack", giving(SimpleNamespace(name="production")))

    def look(*_: object, **__: object) -> PairReport:
        return report(states)

    monkeypatch.setattr(command, "look", look)
    monkeypatch.setattr(engine, "run_pulumi", run_pulumi)
    return runs


def test_after_a_failed_run_only_a_plain_up_is_shown(
    states: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A reapply would be refused: the failed step waits for an `up`."""
    path = next(iter(states["k8s-lb-0"]["files"]))
    states["k8s-lb-0"]["files"][path] |= {"digest": "tried", "staged_digest": "tried"}
    monkeypatch.setattr(command, "read_stack", giving(SimpleNamespace(name="production")))
    monkeypatch.setattr(command, "look", giving(report(states)))
    with pytest.raises(typer.Exit):
        command.status("production")
    printed = capsys.readouterr().out
    assert "  pulumi up --stack production\n" in printed
    assert "--reapply" not in printed


def preview_of(*ops: str) -> str:
    urn = "urn:pulumi:dev::openstack-ha-api::LoadBalancers$command:remote:Command::k8s-lb-{}-configure"
    return json.dumps({"steps": [{"op": op, "urn": urn.format(index)} for index, op in enumerate(ops)]})


def test_drift_is_fixed_by_one_run_of_pulumi(pulumi: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "preview", giving(preview_of("same", "same")))
    command.status("production", reapply=True, yes=True)
    (run,) = pulumi
    assert run[:3] == ("up", "--stack", "production")
    assert "**::k8s-lb-0-configure" in run
    assert run[-1] == "--yes"


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_still_wrong_after_a_reapply_is_shown_and_is_its_status(
    pulumi: list[tuple[str, ...]],
    states: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    as_json: bool,
):
    states["k8s-lb-1"] = "TimeoutError"
    monkeypatch.setattr(engine, "preview", giving(preview_of("same", "same")))
    with pytest.raises(typer.Exit) as ended:
        command.status("production", as_json=as_json, reapply=True, yes=True)
    assert ended.value.exit_code == 1
    assert len(pulumi) == 1
    printed = capsys.readouterr().out
    if as_json:
        json.loads(printed)
    else:
        assert printed.count("k8s-lb-1: not reachable: TimeoutError") == 2
        assert printed.count("is edited") == 1


def test_drift_is_not_fixed_while_a_worker_waits_for_an_up(
    pulumi: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
):
    worker = (
        "urn:pulumi:dev::openstack-ha-api::openstack-ha-api:compute:Servers$command:remote:Command::dev-worker-0-join"
    )
    monkeypatch.setattr(engine, "preview", giving(json.dumps({"steps": [{"op": "update", "urn": worker}]})))
    with pytest.raises(PairError, match=r"dev-worker-0-join \(update\).*would apply them too: first run `pulumi up"):
        command.status("production", reapply=True, yes=True)
    assert pulumi == []


@pytest.mark.parametrize("ops", [("update", "update"), ("update", "same"), ("same", "delete-replaced")])
def test_drift_is_not_fixed_while_changes_wait_for_an_up(
    pulumi: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, ops: tuple[str, ...]
):
    monkeypatch.setattr(engine, "preview", giving(preview_of(*ops)))
    with pytest.raises(PairError, match=r"-configure \(.*first run `pulumi up --stack production`"):
        command.status("production", reapply=True, yes=True)
    assert pulumi == []


def test_without_a_terminal_a_reapply_needs_yes(pulumi: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    monkeypatch.delenv("PULUMI_SKIP_CONFIRMATIONS", raising=False)
    with pytest.raises(StackError, match=r"not a terminal.*--yes"):
        command.status("production", reapply=True)
    assert pulumi == []
    monkeypatch.setattr(engine, "preview", giving(preview_of("same", "same")))
    monkeypatch.setenv("PULUMI_SKIP_CONFIRMATIONS", "true")
    command.status("production", reapply=True)
    assert len(pulumi) == 1


def test_the_cluster_has_a_line_for_each_node_and_its_problems(states: dict[str, Any]):
    nodes = [
        {
            "metadata": {
                "name": name,
                "labels": {f"node-role.kubernetes.io/{role}": ""},
                "annotations": {DRAINED: "ada, new kernel"} if role == "control-plane" else {},
            },
            "spec": {"unschedulable": True} if role == "control-plane" else {},
            "status": {
                "nodeInfo": {"kubeletVersion": "v1.37.2"},
                "conditions": [{"type": "Ready", "status": ready, "message": "kubelet stopped posting"}],
            },
        }
        for name, role, ready in (("k8s-cp-0", "control-plane", "True"), ("k8s-worker-9", "worker", "Unknown"))
    ]
    etcd = "10 k8s-cp-0 198.51.100.21 voter leader\n11 - 198.51.100.22 unstarted unhealthy\n"
    etcd += "12 k8s-cp-4 198.51.100.25 voter unhealthy\n"
    found = parse_cluster(json.dumps({"items": nodes}) + "\n---\n" + etcd, {"k8s-cp-0", "k8s-worker-0"})
    assert found.problems == [
        "k8s-worker-9 is not Ready: kubelet stopped posting",
        "the Node k8s-worker-9 belongs to no host of the stack: `kubectl delete node k8s-worker-9`",
        "k8s-worker-0 is not in the cluster: run `pulumi up`",
        "etcd member - (198.51.100.22, unstarted) does not answer",
        "etcd member k8s-cp-4 (198.51.100.25, voter) does not answer; the stack has no such host, so remove "
        "it, on a control-plane host: sudo /usr/local/lib/ha-api/etcd.py remove 198.51.100.25",
    ]
    whole = report(states)
    sick = whole.model_copy(update={"cluster": found})
    text = " ".join(shown(sick, width=150).replace("│", "").split())
    assert "k8s-cp-0 control-plane v1.37.2 Ready voter, leader" in text
    assert "198.51.100.22 unstarted, unhealthy" in text
    assert "k8s-cp-0: drained by ada, new kernel: `./ha resume k8s-cp-0`" in text
    assert "k8s-worker-0 is not in the cluster" in text
    assert not sick.healthy
