"""Stacks in the real engine, with state folders of their own."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pulumi import automation

from tests.toolchain.ssh_server import SshServer


def options(state: Path) -> automation.LocalWorkspaceOptions:
    """A state folder of its own, and a passphrase for its secrets."""
    return automation.LocalWorkspaceOptions(
        env_vars={"PULUMI_BACKEND_URL": state.as_uri(), "PULUMI_CONFIG_PASSPHRASE": "passphrase"}
    )


@contextmanager
def stack_of(program: Path, server: SshServer, state: Path, name: str = "check") -> Generator[automation.Stack]:
    """A program's stack, not yet up, whose host is the server; destroyed afterwards.

    The name is of the file with its configuration, in the program's folder: files that run at once need two.
    """
    stack = automation.create_or_select_stack(name, work_dir=str(program), opts=options(state))
    stack.set_config("port", automation.ConfigValue(str(server.port)))
    stack.set_config("hostKey", automation.ConfigValue(server.identity.export_public_key().decode()))
    stack.set_config("privateKey", automation.ConfigValue(server.login.export_private_key().decode(), secret=True))
    yield stack
    stack.destroy()
    stack.workspace.remove_stack(name)
