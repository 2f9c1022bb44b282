"""One operator at a time on a pair: two drills at once, or a drill during maintenance, would be an outage."""

import asyncio
import getpass
import shlex
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from threading import Thread

import asyncssh

from operate.hosts.ssh import Access, HostError, failure_of

LOCK = "/run/ha-api-operator.lock"
"""Only root may read it. A reboot removes it, and ends the process that holds it."""
SIGN_OF_LIFE_SECONDS = 5.0
ANSWER_SECONDS = 30.0
SILENCE_SECONDS = 20.0
"""After this time without a sign of life, the operator has lost the network, and loses the lock."""
RETRY_SECONDS = 2.0

# The lock is a file held open by a process on the host that ends with its SSH connection: if this program dies, the
# lock is free at once. A lost network does not end the connection, so the process also ends when no sign of life (an
# empty line) comes. It answers each one, so that this program notices in time too. The text in the file is shown to an
# operator who is refused.
_TAKE = """
exec 9<>"$1"
flock --nonblock 9 || { cat "$1"; exit 75; }
printf "%s\\n" "$2" >"$1"
echo taken
while read -r -t "$3" _; do echo; done
"""
_TAKEN_BY_ANOTHER = 75


class TakenError(HostError):
    """Another operator has the lock."""


def sign(purpose: str) -> str:
    """Who is working on a load balancer, why, and since when."""
    return f"{getpass.getuser()} on {socket.gethostname()}, {purpose}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


class Lock:
    """The operators' lock on a pair. One host's is enough: another operator needs that of every host that is up."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        """The hosts on which it is held now."""
        self.lost: str | None = None
        """Why another operator may be at work; None while none can be."""

    def check(self) -> None:
        """HostError if the lock was lost. To be called before each change, but not before one is undone."""
        if self.lost:
            raise HostError(
                f"the operators' lock was lost, so the command stopped: {self.lost}. See `./ha status`, "
                "then run this again"
            )


@asynccontextmanager
async def hold(access: Access, name: str, address: str, signature: str) -> AsyncGenerator[Awaitable[str]]:
    """Hold a load balancer's lock while the context lasts.

    Yields an awaitable that returns the reason when the lock is lost. HostError if the host is unreachable, TakenError
    if another operator holds the lock, with who and why.
    """
    command = shlex.join(["sudo", "-n", "bash", "-c", _TAKE, "bash", LOCK, signature, str(SILENCE_SECONDS)])
    async with AsyncExitStack() as open_ones:
        try:
            connection = await open_ones.enter_async_context(access.connect(address))
            # A host whose disk hangs accepts logins, but runs nothing.
            async with asyncio.timeout(ANSWER_SECONDS):
                process = await connection.create_process(command)
                answer = (await process.stdout.readline()).strip()
            if answer != "taken":
                ended = await process.wait(check=False)
                # After a lost connection, the host may wait for a sign of our own life for a while.
                if ended.exit_status == _TAKEN_BY_ANOTHER and answer != signature:
                    raise TakenError(f"{name} is in use by {answer}: wait until they are done")
                raise HostError(f"{name} cannot be locked: {ended.stderr or 'its shell ended'}")
        except (OSError, asyncssh.Error) as error:
            raise HostError(f"{name} ({address}) cannot be locked: {failure_of(error)}") from error
        life = asyncio.create_task(_live(process))
        try:
            yield life
        finally:
            life.cancel()
            # Without a closing handshake, which a host that is down would not answer.
            connection.abort()


async def _live(process: asyncssh.SSHClientProcess[str]) -> str:
    """Give signs of life until one is not answered; why not."""
    # The host counts from the arrival of the last sign that it got, which may have been on its way for as long as the
    # pause between two. So this ends before the host does.
    patience = SILENCE_SECONDS - 2 * SIGN_OF_LIFE_SECONDS
    try:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SIGN_OF_LIFE_SECONDS):
                    await process.wait_closed()
                    break
            process.stdin.write("\n")
            async with asyncio.timeout(patience):
                if not await process.stdout.readline():
                    break
    except TimeoutError:
        return f"the host has not answered for {patience:.0f} s"
    except (OSError, asyncssh.Error):
        pass  # the connection ended while it was used
    return "its connection ended, or the host went down"


async def _keep(lock: Lock, access: Access, name: str, address: str, *, signature: str, taken: asyncio.Event) -> None:
    """Hold a host's lock, and take it again whenever it ends, until the whole `lock` is lost.

    HostError as in `hold`, until it was taken once.
    """
    refused_since: float | None = None
    while not lock.lost:
        try:
            async with hold(access, name, address, signature) as end:
                lock.held.add(name)
                taken.set()
                refused_since = None
                try:
                    reason = await end
                finally:
                    lock.held.remove(name)
                if not lock.held:
                    lock.lost = f"{name}: {reason}"
        except HostError as error:
            if not taken.is_set():
                raise
            if isinstance(error, TakenError):
                # An operator who wants both hosts is refused on the other one, and then gives this one back.
                refused_since = refused_since or time.monotonic()
                if time.monotonic() - refused_since > ANSWER_SECONDS:
                    lock.lost = str(error)
        await asyncio.sleep(RETRY_SECONDS)


@contextmanager
def hold_all(
    access: Access, addresses: Mapping[str, str], purpose: str, *, spared: str | None = None
) -> Generator[Lock]:
    """Hold the locks of load balancers (addresses by name), for code that is not asynchronous.

    One that is lost while another is held, because its host boots for example, is taken again as soon as possible. If
    another operator keeps it for ANSWER_SECONDS, the whole lock is lost.
    HostError as in `hold`; then none is held. The host `spared` is left out if it does not answer, but nobody
    else may hold its lock.
    """
    lock, signature = Lock(), sign(purpose)
    holding: list[asyncio.Task[None]] = []

    async def take() -> None:
        # Sorted: of two operators who want the same hosts, one gets all of them.
        for name, address in sorted(addresses.items()):
            taken = asyncio.Event()
            task = asyncio.create_task(_keep(lock, access, name, address, signature=signature, taken=taken))
            holding.append(task)
            waiting = asyncio.create_task(taken.wait())
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                waiting.cancel()
                try:
                    await task
                except HostError as error:
                    if name != spared or isinstance(error, TakenError):
                        raise

    async def release() -> None:
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)

    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="operator-lock")
    thread.start()
    try:
        try:
            asyncio.run_coroutine_threadsafe(take(), loop).result()
            yield lock
        finally:
            asyncio.run_coroutine_threadsafe(release(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
