"""One operator at a time on a pair: two drills at once add up to an outage, and a drill during maintenance is one."""

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
"""Of root alone, and gone after a reboot, as is the process that had it."""
SIGN_OF_LIFE_SECONDS = 5.0
ANSWER_SECONDS = 30.0
SILENCE_SECONDS = 20
"""An operator who has not been heard of for so long has lost the network, and the lock with it."""

# The lock is the open file of a process on the host that ends with its connection: whoever dies lets go at once. A
# network that is lost ends no connection, so the process also ends when no sign of life (an empty line) comes. What is
# written into the file is for the one who is refused.
_TAKE = """
exec 9<>"$1"
flock --nonblock 9 || { cat "$1"; exit 75; }
printf "%s\\n" "$2" >"$1"
echo taken
while read -r -t "$3" _; do :; done
"""
_TAKEN_BY_ANOTHER = 75


def sign(purpose: str) -> str:
    """Who works on a load balancer, why, and since when."""
    return f"{getpass.getuser()} on {socket.gethostname()}, {purpose}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


@asynccontextmanager
async def hold(access: Access, name: str, address: str, purpose: str) -> AsyncGenerator[None]:
    """Hold a load balancer's lock for as long as the context lasts, or until the host goes down.

    HostError, with who has it and why, when another one has it; and when the host cannot be reached.
    """
    command = shlex.join(["sudo", "-n", "bash", "-c", _TAKE, "bash", LOCK, sign(purpose), str(SILENCE_SECONDS)])
    async with AsyncExitStack() as open_ones:
        try:
            connection = await open_ones.enter_async_context(access.connect(address))
            # A host whose disk hangs takes logins, and runs nothing.
            async with asyncio.timeout(ANSWER_SECONDS):
                process = await connection.create_process(command)
                answer = (await process.stdout.readline()).strip()
            if answer != "taken":
                ended = await process.wait(check=False)
                if ended.exit_status == _TAKEN_BY_ANOTHER:
                    raise HostError(f"{name} is being worked on by {answer}: wait for that to end")
                raise HostError(f"{name} cannot be locked: {ended.stderr or 'its shell ended'}")
        except (OSError, asyncssh.Error) as error:
            raise HostError(f"{name} ({address}) cannot be locked: {failure_of(error)}") from error
        life = asyncio.create_task(_live(process))
        try:
            yield
        finally:
            life.cancel()
            # No farewell that a host which went down would have to answer.
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
    """Hold the locks of load balancers (by name, with their addresses), for code that is not asynchronous.

    HostError as from `hold`; then none is held.
    """
    locks = AsyncExitStack()

    async def take() -> None:
        # In the order of their names: of two who want the same, one gets all.
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
