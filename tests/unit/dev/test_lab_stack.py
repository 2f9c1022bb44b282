"""What the demo's driver of Pulumi decides by itself; the rest is tried on the lab."""

import os
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from pulumi.automation.events import DiagnosticEvent, OpType, ResourcePreEvent, StepEventMetadata

from dev import lab_stack as stack
from dev.lab_stack import Change, Outputs, Stack, StackError


def test_a_stack_name_that_git_would_track_is_refused() -> None:
    with pytest.raises(ValueError, match="must begin with 'lab'"):
        Stack("dev")


def test_missing_outputs_are_reported_with_the_remedy() -> None:
    with pytest.raises(StackError, match="bring it up first"):
        Outputs.parse({})


def test_the_key_is_created_once_and_readable_only_by_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    key = stack.ssh_key()
    assert key.private_file.stat().st_mode & 0o777 == 0o600
    assert key.private_file.is_relative_to(tmp_path)
    assert key.public.startswith("ssh-ed25519 ")
    assert stack.ssh_key() == key


@pytest.mark.parametrize(
    ("hostname", "process", "dead"),
    [
        (os.uname().nodename, "nobody", True),
        (os.uname().nodename, "reused", True),
        ("another-machine", "nobody", False),
    ],
)
def test_only_locks_of_this_machine_s_dead_processes_are_broken(hostname: str, process: str, dead: bool) -> None:
    # The kernel's highest process id is below 2^22; this test's own process is no pulumi.
    lock = {"hostname": hostname, "pid": 2**22 + 1 if process == "nobody" else os.getpid()}
    assert stack.is_of_a_dead_process(lock) is dead


def test_the_lock_of_a_running_pulumi_is_kept() -> None:
    comm = Path("/proc/self/comm")
    name = comm.read_text()
    comm.write_text("pulumi")
    try:
        assert not stack.is_of_a_dead_process({"hostname": os.uname().nodename, "pid": os.getpid()})
    finally:
        comm.write_text(name)


def test_the_lock_of_a_process_that_ends_meanwhile_is_a_dead_one_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", MagicMock(return_value=True))
    assert stack.is_of_a_dead_process({"hostname": os.uname().nodename, "pid": 2**22 + 1})


def test_two_first_runs_at_once_have_one_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(stack, "pulumi_path", lambda: "/nowhere")
    file = stack.state_folder() / "pulumi-passphrase"

    def generated_meanwhile() -> str:
        file.write_text("the other's")
        return "this one's"

    monkeypatch.setattr(stack.secrets, "token_urlsafe", generated_meanwhile)
    assert stack.environment()["PULUMI_CONFIG_PASSPHRASE_FILE"] == str(file)
    assert file.read_text() == "the other's"
    assert [it.name for it in file.parent.iterdir() if it.is_file()] == [file.name]


def test_a_secret_that_pulumi_does_not_take_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulumi = tmp_path / "bin/pulumi"
    pulumi.parent.mkdir()
    pulumi.write_text("#!/bin/sh\necho 'error: incorrect passphrase' >&2\nexit 255\n")
    pulumi.chmod(0o755)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", os.environ["PATH"])  # the stack changes it
    monkeypatch.setattr(stack, "pulumi_path", lambda: str(pulumi.parent))
    monkeypatch.setattr(stack.automation, "create_or_select_stack", MagicMock())
    with pytest.raises(StackError, match="error: incorrect passphrase"):
        Stack("lab-test").configure({})


def step(op: OpType) -> ResourcePreEvent:
    urn = "urn:pulumi:lab::openstack-ha-api::openstack:networking/port:Port::k8s-vip"
    return ResourcePreEvent(StepEventMetadata(op=op, urn=urn, type="openstack:networking/port:Port", provider=""))


def test_unchanged_and_read_resources_are_not_changes() -> None:
    assert stack.change_of(step(OpType.SAME)) is None
    assert stack.change_of(step(OpType.READ)) is None
    assert stack.change_of(step(OpType.UPDATE)) == Change(
        op="update", type="openstack:networking/port:Port", name="k8s-vip"
    )


@pytest.mark.parametrize(
    ("severity", "message", "reported"),
    [
        ("error", "1 error occurred:\n\t* quota exceeded\n", True),
        ("info", "1 warning", False),
        ("error", "update failed\n", False),
        ("error", "sdk-v2/provider2.go:571: sdk.helper_schema: quota exceeded: provider=openstack@5.5.3", False),
        ("error", "an unhandled error occurred: program exited with non-zero exit code: 1", False),
    ],
)
def test_an_error_is_reported_once(severity: str, message: str, reported: bool) -> None:
    expected = message.strip() if reported else None
    assert stack.error_of(DiagnosticEvent(message=message, color="never", severity=severity)) == expected
