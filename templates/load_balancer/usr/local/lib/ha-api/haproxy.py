"""HAProxy's runtime API, for the programs on a load balancer. Python's standard library only, 3.10 or newer."""

import asyncio
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

# Debian's unit starts HAProxy with it. It leads to the old processes as well, which keep their sessions after a reload.
MASTER = Path("/run/haproxy-master.sock")
# The backend whose check is a handshake, and the one that clients use as long as one of its servers is ready.
HANDSHAKES, READY = "last-resort", "apiserver"
# So many at once, because HAProxy reads at most 16 KB of them.
COMMANDS = 100


async def command(master: Path, *commands: str) -> str:
    """All answers to some commands (HAProxy's management guide, 9.4); the prefix of each names the process.

    OSError if HAProxy does not answer.
    """
    reader, writer = await asyncio.open_unix_connection(master)
    try:
        writer.write(";".join(commands).encode() + b"\n")
        writer.write_eof()
        return (await reader.read()).decode()
    finally:
        writer.transport.abort()


async def servers(master: Path) -> Sequence[Mapping[str, str]]:
    """The statistics of the API servers, as the backend has them whose check is a handshake."""
    stat = await command(master, f"@1 show stat {HANDSHAKES} 4 -1")
    return list(csv.DictReader(stat.splitlines()))


async def close_sessions(master: Path, server: str) -> None:
    """Close the sessions of an API server, those of old processes as well."""
    await command(master, *(f"@1 shutdown sessions server {backend}/{server}" for backend in (READY, HANDSHAKES)))
    old = (await command(master, "show proc")).partition("# old workers\n")[2]
    for pid in (words[0] for words in map(str.split, old.splitlines()) if words[1:2] == ["worker"]):
        # An old process refuses that command, because its backends have ended. State 8 is established.
        shown = (await command(master, f"@!{pid} show sess")).splitlines()
        # Frontends may have servers of the same names.
        ours = [line for line in shown if f" be={READY} " in line or f" be={HANDSHAKES} " in line]
        sessions = [line.partition(":")[0] for line in ours if f" srv={server} " in line and " scb=[8," in line]
        for first in range(0, len(sessions), COMMANDS):
            some = sessions[first : first + COMMANDS]
            await command(master, *(f"@!{pid} shutdown session {session}" for session in some))
