"""An SSH server on loopback, in place of a host."""

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import asyncssh

Answer = Callable[[str], tuple[str, int]]
"""From a command's stdin to its stdout and exit code."""


def new_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")  # pyright: ignore[reportUnknownMemberType]


class SshServer:
    """Records each command and its stdin; `answer` decides what it prints and how it ends."""

    def __init__(self, answer: Answer) -> None:
        self.login, self.identity = new_key(), new_key()
        self.port = 0
        self.commands: list[str] = []
        self.stdin: list[str] = []
        self._answer = answer

    async def _handle(self, process: "asyncssh.SSHServerProcess[str]") -> None:
        self.commands.append(process.command or "")
        self.stdin.append(await process.stdin.read())
        printed, code = self._answer(self.stdin[-1])
        process.stdout.write(printed)
        process.exit(code)

    async def _listen(self, started: threading.Event, stop: threading.Event) -> None:
        listener = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[self.identity],
            authorized_client_keys=asyncssh.import_authorized_keys(self.login.export_public_key().decode()),
            process_factory=self._handle,
        )
        self.port = listener.get_port()
        started.set()
        await asyncio.to_thread(stop.wait)
        listener.close()

    @contextmanager
    def running(self) -> Generator["SshServer"]:
        """It listens meanwhile."""
        started, stop = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._listen(started, stop)))
        thread.start()
        assert started.wait(10)
        yield self
        stop.set()
        thread.join()
