"""Guard rails and protected resources on a stack that runs: what is stopped, what passes, and how the stack goes."""

import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from dev.lab_stack import Stack, StackError, environment, ssh_key
from operate.stack.files import ROOT

CONFIG: dict[str, object] = {"clusterName": "guard", "controlPlaneCount": 3, "workerCount": 0}
PULUMI = ROOT / "toolchain" / "pulumi"
PASSWORD = "n3ver-ou"  # noqa: S105 - set for a preview alone


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment(), capture_output=True, text=True, timeout=300, check=False
    )


def guard(stack: Stack, *arguments: str) -> tuple[int, str]:
    result = run(ROOT / "ha", "guard", "--stack", stack.name, *arguments)
    return result.returncode, result.stdout + result.stderr


def configured(stack: Stack, **config: object) -> Stack:
    """The stack, with a change in its file that was not brought up."""
    stack.preview(config)
    return stack


@pytest.fixture(scope="module")
def stack() -> Generator[Stack]:
    stack = Stack("lab-guard", CONFIG)
    stack.destroy()
    # Of a stack that is not there yet all is created, and nothing is taken away.
    status, said = guard(configured(stack))
    assert (status, said) == (0, "No guard rail stops this.\n")
    stack.up()
    yield stack
    stack.destroy()


@pytest.mark.parametrize(
    ("config", "rail", "named"),
    [
        ({"loadBalancerFlavor": "lab.medium"}, "both-load-balancers", "guard-lb-0 and guard-lb-1"),
        ({"vip": "198.18.1.240"}, "vip", "to 198.18.1.240"),
        ({"controlPlaneFlavor": "lab.medium"}, "control-plane-majority", "3 of the control plane's 3"),
        ({"controlPlaneCount": 1}, "control-plane-majority", "2 of the control plane's 3"),
        ({"apiAllowedCidrs": ["0.0.0.0/0"]}, "open-to-the-world", "admits 0.0.0.0/0 to tcp 6443"),
    ],
)
def test_a_rail_stops_a_change_unless_it_is_allowed(stack: Stack, config: dict[str, object], rail: str, named: str):
    configured(stack, **config)
    status, said = guard(stack)
    assert status == 1, said
    assert f"stopped {rail}: " in said
    assert named in said
    status, said = guard(stack, "--allow", rail)
    assert status == 0, said
    assert f"allowed {rail}: " in said


def test_a_security_group_of_the_load_balancers_that_is_replaced_is_stopped(stack: Stack, tmp_path: Path):
    """The engine shows the rules' new group as unknown, and no other rail minds."""
    configured(stack)
    options = ("--json", "--show-sames", "--non-interactive", "--replace", "**secGroup:SecGroup::guard-lb")
    file = tmp_path / "preview.json"
    file.write_text(run(PULUMI, "preview", *options, "--stack", stack.name).stdout)
    result = run(ROOT / "ha", "guard", file)
    assert result.returncode == 1, result.stdout + result.stderr
    assert [line.partition(": ")[0] for line in result.stdout.splitlines()][:-1] == ["stopped vip"]


@pytest.mark.parametrize("config", [{}, {"failoverProfile": "fast"}, {"controlPlaneCount": 5}, {"workerCount": 1}])
def test_changes_that_take_nothing_away_pass(stack: Stack, config: dict[str, object]):
    assert guard(configured(stack, **config)) == (0, "No guard rail stops this.\n")


def test_a_preview_that_fails_is_no_answer(stack: Stack):
    with pytest.raises(StackError):
        configured(stack, controlPlaneCount=4)
    status, said = guard(stack)
    assert status == 2
    assert "controlPlaneCount = '4'" in said
    assert "Traceback" not in said


def test_what_a_pull_request_shows_has_no_secret_in_it(stack: Stack):
    configured(stack, vrrpPassword=PASSWORD)
    out = ROOT / "build" / "pull-request"
    for target in ("preview", "render-diff", "pull-request-comment", "guard"):
        made = run("make", target, f"STACK={stack.name}", "BASE=HEAD")
        assert made.returncode == 0, made.stderr
    key = ssh_key().private.splitlines()[1:-1]
    for file in ("preview.json", "preview.txt", "comment.md", "summary.md"):
        text = (out / file).read_text()
        assert "guard-lb-0-configure" in text
        assert PASSWORD not in text
        assert not [line for line in key if line in text]


def test_the_vip_is_protected_and_may_change_its_address_in_place(stack: Stack):
    configured(stack)
    for command in (["destroy", "--yes"], ["preview", "--replace", "**::guard-vip"]):
        refused = run(PULUMI, *command, "--non-interactive", "--stack", stack.name)
        assert refused.returncode != 0
        assert "protect" in refused.stdout + refused.stderr
    assert len(stack.outputs().load_balancers) == 2
    changes = stack.up({"vip": "198.18.1.240"})
    assert ("update", "guard-vip") in {(change.op, change.name) for change in changes}
    assert stack.outputs().vip == "198.18.1.240"
    assert guard(stack)[0] == 0


def test_a_destroy_that_says_so_takes_it_all_away(stack: Stack):
    destroyed = run(PULUMI, "destroy", "--yes", "--ignore-protect", "--non-interactive", "--stack", stack.name)
    assert destroyed.returncode == 0, destroyed.stdout + destroyed.stderr
    assert "guard-vip" in destroyed.stdout
