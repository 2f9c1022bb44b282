"""The parts of the toolchain together: a real engine runs a real program that logs in to an SSH server on loopback."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
import pulumi_command as command
import pytest
from pulumi import automation

from components.host import make_host_key
from model.settings import HostKeyType
from operate.stack.files import ROOT
from tests.toolchain.engine import options, stack_of
from tests.toolchain.ssh_server import SshServer, new_key

PROGRAM = Path(__file__).parent / "program"


@pytest.fixture(scope="module")
def server() -> Iterator[SshServer]:
    """It answers each command with its stdin."""
    with SshServer(lambda stdin: (stdin, 0)).running() as server:
        yield server


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


def edit(stack: automation.Stack, change: dict[str, Any]) -> None:
    """Change the inputs of each command in the state, and the outputs, which contain them."""
    exported = stack.export_stack()
    assert exported.deployment
    resources: list[dict[str, Any]] = exported.deployment["resources"]
    for resource in resources:
        if resource["type"].startswith("command:"):
            resource["inputs"].update(change)
            resource["outputs"].update(change)
    stack.import_stack(exported)


@pytest.fixture(scope="module")
def stack(server: SshServer, state: Path) -> Iterator[automation.Stack]:
    with stack_of(PROGRAM, server, state) as stack:
        yield stack


def test_preview_runs_nothing(stack: automation.Stack, server: SshServer) -> None:
    stack.preview()
    assert server.commands == []


def test_up_runs_both_commands_without_a_warning(stack: automation.Stack, server: SshServer) -> None:
    diagnostics: list[str] = []

    def note(event: automation.EngineEvent) -> None:
        if event.diagnostic_event and event.diagnostic_event.severity == "warning":
            diagnostics.append(event.diagnostic_event.message)

    result = stack.up(on_event=note)
    assert result.outputs["here"].value == "local value"
    assert result.outputs["there"].value == "first"
    assert server.commands == ["cat"]
    # With the user's own CLI and the vendor's site unreachable, the plugins come from PATH, and the engine warns of it.
    assert [message for message in diagnostics if "from $PATH" not in message] == []


def test_an_unchanged_program_shows_no_changes_with_and_without_a_refresh(stack: automation.Stack) -> None:
    stack.preview(expect_no_changes=True)
    stack.refresh(expect_no_changes=True)
    stack.preview(expect_no_changes=True)


def test_a_state_of_an_older_build_of_the_plugin_shows_no_changes(stack: automation.Stack) -> None:
    edit(stack, {"addPreviousOutputInEnv": True})
    stack.preview(expect_no_changes=True)


def test_new_stdin_updates_in_place(stack: automation.Stack, server: SshServer) -> None:
    stack.set_config("content", automation.ConfigValue("second"))
    result = stack.up()
    assert result.summary.resource_changes == {"same": 2, "update": 1}
    assert result.outputs["there"].value == "second"
    assert server.commands == ["cat", "cat"]


def test_a_new_trigger_replaces(stack: automation.Stack) -> None:
    stack.set_config("generation", automation.ConfigValue("two"))
    result = stack.up()
    assert result.summary.resource_changes == {"same": 2, "replace": 1}


def test_a_wrong_host_key_is_refused_and_the_right_one_works_again(stack: automation.Stack, server: SshServer) -> None:
    good = stack.get_config("hostKey")
    stranger = new_key().export_public_key().decode()
    stack.set_config("hostKey", automation.ConfigValue(stranger))
    before = list(server.commands)
    with pytest.raises(automation.CommandError, match="host key mismatch") as refusal:
        stack.up()
    assert server.commands == before
    assert "PRIVATE KEY" not in str(refusal.value)
    stack.set_config("hostKey", good)
    stack.up()


def test_a_host_key_stays_whatever_changes_about_how_it_is_made(tmp_path_factory: pytest.TempPathFactory) -> None:
    def program() -> None:
        key = make_host_key("host", HostKeyType.ED25519, parent=pulumi.ComponentResource("test:index:Hosts", "hosts"))
        pulumi.export("public", key.public)

    keys = automation.create_or_select_stack(
        "keys", project_name="host-keys", program=program, opts=options(tmp_path_factory.mktemp("keys"))
    )
    first = keys.up().outputs["public"].value
    assert first.startswith("ssh-ed25519 ")
    edit(
        keys,
        {
            "create": "echo other",
            "update": "echo other",
            "delete": "true",
            "stdin": "other",
            "environment": {"OTHER": "value"},
            "interpreter": ["/bin/bash", "-c"],
            "dir": "/",
            "logging": "stdout",
            "triggers": ["other"],
            "addPreviousOutputInEnv": True,
        },
    )
    keys.preview(expect_no_changes=True)
    assert keys.up().outputs["public"].value == first
    edit(keys, {"create": "echo another"})
    assert keys.up(refresh=True).outputs["public"].value == first
    keys.destroy()


def test_a_host_key_and_its_instance_are_replaced_together_and_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As docs/operations.md says for a key that was read. One instance depends on the other, as control planes do."""
    names, types = ("cp-0", "cp-1"), [HostKeyType.ED25519]

    def program() -> None:
        parent, before = pulumi.ComponentResource("test:index:Hosts", "hosts"), list[pulumi.Resource]()
        for name in names:
            key = make_host_key(name, types[-1], parent=parent)
            # Like the user data of an instance, which existing ones keep.
            instance = command.local.Command(
                name,
                create="echo $KEY",
                environment={"KEY": key.public},
                opts=pulumi.ResourceOptions(
                    parent=parent, depends_on=before, ignore_changes=["environment"], delete_before_replace=True
                ),
            )
            before = [instance]
            pulumi.export(name, pulumi.Output.all(key.public, instance.stdout))

    hosts = automation.create_or_select_stack(
        "hosts", project_name="host-keys", program=program, opts=options(tmp_path_factory.mktemp("hosts"))
    )
    before = hosts.up().outputs
    types.append(HostKeyType.ECDSA)
    hosts.preview(expect_no_changes=True)
    after = hosts.up(replace=["**::cp-0-host-key", "**:Command::cp-0"])
    assert after.summary.resource_changes == {"same": 4, "replace": 2}
    key, user_data = after.outputs["cp-0"].value
    assert key == user_data
    assert HostKeyType.of(key) is HostKeyType.ECDSA
    assert after.outputs["cp-1"].value == before["cp-1"].value
    hosts.destroy()


def test_the_private_key_is_encrypted_in_the_state(state: Path) -> None:
    files = [file.read_text() for file in state.rglob("*.json")]
    assert any("toolchain-check" in file for file in files)
    assert not any("PRIVATE KEY" in file for file in files)


def test_the_command_line_uses_the_same_engine() -> None:
    shown = subprocess.run([ROOT / "toolchain/pulumi", "version"], check=True, capture_output=True, text=True)
    assert shown.stdout.strip().removeprefix("v").startswith("3.")
    assert shown.stderr == ""
