"""A step's life in a real engine: what runs after a change, after a failure, and after a value was put back."""

import asyncio
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from pulumi import automation

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "steps"


class Host:
    """An SSH server on loopback that answers each step with `interface=ens3`, or fails it if its script says so."""

    def __init__(self) -> None:
        self.login = asyncssh.generate_private_key("ssh-ed25519")  # pyright: ignore[reportUnknownMemberType]
        self.identity = asyncssh.generate_private_key("ssh-ed25519")  # pyright: ignore[reportUnknownMemberType]
        self.port = 0
        self.steps: list[str] = []

    async def answer(self, process: "asyncssh.SSHServerProcess[str]") -> None:
        script = await process.stdin.read()
        self.steps.append(script)
        process.stdout.write("interface=ens3\n")
        process.exit(1 if "fail" in script else 0)

    def serve(self, started: threading.Event, stop: threading.Event) -> None:
        async def listen() -> None:
            listener = await asyncssh.listen(
                "127.0.0.1",
                0,
                server_host_keys=[self.identity],
                authorized_client_keys=asyncssh.import_authorized_keys(self.login.export_public_key().decode()),
                process_factory=self.answer,
            )
            self.port = listener.get_port()
            started.set()
            await asyncio.to_thread(stop.wait)
            listener.close()

        asyncio.run(listen())


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host, started, stop = Host(), threading.Event(), threading.Event()
    thread = threading.Thread(target=host.serve, args=(started, stop))
    thread.start()
    assert started.wait(10)
    yield host
    stop.set()
    thread.join()


@pytest.fixture(scope="module")
def made(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[automation.Stack]:
    install = [ROOT / "toolchain/install", "--print-bin-dir"]
    front = subprocess.run(install, check=True, capture_output=True, text=True).stdout.strip()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", f"{ROOT / '.venv/bin'}:{front}:{os.environ['PATH']}")
        environment.setenv("PYTHONPATH", str(ROOT))
        environment.delenv("SSH_AUTH_SOCK", raising=False)
        backend = {
            "PULUMI_BACKEND_URL": tmp_path_factory.mktemp("state").as_uri(),
            "PULUMI_CONFIG_PASSPHRASE": "passphrase",
        }
        stack = automation.create_or_select_stack(
            "check", work_dir=str(PROGRAM), opts=automation.LocalWorkspaceOptions(env_vars=backend)
        )
        stack.set_config("port", automation.ConfigValue(str(host.port)))
        stack.set_config("hostKey", automation.ConfigValue(host.identity.export_public_key().decode()))
        stack.set_config("privateKey", automation.ConfigValue(host.login.export_private_key().decode(), secret=True))
        yield stack
        stack.destroy()
        stack.workspace.remove_stack("check")


@pytest.fixture
def stack(made: automation.Stack, host: Host) -> automation.Stack:
    """The stack, up and unchanged; `host.steps` is empty."""
    for key in ("prepare", "content"):
        made.set_config(key, automation.ConfigValue("first"))
    made.up()
    host.steps.clear()
    return made


def change(stack: automation.Stack, host: Host, key: str, value: str) -> list[str]:
    """Change a value, and bring the stack up. Returns the first two words of each step that ran."""
    host.steps.clear()
    stack.set_config(key, automation.ConfigValue(value))
    stack.up()
    return [" ".join(step.split()[:2]) for step in host.steps]


def test_a_changed_step_runs_again_and_nothing_else_does(stack: automation.Stack, host: Host):
    ran = change(stack, host, "content", "second")
    assert ran[:2] == ["lb-0 configure", "lb-1 configure"]
    assert sorted(ran[2:]) == ["lb-0 prove", "lb-1 prove"]


def test_a_step_that_reads_another_one_s_output_runs_after_it_and_no_instance_is_replaced(
    stack: automation.Stack, host: Host
):
    instances = {name: stack.outputs()[name].value for name in ("lb-0", "lb-1")}
    ran = change(stack, host, "prepare", "second")
    assert {*ran} == {f"{name} {step}" for name in instances for step in ("prepare", "configure", "prove")}
    assert ran.index("lb-0 prepare") < ran.index("lb-0 configure") < ran.index("lb-1 configure")
    assert {name: stack.outputs()[name].value for name in instances} == instances


@pytest.mark.parametrize(("key", "step"), [("content", "lb-0 configure"), ("prepare", "lb-0 prepare")])
def test_a_step_that_failed_runs_again_when_the_value_is_put_back(
    stack: automation.Stack, host: Host, key: str, step: str
):
    with pytest.raises(automation.CommandError):
        change(stack, host, key, "fail")
    ran = {" ".join(it.split()[:2]) for it in host.steps}
    assert step in ran
    again = change(stack, host, key, "first")
    assert step in again
    stack.preview(expect_no_changes=True)


def test_configure_can_run_without_the_proof_that_comes_after_it(stack: automation.Stack, host: Host):
    """As in a takeover, where the old pair still answers for the VIP."""
    stack.set_config("content", automation.ConfigValue("second"))
    stack.up(exclude=["**::*-prove"])
    assert [" ".join(it.split()[:2]) for it in host.steps] == ["lb-0 configure", "lb-1 configure"]
    host.steps.clear()
    stack.up()
    assert sorted(" ".join(it.split()[:2]) for it in host.steps) == ["lb-0 prove", "lb-1 prove"]


def test_a_preview_shows_the_changed_line_of_a_step(stack: automation.Stack):
    stack.set_config("content", automation.ConfigValue("second"))
    shown: list[str] = []
    stack.preview(diff=True, on_output=shown.append)
    text = "\n".join(shown)
    assert "second" in text
    assert "lb-0-configure" in text


def test_one_instance_can_be_replaced_without_touching_the_other_host(stack: automation.Stack, host: Host):
    other = stack.outputs()["lb-1"].value
    stack.up(replace=["**:Command::lb-0"], target=["**:Command::lb-0", "**::lb-0-*"])
    ran = [" ".join(it.split()[:2]) for it in host.steps]
    assert ran[:3] == ["lb-0 prepare", "lb-0 install", "lb-0 configure"]
    # The proof is of the pair.
    assert sorted(ran[3:]) == ["lb-0 prove", "lb-1 prove"]
    assert stack.outputs()["lb-1"].value == other
    host.steps.clear()
    stack.up()
    assert host.steps == []
