"""Commands on a stack's hosts over SSH; the host keys are pinned, because the stack generates them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import asyncssh
from asyncssh.constants import DISC_CONNECTION_LOST, OPEN_ADMINISTRATIVELY_PROHIBITED
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_fixed

from model.settings import BastionFault, BastionSettings

# While a host boots, connections to it, also from the bastion, are refused, cut or time out. A wrong host key or a
# refused login stays wrong.
NOT_YET = (OSError, asyncssh.ConnectionLost, asyncssh.ChannelOpenError)
RETRY_SECONDS = 1.0

# A host that dies, or a network that is cut, never closes a connection: without keepalives, a silent command would be
# waited for until its time-out, which is minutes for a drain. After 40 s without an answer the connection is lost: a
# host whose network is reconfigured, or that migrates to another hypervisor, is back before that. Keepalives also stop
# NAT and firewalls on the way from forgetting a silent connection.
KEEPALIVE_SECONDS = 10.0
KEEPALIVE_UNANSWERED = 3


class BastionError(asyncssh.Error):
    """The bastion lets no connection through; the text says why and what to do, and is shown as it is."""

    def __init__(self, bastion: BastionSettings, fault: BastionFault, reason: str) -> None:
        found, to_do = bastion.problem(fault)
        super().__init__(DISC_CONNECTION_LOST, f"the bastion {bastion.host}: {found} ({reason}); {to_do}")
        self.fault = fault


class HostError(Exception):
    """What failed on which host, one line each; its text is shown as it is."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """How to log in to a stack's hosts: user, private key (as text), known_hosts (as text)."""

    user: str
    private_key: str = field(repr=False)
    known_hosts: str
    bastion: BastionSettings | None = None
    """The bastion, which accepts the same key."""
    port: int = 22
    patience: float = 60.0
    """Seconds during which a failed connection is tried again."""

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncGenerator[asyncssh.SSHClientConnection]:
        """A connection to a host. OSError or asyncssh.Error if there is none within `patience` seconds.

        BastionError, which is one, if that is the bastion's doing.
        """
        dial = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_delay(self.patience),
            wait=wait_fixed(RETRY_SECONDS),
            reraise=True,
        )
        async with AsyncExitStack() as open_ones:
            yield await dial(self._attempt, address, open_ones)

    async def _attempt(self, address: str, open_ones: AsyncExitStack) -> asyncssh.SSHClientConnection:
        # Each attempt has its own connection to the bastion, so that a broken one is not used again.
        await open_ones.aclose()

        async def dial(
            host: str, port: int, user: str, known_hosts: str, tunnel: asyncssh.SSHClientConnection | None = None
        ) -> asyncssh.SSHClientConnection:
            connecting = asyncssh.connect(
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
                keepalive_interval=KEEPALIVE_SECONDS,
                keepalive_count_max=KEEPALIVE_UNANSWERED,
            )
            return await open_ones.enter_async_context(await connecting)

        there, jump = self.bastion, None
        if there:
            try:
                jump = await dial(there.host, there.port, there.user, there.known_hosts)
            except (OSError, asyncssh.Error) as error:
                raise BastionError(there, bastion_fault(error), failure_of(error)) from error
        try:
            return await dial(address, self.port, self.user, self.known_hosts, tunnel=jump)
        except asyncssh.ChannelOpenError as error:
            if there and error.code == OPEN_ADMINISTRATIVELY_PROHIBITED:
                raise BastionError(there, BastionFault.FORWARDING, failure_of(error)) from error
            raise

    async def run(self, address: str, command: str) -> str:
        """Run a command on a host and return its output; errors as of `output`."""
        async with self.connect(address) as connection:
            return await output(connection, command)


async def output(
    connection: asyncssh.SSHClientConnection, command: str, stdin: bytes = b"", *, seconds: float = 60
) -> str:
    """Run a command over a connection and return its output.

    asyncssh.ProcessError if it fails or times out; asyncssh.ConnectionLost if the connection ends before it.
    """
    # With an empty pipe the command would wait for the end of its input.
    source = asyncssh.PIPE if stdin else asyncssh.DEVNULL
    result = await connection.run(command, input=stdin, stdin=source, check=True, encoding=None, timeout=seconds)
    if result.exit_status is None:
        # asyncssh returns what had arrived until then, as if the command had ended.
        raise asyncssh.ConnectionLost("the connection ended before the command, which may still be running there")
    return _text(result.stdout)


def bastion_fault(error: OSError | asyncssh.Error) -> BastionFault:
    """Why there is no connection to a bastion."""
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return BastionFault.HOST_KEY
        case asyncssh.PermissionDenied():
            return BastionFault.LOGIN
        case _:
            return BastionFault.UNREACHABLE


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, BastionError):
        return error.fault is BastionFault.UNREACHABLE
    return isinstance(error, NOT_YET)


def failure_of(error: OSError | asyncssh.Error) -> str:
    """Why a connection or a command failed, in one line."""
    if isinstance(error, asyncssh.ProcessError):
        return f"{error.command!r} ended with status {error.exit_status}: {_text(error.stderr)}"
    if isinstance(error, BastionError):
        return str(error)
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
