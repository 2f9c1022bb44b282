"""Commands on a stack's hosts over SSH; the host keys are pinned, because the stack generates them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import asyncssh
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from model.settings import BastionSettings

# While a host boots, connections to it, also from the jump host, are refused, cut or time out. A wrong host key or a
# refused login stays wrong.
NOT_YET = (OSError, asyncssh.ConnectionLost, asyncssh.ChannelOpenError)


class HostError(Exception):
    """What failed on which host, one line each; its text is shown as it is."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """How to log in to a stack's hosts: user, private key (as text), known_hosts (as text)."""

    user: str
    private_key: str = field(repr=False)
    known_hosts: str
    bastion: BastionSettings | None = None
    """The jump host, which accepts the same key."""
    port: int = 22
    patience: float = 60.0
    """Seconds during which a failed connection is tried again."""

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncGenerator[asyncssh.SSHClientConnection]:
        """A connection to a host. OSError or asyncssh.Error if there is none within `patience` seconds."""

        @retry(
            retry=retry_if_exception_type(NOT_YET),
            stop=stop_after_delay(self.patience),
            wait=wait_fixed(1),
            reraise=True,
        )
        async def dial(
            host: str, port: int, user: str, known_hosts: str, tunnel: asyncssh.SSHClientConnection | None = None
        ) -> asyncssh.SSHClientConnection:
            return await asyncssh.connect(
                host,
                port,
                tunnel=tunnel,
                username=user,
                client_keys=[asyncssh.import_private_key(self.private_key)],
                known_hosts=asyncssh.import_known_hosts(known_hosts),
                config=None,  # the user's SSH configuration and agent are not used
                agent_path=None,
                connect_timeout=10,
                login_timeout=30,
            )

        async with AsyncExitStack() as open_ones:
            jump = None
            if self.bastion:
                there = self.bastion
                jump = await open_ones.enter_async_context(
                    await dial(there.host, there.port, there.user, there.known_hosts)
                )
            yield await open_ones.enter_async_context(
                await dial(address, self.port, self.user, self.known_hosts, tunnel=jump)
            )

    async def run(self, address: str, command: str) -> str:
        """Run a command on a host and return its output; asyncssh.ProcessError if it fails."""
        async with self.connect(address) as connection:
            return await output(connection, command)


async def output(
    connection: asyncssh.SSHClientConnection, command: str, stdin: bytes = b"", *, seconds: float = 60
) -> str:
    """Run a command over a connection and return its output; asyncssh.ProcessError if it fails or times out."""
    # With an empty pipe the command would wait for the end of its input.
    source = asyncssh.PIPE if stdin else asyncssh.DEVNULL
    result = await connection.run(command, input=stdin, stdin=source, check=True, encoding=None, timeout=seconds)
    return _text(result.stdout)


def failure_of(error: OSError | asyncssh.Error) -> str:
    """Why a connection or a command failed, in one line."""
    if isinstance(error, asyncssh.ProcessError):
        return f"{error.command!r} ended with status {error.exit_status}: {_text(error.stderr)}"
    # Some exceptions have no text.
    return ": ".join(filter(None, (type(error).__name__, str(error))))


def on_all(addresses: Iterable[str], action: Callable[[str], Awaitable[object]]) -> None:
    """Do `action` on all addresses in parallel, from code that is not asynchronous; HostError if any fails."""

    async def attempt(address: str) -> str | None:
        try:
            await action(address)
        except (OSError, asyncssh.Error) as error:
            return f"{address}: {failure_of(error)}"
        return None

    async def attempt_all() -> list[str | None]:
        return await asyncio.gather(*map(attempt, addresses))

    failures = [failure for failure in asyncio.run(attempt_all()) if failure]
    if failures:
        raise HostError("\n".join(failures))


def _text(output: asyncssh.BytesOrStr | None) -> str:
    return (output.decode(errors="replace") if isinstance(output, bytes) else output or "").strip()
