"""One operator at a time on a pair: two drills at once, or a drill during maintenance, would be an outage."""

import asyncio
import getpass
import shlex
import socket
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from threading import Thread

import asyncssh

from operate.hosts.ssh import Access, HostError, failure_of

LOCK = "/run/ha-api-operator.lock"
"""Only root may read it. A reboot removes it, and ends the process that holds it."""
SIGN_OF_LIFE_SECONDS = 5.0
ANSWER_SECONDS = 30.0
SILENCE_SECONDS = 20
"""After this time without a sign of life, the operator has lost the network, and loses the lock."""

# The lock is a file held open by a process on the host that ends with its SSH connection: if this program dies, the
# lock is free at once. A lost network does not end the connection, so the process also ends when no sign of life (an
# empty line) comes. The text in the file is shown to an operator who is refused.
_TAKE = """
exec 9<>"$1"
flock --nonblock 9 || { cat "$1"; exit 75; }
printf "%s\\n" "$2" >"$1"
echo taken
while read -r -t "$3" _; do :; done
"""
_TAKEN_BY_ANOTHER = 75


def sign(purpose: str) -> str:
    """Who is working on a load balancer, why, and since when."""
    return f"{getpass.getuser()} on {socket.gethostname()}, {purpose}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


@asynccontextmanager
async def hold(access: Access, name: str, address: str, purpose: str) -> AsyncGenerator[None]:
    """Hold a load balancer's lock while the context lasts, or until the host goes down.

    HostError if another operator holds it, with who and why, or if the host is unreachable.
    """
    command = shlex.join(["sudo", "-n", "bash", "-c", _TAKE, "bash", LOCK, sign(purpose), str(SILENCE_SECONDS)])
    async with AsyncExitStack() as open_ones:
        try:
            connection = await open_ones.enter_async_context(access.connect(address))
            # A host whose disk hangs accepts logins, but runs nothing.
            async with asyncio.timeout(ANSWER_SECONDS):
                process = await connection.create_process(command)
                answer = (await process.stdout.readline()).strip()
            if answer != "taken":
                ended = await process.wait(check=False)
                if ended.exit_status == _TAKEN_BY_ANOTHER:
                    raise HostError(f"{name} is in use by {answer}: wait until they are done")
                raise HostError(f"{name} cannot be locked: {ended.stderr or 'its shell ended'}")
        except (OSError, asyncssh.Error) as error:
            raise HostError(f"{name} ({address}) cannot be locked: {failure_of(error)}") from error
        life = asyncio.create_task(_live(process))
        try:
            yield
        finally:
            life.cancel()
            # Without a closing handshake, which a host that is down would not answer.
            connection.abort()


async def _live(process: asyncssh.SSHClientProcess[str]) -> None:
    try:
        while True:
            await asyncio.sleep(SIGN_OF_LIFE_SECONDS)
            process.stdin.write("\n")
    except OSError:  # the host is down; nobody else can work on it either
        return


@contextmanager
def hold_all(access: Access, addresses: Mapping[str, str], purpose: str) -> Generator[None]:
    """Hold the locks of load balancers (addresses by name), for code that is not asynchronous.

    HostError as in `hold`; then none is held.
    """
    locks = AsyncExitStack()

    async def take() -> None:
        # Sorted: of two operators who want the same hosts, one gets all of them.
        for name, address in sorted(addresses.items()):
            await locks.enter_async_context(hold(access, name, address, purpose))

    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="operator-lock")
    thread.start()
    try:
        try:
            asyncio.run_coroutine_threadsafe(take(), loop).result()
            yield
        finally:
            asyncio.run_coroutine_threadsafe(locks.aclose(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
