"""A step's life in a real engine: what runs after a change, after a failure, and after a value was put back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pulumi import automation

from tests.toolchain.engine import stack_of
from tests.toolchain.ssh_server import SshServer

PROGRAM = Path(__file__).parent / "steps"


@pytest.fixture(scope="module")
def host() -> Iterator[SshServer]:
    """It answers each step with an interface, and fails it if its script says so."""
    with SshServer(lambda script: ("interface=ens3\n", 1 if "fail" in script else 0)).running() as host:
        yield host


@pytest.fixture(scope="module")
def created(host: SshServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[automation.Stack]:
    with stack_of(PROGRAM, host, tmp_path_factory.mktemp("state")) as stack:
        yield stack


@pytest.fixture
def stack(created: automation.Stack, host: SshServer) -> automation.Stack:
    """The stack, up and unchanged; `host.stdin` is empty."""
    for key in ("prepare", "content"):
        created.set_config(key, automation.ConfigValue("first"))
    created.up()
    host.stdin.clear()
    return created


def change(stack: automation.Stack, host: SshServer, key: str, value: str) -> list[str]:
    """Change a value, and bring the stack up. Returns the first two words of each step that ran."""
    host.stdin.clear()
    stack.set_config(key, automation.ConfigValue(value))
    stack.up()
    return [" ".join(step.split()[:2]) for step in host.stdin]


def test_a_changed_step_runs_again_and_nothing_else_does(stack: automation.Stack, host: SshServer):
    ran = change(stack, host, "content", "second")
    assert ran[:2] == ["lb-0 configure", "lb-1 configure"]
    assert sorted(ran[2:]) == ["lb-0 prove", "lb-1 prove"]


def test_a_step_that_reads_another_one_s_output_runs_after_it_and_no_instance_is_replaced(
    stack: automation.Stack, host: SshServer
):
    instances = {name: stack.outputs()[name].value for name in ("lb-0", "lb-1")}
    ran = change(stack, host, "prepare", "second")
    assert {*ran} == {f"{name} {step}" for name in instances for step in ("prepare", "configure", "prove")}
    assert ran.index("lb-0 prepare") < ran.index("lb-0 configure") < ran.index("lb-1 configure")
    assert {name: stack.outputs()[name].value for name in instances} == instances


@pytest.mark.parametrize(("key", "step"), [("content", "lb-0 configure"), ("prepare", "lb-0 prepare")])
def test_a_step_that_failed_runs_again_when_the_value_is_put_back(
    stack: automation.Stack, host: SshServer, key: str, step: str
):
    with pytest.raises(automation.CommandError):
        change(stack, host, key, "fail")
    ran = {" ".join(it.split()[:2]) for it in host.stdin}
    assert step in ran
    again = change(stack, host, key, "first")
    assert step in again
    stack.preview(expect_no_changes=True)


def test_configure_can_run_without_the_proof_that_comes_after_it(stack: automation.Stack, host: SshServer):
    """As in a takeover, where the old pair still answers for the VIP."""
    stack.set_config("content", automation.ConfigValue("second"))
    stack.up(exclude=["**::*-prove"])
    assert [" ".join(it.split()[:2]) for it in host.stdin] == ["lb-0 configure", "lb-1 configure"]
    host.stdin.clear()
    stack.up()
    assert sorted(" ".join(it.split()[:2]) for it in host.stdin) == ["lb-0 prove", "lb-1 prove"]


def test_a_preview_shows_the_changed_line_of_a_step(stack: automation.Stack):
    stack.set_config("content", automation.ConfigValue("second"))
    shown: list[str] = []
    stack.preview(diff=True, on_output=shown.append)
    text = "\n".join(shown)
    assert "second" in text
    assert "lb-0-configure" in text


def test_one_instance_can_be_replaced_without_touching_the_other_host(stack: automation.Stack, host: SshServer):
    other = stack.outputs()["lb-1"].value
    stack.up(replace=["**:Command::lb-0"], target=["**:Command::lb-0", "**::lb-0-*"])
    ran = [" ".join(it.split()[:2]) for it in host.stdin]
    assert ran[:3] == ["lb-0 prepare", "lb-0 install", "lb-0 configure"]
    # The proof is of the pair.
    assert sorted(ran[3:]) == ["lb-0 prove", "lb-1 prove"]
    assert stack.outputs()["lb-1"].value == other
    host.stdin.clear()
    stack.up()
    assert host.stdin == []
