"""An SSH server on loopback, in place of a host."""

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import asyncssh

Answer = Callable[[str], tuple[str, int]]
"""From a command's stdin to its stdout and exit code."""


def new_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")  # pyright: ignore[reportUnknownMemberType]


class _Forwarder(asyncssh.SSHServer):
    """Forwards every connection, as a bastion does, and keeps those that it has."""

    def __init__(self, connections: list[asyncssh.SSHServerConnection]) -> None:
        self._connections = connections

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connections.append(conn)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:  # noqa: ARG002
        return True


class SshServer:
    """Records each command and its stdin; `answer` decides what it prints and how it ends. It is a bastion, too."""

    def __init__(self, answer: Answer, login: asyncssh.SSHKey | None = None) -> None:
        self.login, self.identity = login or new_key(), new_key()
        self.port = 0
        self.commands: list[str] = []
        self.stdin: list[str] = []
        self._answer = answer
        self._connections: list[asyncssh.SSHServerConnection] = []
        self._die: Callable[[], object]

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
            server_factory=lambda: _Forwarder(self._connections),
        )
        loop = asyncio.get_running_loop()

        def die() -> None:
            listener.close()
            for connection in self._connections:
                connection.abort()

        self._die = partial(loop.call_soon_threadsafe, die)
        self.port = listener.get_port()
        started.set()
        await asyncio.to_thread(stop.wait)
        listener.close()

    def die(self) -> None:
        """Cut all connections, and listen no more."""
        self._die()

    @contextmanager
    def running(self) -> Generator["SshServer"]:
        """It listens meanwhile."""
        started, stop = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._listen(started, stop)))
        thread.start()
        try:
            assert started.wait(10)
            yield self
        finally:
            # Python waits for the thread, even after a test that has failed.
            stop.set()
            thread.join()
