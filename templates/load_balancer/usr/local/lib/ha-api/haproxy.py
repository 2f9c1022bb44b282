"""HAProxy's runtime API, for the programs on a load balancer. Python's standard library only, 3.10 or newer."""

import asyncio
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

# Debian's unit starts HAProxy with it. It leads to the old processes as well, which keep their sessions after a reload.
MASTER = Path("/run/haproxy-master.sock")
# The backend whose check is a handshake, and the one that clients use as long as one of its servers is ready.
HANDSHAKES, READY = "last-resort", "apiserver"
# Instead of a backend: all of them, with those of frontends.
ALL = "-1"
# So many at once, because HAProxy reads at most 16 KB of them.
COMMANDS = 100
# How `show sess` shows that the server's side of a session is established: since 2.6, and before.
ESTABLISHED = " scb=[8,", " s1=[8,"


async def command(master: Path, *commands: str) -> str:
    """All answers to some commands (HAProxy's management guide, 9.4); the prefix of each names the process.

    OSError if HAProxy does not answer.
    """
    reader, writer = await asyncio.open_unix_connection(master)
    try:
        writer.write(";".join(commands).encode() + b"\n")
        writer.write_eof()
        return (await reader.read()).decode(errors="replace")
    finally:
        writer.transport.abort()


def _server_of(session: str) -> tuple[str, str]:
    """The backend and the server of a session, from its line; empty if it has none."""
    fields = {name: value for name, _, value in (word.partition("=") for word in session.split())}
    return fields.get("be", ""), fields.get("srv", "")


async def servers(master: Path, backend: str) -> Sequence[Mapping[str, str]]:
    """The statistics of a backend's servers; OSError if HAProxy does not answer with all of them."""
    stat = await command(master, f"@1 show stat {backend} 4 -1")
    rows = list(csv.DictReader(stat.removeprefix("# ").splitlines()))
    # The master says something else if there is no process, and a process that dies stops anywhere.
    if not stat.startswith("# pxname,") or any(None in row.values() for row in rows):
        raise OSError("no statistics, or not all of them")
    return rows


async def close_sessions(master: Path, servers: Sequence[tuple[str, str]]) -> None:
    """Close the sessions of servers, each with its backend, those of old processes as well."""
    for first in range(0, len(servers), COMMANDS):
        some = servers[first : first + COMMANDS]
        await command(master, *(f"@1 shutdown sessions server {backend}/{server}" for backend, server in some))
    theirs = set(servers)
    old = (await command(master, "show proc")).partition("# old workers\n")[2]
    for pid in (words[0] for words in map(str.split, old.splitlines()) if words[1:2] == ["worker"]):
        # An old process refuses that command, because its backends have ended.
        shown = (await command(master, f"@!{pid} show sess")).splitlines()
        established = [line for line in shown if any(it in line for it in ESTABLISHED)]
        sessions = [line.partition(":")[0] for line in established if _server_of(line) in theirs]
        for first in range(0, len(sessions), COMMANDS):
            some = sessions[first : first + COMMANDS]
            await command(master, *(f"@!{pid} shutdown session {session}" for session in some))
