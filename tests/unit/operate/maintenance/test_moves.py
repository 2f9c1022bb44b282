"""What is refused before anything is done to a pair."""

import io
import shlex
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from operate.commands import drain, move, rebuild
from operate.hosts.lock import Lock
from operate.hosts.on_host import DRAINED
from operate.hosts.pair import PairError
from operate.hosts.report import compare_with_applied
from operate.hosts.ssh import HostError
from operate.hosts.state import Handover, HostState
from operate.maintenance import moves as maintenance
from operate.maintenance.moves import (
    Maintenance,
    Rebuild,
    holder_of,
    insist,
    partners,
    peer_of,
    plan_rebuild,
    replacement_command,
    unfit,
)
from operate.stack.engine import StackError
from operate.stack.resources import INSTANCE

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LB_0, LB_1 = "dev-lb-0", "dev-lb-1"


def host(*, master: bool = False, ready: bool = True, **changed: Any) -> HostState:
    """A healthy load balancer, except for these values."""
    names = ("firewalld", "haproxy", "ha-api-watchdog", "keepalived")
    state: dict[str, Any] = {
        "time": NOW,
        "booted": NOW,
        "versions": {"keepalived": "2.2.7", "kernel": "6.1", "distribution": "Debian"},
        "services": {name: {"state": "active", "enabled": True, "since": NOW} for name in names},
        "vrrp": {"state": "MASTER" if master else "BACKUP", "since": NOW},
        "holds_vip": master,
        "haproxy": {
            "alive": True,
            "ready": ready,
            "version": "2.6",
            "configuration_id": "1",
            "configured_id": "1",
            "api_servers": {},
        },
        "files": {},
        "changes": [],
        "reboot": {"required": False, "packages": [], "newer_kernel": None},
        "disks": {},
        "locked_by": None,
        "certificates": {},
    }
    return HostState.model_validate(state | changed)


def without(service: str, **changed: Any) -> HostState:
    """A load balancer on which one service does not run."""
    services = {
        name: it.model_dump() | ({"state": "inactive"} if name == service else {})
        for name, it in host().services.items()
    }
    return host(services=services, **changed)


def test_holder_and_standby_are_found():
    assert partners({LB_0: host(), LB_1: host(master=True)}) == (LB_1, LB_0)
    assert partners({LB_0: host(master=True), LB_1: host()}) == (LB_0, LB_1)


@pytest.mark.parametrize(
    ("standby", "reason"),
    [
        ("OSError: no route", "OSError: no route"),
        (host(ready=False), "its HAProxy has no API server"),
        (host(default_route=False), "it has no default route"),
        (without("firewalld"), "firewalld is inactive"),
        (without("haproxy"), "haproxy is inactive"),
        (without("keepalived", vrrp={"state": "STOP", "since": NOW}), "keepalived is inactive"),
        (host(vrrp={"state": "FAULT", "since": NOW}), r"keepalived .* election \(FAULT\)"),
        (host(vrrp=None), r"keepalived .* election \(no state\)"),
        (without("keepalived", vrrp=None, drained_by="ada, new kernel"), "drained by ada, new kernel: `./ha resume"),
    ],
)
def test_the_vip_does_not_move_to_an_unfit_load_balancer(standby: HostState | str, reason: str):
    with pytest.raises(PairError, match=f"{LB_1} cannot serve alone, so nothing was done: .*{reason}"):
        partners({LB_0: host(master=True), LB_1: standby})


def test_the_vip_may_move_if_no_load_balancer_has_an_api_server():
    assert partners({LB_0: host(master=True, ready=False), LB_1: host(ready=False)}) == (LB_0, LB_1)


def test_the_vip_may_move_if_no_load_balancer_has_a_default_route():
    """As on a network without a gateway."""
    assert partners({LB_0: host(master=True, default_route=False), LB_1: host(default_route=False)}) == (LB_0, LB_1)


def test_without_a_holder_a_move_is_refused():
    with pytest.raises(PairError, match="no load balancer is known to hold the VIP"):
        partners({LB_0: host(), LB_1: "OSError"})


def test_a_drained_load_balancer_that_an_up_has_restarted_is_fit():
    assert unfit(LB_0, {LB_0: host(drained_by="ada"), LB_1: host(master=True)}) == []


def test_an_unreachable_load_balancer_is_not_the_holder():
    states: dict[str, HostState | str] = {LB_0: "TimeoutError", LB_1: host()}
    assert holder_of(states) is None
    insist(LB_1, states)


def test_an_unknown_name_is_refused_with_the_valid_ones():
    with pytest.raises(PairError, match="dev-lb-2, only dev-lb-0 and dev-lb-1"):
        peer_of("dev-lb-2", {LB_0: host(), LB_1: host()})


def test_a_rebuild_targets_only_one_host():
    command = replacement_command("dev", LB_0)
    assert command[:3] == ["up", "--stack", "dev"]
    assert not any(LB_1 in word for word in command)


def test_a_drained_load_balancer_is_a_note_not_a_problem():
    drained = without("keepalived", vrrp={"state": "STOP", "since": NOW}, drained_by="ada, new kernel")
    report = compare_with_applied(
        "dev", {LB_0: "198.51.100.1", LB_1: "198.51.100.2"}, {}, {LB_0: drained, LB_1: host(master=True)}
    )
    assert report.healthy
    (note,) = report.hosts[LB_0].notes
    assert "ada, new kernel" in note and "`./ha resume`" in note


def giving(result: Any) -> Callable[..., Any]:
    """A function that always returns `result`."""

    def give(*_: object) -> Any:
        return result

    return give


class FakeMaintenance:
    """Records what is done to the pair; each query of the states returns the next ones given."""

    def __init__(self, *looks: Any) -> None:
        self.looks = list(looks)
        self.done: list[str] = []

    def states(self) -> Any:
        return self.looks.pop(0)

    @contextmanager
    def alone(self, _purpose: str, **_: object) -> Generator[Any]:
        yield self.states()

    def handover(self, _name: str) -> Handover | None:
        return None

    def __getattr__(self, name: str) -> Any:
        def do(*_: object, **__: object) -> None:
            self.done.append(name)

        return do


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stack that no command queries."""
    outputs = SimpleNamespace(vip="198.51.100.9", endpoint="https://127.0.0.1:1", control_plane={}, workers={})
    stack = SimpleNamespace(name="dev", outputs=outputs, configuration=SimpleNamespace(cloud=lambda: None))
    for command in (drain, move, rebuild):
        monkeypatch.setattr(command, "read_stack", giving(stack))
    return stack


@pytest.mark.usefixtures("stack")
def test_a_change_while_the_prompt_was_open_is_noticed(monkeypatch: pytest.MonkeyPatch):
    whole = {LB_0: host(master=True), LB_1: host()}
    dead = {LB_0: host(master=True), LB_1: "OSError: no route"}
    moved = {LB_0: host(), LB_1: host(master=True)}
    for command, later in ((move, dead), (move, moved), (drain, dead)):
        fake = FakeMaintenance(whole, later)
        monkeypatch.setattr(command, "Maintenance", giving(fake))
        arguments = {"name": LB_0} if command is drain else {}
        with pytest.raises(PairError, match="nothing was done"):
            getattr(command, command.__name__.rpartition(".")[2])(**arguments, stack="dev", yes=True)
        assert fake.done == []


@pytest.mark.usefixtures("stack")
def test_a_load_balancer_that_is_drained_already_stays_its_first_operator_s(monkeypatch: pytest.MonkeyPatch):
    whole = {LB_0: host(), LB_1: host(master=True)}
    drained = whole | {LB_0: without("keepalived", vrrp=None, drained_by="ada on desk, since today")}
    for looks in ([drained], [whole, drained]):
        fake = FakeMaintenance(*looks)
        monkeypatch.setattr(drain, "Maintenance", giving(fake))
        with pytest.raises(
            PairError, match=r"already drained by ada on desk.*nothing was done: `./ha resume dev-lb-0`"
        ):
            drain.drain(name=LB_0, stack="dev", yes=True)
        assert fake.done == []


def test_a_rebuild_continues_if_a_known_instance_boots_but_not_if_it_would_delete_more(monkeypatch: pytest.MonkeyPatch):
    """An instance left by a killed rebuild is built and boots while the next rebuild checks it."""
    monkeypatch.setattr(maintenance, "recorded_ids", giving({(INSTANCE, LB_1): "known"}))

    def plan(standby: HostState | str, **instances: str) -> Rebuild:
        found = [SimpleNamespace(id=name, name=LB_1, status=status) for name, status in instances.items()]
        pair: Any = SimpleNamespace(instances=giving(found))
        return plan_rebuild(stack, pair, LB_1, {LB_0: host(master=True), LB_1: standby})

    stack: Any = SimpleNamespace(name="dev")
    before = plan("TimeoutError", left="BUILD")
    assert before.orphans == ("left",)
    assert plan(without("keepalived"), left="ACTIVE").is_within(before)
    assert plan("TimeoutError").is_within(before)
    for changed in (plan("TimeoutError", other="BUILD"), plan("TimeoutError", known="ACTIVE", left="BUILD")):
        assert not changed.is_within(before)


def test_an_instance_that_no_up_created_is_never_deleted(monkeypatch: pytest.MonkeyPatch):
    """Somebody plugged the load balancer's port into it."""
    monkeypatch.setattr(maintenance, "recorded_ids", giving({(INSTANCE, LB_1): "known"}))
    stack: Any = SimpleNamespace(name="dev")
    pair: Any = SimpleNamespace(instances=giving([SimpleNamespace(id="1234", name="database", status="ACTIVE")]))
    with pytest.raises(PairError, match=r"database \(1234\).*nothing was done.*remove port"):
        plan_rebuild(stack, pair, LB_1, {LB_0: host(master=True), LB_1: "TimeoutError"})


@pytest.fixture
def rebuilding(stack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Callable[[Rebuild], FakeMaintenance]:
    """Has `rebuild` follow a plan; what it does to the pair, to instances, and through Pulumi is recorded in order."""

    def follow(plan: Rebuild) -> FakeMaintenance:
        fake = FakeMaintenance({}, {}, {}, {})
        peer = SimpleNamespace(user_id="ada")
        pair = SimpleNamespace(instance=giving(peer), delete_instance=fake.delete_instance)
        monkeypatch.setattr(rebuild, "Maintenance", giving(fake))
        monkeypatch.setattr(rebuild, "Pair", giving(pair))
        monkeypatch.setattr(rebuild, "recorded_ids", giving({}))
        monkeypatch.setattr(rebuild, "plan_rebuild", giving(plan))
        monkeypatch.setattr(rebuild, "read_stack", giving(stack))
        for name in ("insist_on_rebuild", "insist_on_no_other_run", "replace_instance"):
            monkeypatch.setattr(rebuild, name, getattr(fake, name))
        monkeypatch.setattr(rebuild, "collect", giving({LB_0: host(), LB_1: host(master=True)}))
        return fake

    return follow


def plan_of(*, holds_vip: bool, orphans: tuple[str, ...] = ()) -> Rebuild:
    return Rebuild(
        name=LB_0, peer=LB_1, holds_vip=holds_vip, instances=("1", *orphans), shown="ACTIVE (1)", orphans=orphans
    )


def fail_with(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_everything_is_checked_before_anything_is_changed(rebuilding: Callable[[Rebuild], FakeMaintenance]):
    fake = rebuilding(plan_of(holds_vip=True, orphans=("2",)))
    rebuild.rebuild(LB_0, "dev", yes=True)
    checks, changes = fake.done[:2], fake.done[2:]
    assert checks == ["insist_on_rebuild", "insist_on_no_other_run"]
    assert changes == ["stop_keepalived", "insist_alone", "delete_instance", "insist_alone", "replace_instance"]


@pytest.mark.parametrize("check", ["insist_on_rebuild", "insist_on_no_other_run"])
def test_a_rebuild_that_is_refused_has_changed_nothing(
    rebuilding: Callable[[Rebuild], FakeMaintenance], monkeypatch: pytest.MonkeyPatch, check: str
):
    fake = rebuilding(plan_of(holds_vip=True, orphans=("2",)))
    monkeypatch.setattr(rebuild, check, fail_with(PairError("key pair")))
    with pytest.raises(PairError, match="key pair"):
        rebuild.rebuild(LB_0, "dev", yes=True)
    assert {*fake.done} <= {"insist_on_rebuild"}


@pytest.mark.parametrize("refused", [True, False], ids=["the peer died", "this host took the VIP"])
def test_what_happens_during_the_slow_checks_is_noticed(
    rebuilding: Callable[[Rebuild], FakeMaintenance], monkeypatch: pytest.MonkeyPatch, *, refused: bool
):
    """A preview takes tens of seconds. By then the peer may be down, and this host may be the only one that serves."""
    fake = rebuilding(plan_of(holds_vip=False, orphans=("2",)))

    def plan(*_: object) -> Rebuild:
        if "insist_on_no_other_run" not in fake.done:
            return plan_of(holds_vip=False, orphans=("2",))
        if refused:
            raise PairError("dev-lb-1 cannot serve alone, so nothing was done")
        return plan_of(holds_vip=True, orphans=("2",))

    monkeypatch.setattr(rebuild, "plan_rebuild", plan)
    with pytest.raises(PairError, match="nothing was done"):
        rebuild.rebuild(LB_0, "dev", yes=True)
    assert fake.done == ["insist_on_rebuild", "insist_on_no_other_run"]


@pytest.mark.parametrize("holds_vip", [True, False])
@pytest.mark.parametrize("error", [StackError("locked"), typer.Abort()])
def test_a_failed_rebuild_starts_keepalived_again(
    rebuilding: Callable[[Rebuild], FakeMaintenance],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    *,
    holds_vip: bool,
):
    fake = rebuilding(plan_of(holds_vip=holds_vip))
    monkeypatch.setattr(rebuild, "replace_instance", fail_with(error))
    with pytest.raises(type(error)):
        rebuild.rebuild(LB_0, "dev", yes=True)
    assert [it for it in fake.done if "keepalived" in it] == (
        ["stop_keepalived", "start_keepalived"] if holds_vip else []
    )


@pytest.mark.usefixtures("stack")
def test_a_rebuild_that_nobody_can_confirm_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    # It silences Pulumi's question, but not ours.
    monkeypatch.setenv("PULUMI_SKIP_CONFIRMATIONS", "true")
    with pytest.raises(StackError, match=r"nothing was done.*--yes"):
        rebuild.rebuild(LB_0, "dev")


@pytest.mark.parametrize(
    ("change", "undone"),
    [
        (("move", LB_0, LB_1, 180), []),
        (("stop_keepalived", LB_0, LB_1, 180), []),
        (("resume", LB_0), []),
        # Whatever of it was done.
        (("drain", LB_0, LB_1, "new kernel", 180), [f"rm -f {DRAINED}", "systemctl enable --now keepalived"]),
    ],
)
def test_without_the_lock_nothing_more_is_changed(
    monkeypatch: pytest.MonkeyPatch, change: tuple[str | int, ...], undone: list[str]
):
    run: list[str] = []

    def record(_: object, _name: str, command: str) -> None:
        run.append(command)

    monkeypatch.setattr(Maintenance, "_run", record)
    stack: Any = SimpleNamespace(access=None, outputs=SimpleNamespace(vip="198.51.100.9", load_balancers={}))
    it: Any = Maintenance(stack)
    it._lock.lost = "dev-lb-1 is in use by ada"
    with pytest.raises(HostError, match="dev-lb-1 is in use by ada"):
        getattr(it, str(change[0]))(*change[1:])
    assert run == undone


@pytest.mark.parametrize(("rebuilt", "locked"), [(host(), [LB_0, LB_1]), ("TimeoutError", [LB_1])])
def test_a_rebuild_locks_its_own_host_too_if_it_answers(
    monkeypatch: pytest.MonkeyPatch, rebuilt: HostState | str, locked: list[str]
):
    taken: list[tuple[list[str], str | None]] = []

    @contextmanager
    def hold_all(_access: object, addresses: dict[str, str], _purpose: str, *, spared: str | None) -> Generator[Lock]:
        taken.append((sorted(addresses), spared))
        yield Lock()

    monkeypatch.setattr(maintenance, "hold_all", hold_all)
    monkeypatch.setattr(maintenance, "collect", giving({LB_0: rebuilt, LB_1: host(master=True)}))
    outputs = SimpleNamespace(load_balancers={LB_0: "198.51.100.1", LB_1: "198.51.100.2"})
    stack: Any = SimpleNamespace(access=None, outputs=outputs)
    with Maintenance(stack).alone(f"rebuild of {LB_0}", rebuilt=LB_0):
        assert taken == [(locked, LB_0)]


def test_a_rebuild_without_its_lock_deletes_nothing(
    rebuilding: Callable[[Rebuild], FakeMaintenance], monkeypatch: pytest.MonkeyPatch
):
    for orphans in ((), ("2",)):
        fake = rebuilding(plan_of(holds_vip=True, orphans=orphans))
        monkeypatch.setattr(fake, "insist_alone", fail_with(HostError("the lock was lost")), raising=False)
        with pytest.raises(HostError, match="lock was lost"):
            rebuild.rebuild(LB_0, "dev", yes=True)
        assert fake.done[2:] == ["stop_keepalived", "start_keepalived"]


RESTART, HOLD, LET_GO = "systemctl restart keepalived", ["hold", "sleep 0.1"], "let go"


@pytest.mark.parametrize(
    ("grace", "failing", "status", "done"),
    [
        (180, "", 0, ["pass on for 180", RESTART, LET_GO]),
        (180, "systemctl", 1, ["pass on for 180", RESTART, LET_GO]),
        # The peer cannot pass connections on, or this host has an older configuration.
        (180, "handover.py", 0, ["pass on for 180", *HOLD, RESTART, LET_GO]),
        (0, "", 0, ["pass on for 0", *HOLD, RESTART, LET_GO]),
        (0, "nftables", 0, ["pass on for 0", "hold", RESTART, LET_GO]),
    ],
)
def test_new_connections_are_held_back_only_if_open_ones_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, grace: int, failing: str, status: int, done: list[str]
):
    for program in ("python3", "systemctl", "sleep"):
        stub = tmp_path / program
        stub.write_text(f"""#!/bin/sh
            printf "%s\\0" "{program} $*" >>{tmp_path}/done
            case "{program} $*" in *"{failing or "nothing"}"*) echo {program} fails >&2; exit 1; esac
        """)
        stub.chmod(0o755)
    given: list[str] = []

    def run(_: object, name: str, command: str) -> str:
        assert name == LB_0
        given.append(command.replace("/usr/bin/python3", "python3"))
        return ""

    monkeypatch.setattr(Maintenance, "_run", run)
    monkeypatch.setattr(Maintenance, "_wait_until_holds", giving(None))
    stack: Any = SimpleNamespace(access=None, outputs=SimpleNamespace(vip="198.51.100.9", load_balancers={}))
    Maintenance(stack).move(LB_0, LB_1, grace)
    (command,) = given
    ended = subprocess.run(
        shlex.split(command), env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False, capture_output=True, text=True
    )
    assert ended.returncode == status
    assert ("python3 fails" in ended.stdout) == (failing == "handover.py")
    calls = (tmp_path / "done").read_text().split("\0")[:-1]
    names = {
        "add element": "hold",
        "delete table": "let go",
        "--grace 180": "pass on for 180",
        "--grace 0": "pass on for 0",
    }
    assert [next((name for part, name in names.items() if part in call), call) for call in calls] == done
    # Should all of it end here, the kernel lets go by itself.
    assert all("198.51.100.9 timeout 2s" in call for call in calls if "add element" in call)
