"""A bastion that dies while a step runs, in a real engine with the real plugin: the run's error names it."""

from pathlib import Path

import pytest
from pulumi import automation

from tests.toolchain.engine import stack_of
from tests.toolchain.ssh_server import SshServer, new_key

PROGRAM = Path(__file__).parent / "steps"


def use(stack: automation.Stack, bastion: SshServer) -> None:
    stack.set_config("bastionPort", automation.ConfigValue(str(bastion.port)))
    stack.set_config("bastionHostKey", automation.ConfigValue(bastion.identity.export_public_key().decode()))


def failure_of(stack: automation.Stack) -> str:
    shown: list[str] = []
    with pytest.raises(automation.CommandError):
        stack.up(on_output=shown.append, color="never")
    return "\n".join(shown)


def test_the_bastion_that_died_is_named_and_the_next_run_goes_on(tmp_path: Path):
    login = new_key()
    dying = [True]

    def answer(script: str) -> tuple[str, int]:
        if dying and script == "lb-0 install":
            dying.clear()
            bastion.die()
        return "interface=ens3\n", 1 if "fail" in script else 0

    bastion, host = SshServer(lambda _script: ("", 1), login), SshServer(answer, login)
    with host.running(), stack_of(PROGRAM, host, tmp_path, "check-bastion") as stack:
        for key in ("prepare", "content"):
            stack.set_config(key, automation.ConfigValue("first"))
        with bastion.running():
            use(stack, bastion)
            text = failure_of(stack)
        assert (
            "error: lb-0-install has no connection to lb-0: the bastion 127.0.0.1: does not answer on port "
            f"{bastion.port} (" in text
        ), text
        assert "start it, or correct bastionHost or bastionPort; then run `pulumi up` again" in text
        assert bastion.commands == []

        host.stdin.clear()
        again = SshServer(lambda _script: ("", 1), login)
        with again.running():
            use(stack, again)
            stack.set_config("content", automation.ConfigValue("fail"))
            # A step that fails by itself is not the bastion's doing.
            assert "the bastion" not in failure_of(stack)
            assert "lb-0 install" in host.stdin
            stack.set_config("content", automation.ConfigValue("first"))
            stack.up()
            stack.preview(expect_no_changes=True)
