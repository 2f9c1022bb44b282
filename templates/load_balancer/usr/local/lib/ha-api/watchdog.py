#!/usr/bin/python3
"""Watches HAProxy and the network for keepalived, several times a second.

Python's standard library only, 3.10 or newer.

keepalived runs checks at most once a second, and follows processes only where the kernel reports them, which it does
not do in containers. But it follows files at once (`track_file`):

    haproxy        1 when HAProxy on this host is dead or hangs, else 0: keepalived goes into FAULT
    own_address    1 when this host cannot send to its peer from its own address, else 0: keepalived goes into FAULT
    api_servers    -50 when this HAProxy reaches no API server, else 0: added to the priority, so the VIP goes to a host
                   that reaches one, and stays if none does
    default_route  -25 when this host has no default route, else 0: the same for clients outside the subnet

It sends health checks over one connection that stays open. If HAProxy dies the connection closes, which is noticed at
once; if it hangs, checks stay unanswered. Unanswered checks are counted, not seconds: after a pause of the whole host
no check has been sent, and none is held against HAProxy.

A host without its address hears nobody, and would conclude that it is alone. keepalived watches the link, but not the
address that it is configured to send from (its `track_src_ip` has no effect in 2.2.7).

It also listens to the peer: if the peer goes on advertising while this host's keepalived considers itself MASTER, ours
hangs or cannot be heard. The watchdog kills it, systemd starts it again, and it removes the VIP as it starts. Until
then this host continues to serve, but no longer announces the VIP, so the peer's next announcement gets all clients.
Only packets that our keepalived would accept count, or two healthy ones would be killed while a change of VRRP's
version or router id has reached only one host. It does not listen to VRRPv2, where passwords and intervals can differ
behind the same header: both would be killed.

Last, it closes the sessions of an API server whose host is gone. Nothing else does before TCP gives up, because a host
without power sends nothing. It does what HAProxy's `on-marked-down shutdown-sessions` does, but only if TCP handshakes
stay *unanswered*: a server that is slow or not ready answers them, and one that stops gracefully refuses them, and
still serves its sessions. And only once no session is left that is still connecting: HAProxy will try another server
for it.
"""

import argparse
import asyncio
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import haproxy

# Answers in a row before a HAProxy that was dead is trusted again: one that crashes at every start never gets there.
RISE = 5
# Without an API server a host is of no use to any client, without a default route only to those outside the subnet.
NO_API_SERVER, NO_DEFAULT_ROUTE = "-50", "-25"
RETRY_SECONDS = 0.005
CONNECT_SECONDS = 1.0
# Shorter than any master-down interval: a standby that has lost its address must not take the VIP.
NETWORK_SECONDS = 0.05
# Outside the subnet, unless that is this network for documentation (RFC 5737, 3). Nothing is ever sent to it.
OUTSIDE = "192.0.2.1"
# If two masters remain after the kill, keepalived did not hang: with different passwords neither accepts the other.
REPRIEVE_SECONDS = 30.0
# For statistics, and to close thousands of sessions.
ANSWER_SECONDS, CLOSE_SECONDS = 1.0, 10.0
CHECKS = "checks in a row without a TCP handshake, after which an API server"


def log(text: str) -> None:
    """Write a line to the journal."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 systemd sends standard error to the journal


class TrackFile:
    """A number in a file that keepalived follows; written when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._value: str | None = None

    def write(self, value: str, reason: str) -> None:
        """Write a value and log why, unless the file has it already."""
        if value != self._value:
            self._path.write_text(value + "\n")
            log(f"{self._path.name} is now {value}: {reason}")
            self._value = value


class Watchdog(asyncio.Protocol):
    """Checks the local HAProxy, over one connection at a time."""

    def __init__(self, port: int, interval: float, failures: int, folder: Path) -> None:
        self._port, self._interval, self._failures = port, interval, failures
        self._haproxy = TrackFile(folder / "haproxy")
        self._api_servers = TrackFile(folder / "api_servers")
        self._lost = asyncio.Event()
        self._transport: asyncio.WriteTransport | None = None
        self._received, self._asked = b"", False
        self._alive: bool | None = None
        self._unanswered = 0
        self._answers = 0

    async def run(self) -> None:
        """Check until cancelled."""
        await asyncio.gather(self._ask(), self._stay_connected())

    async def _ask(self) -> None:
        while True:
            # One check at a time, or they would pile up in front of a HAProxy that hangs.
            if self._transport and not self._asked:
                self._asked = True
                self._transport.write(b"HEAD /reachable HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self._unanswered += 1
            if self._unanswered > self._failures:
                self._dead(f"HAProxy did not answer {self._failures} checks in a row: it hangs")
            await asyncio.sleep(self._interval)

    async def _stay_connected(self) -> None:
        while True:
            try:
                connecting = asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)
                # A HAProxy that hung may have left its backlog full; do not wait for a lost SYN.
                await asyncio.wait_for(connecting, CONNECT_SECONDS)
                await self._lost.wait()
                # A reload closes connections, and so does a death; the next connection shows which it was.
                await asyncio.sleep(RETRY_SECONDS)
            except ConnectionRefusedError:
                self._dead("HAProxy refuses connections, it does not run")
                await asyncio.sleep(self._interval)
            except (OSError, asyncio.TimeoutError):  # noqa: UP041 two classes in Python 3.10
                await asyncio.sleep(self._interval)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._received, self._asked = b"", False
        self._lost.clear()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 part of asyncio.Protocol
        """Part of asyncio.Protocol."""
        self._transport = None
        self._lost.set()

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        self._received += data
        if self._received.endswith(b"\r\n\r\n"):
            self._answered(self._received.split(b" ", 2)[1])
            self._received, self._asked = b"", False

    def _dead(self, reason: str) -> None:
        self._alive, self._answers = False, 0
        self._haproxy.write("1", reason)

    def _answered(self, status: bytes) -> None:
        self._unanswered = 0
        self._answers += 1
        # Trust the very first answer: this program was restarted next to a HAProxy that serves.
        if self._alive is None or self._answers >= RISE:
            self._alive = True
            self._haproxy.write("0", "HAProxy answers")
        if status == b"200":
            self._api_servers.write("0", "HAProxy reaches an API server")
        else:
            self._api_servers.write(NO_API_SERVER, "HAProxy reaches no API server")


class Network:
    """Checks whether this host has its own address, and a default route."""

    def __init__(self, address: str, peer: str, folder: Path) -> None:
        self._address, self._peer = address, peer
        self._own_address = TrackFile(folder / "own_address")
        self._default_route = TrackFile(folder / "default_route")

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.check()
            await asyncio.sleep(NETWORK_SECONDS)

    def check(self) -> None:
        """Check once."""
        if self._reaches(self._peer):
            self._own_address.write("0", f"this host can send to its peer from {self._address}")
        else:
            self._own_address.write("1", f"this host cannot send to its peer from {self._address}, its own address")
        if self._reaches(OUTSIDE):
            self._default_route.write("0", "this host has a default route")
        else:
            self._default_route.write(NO_DEFAULT_ROUTE, "this host has no default route")

    def _reaches(self, target: str) -> bool:
        """Whether the kernel would send to an address from this host's; connecting a datagram socket sends nothing."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                # An address that this host does not have can be bound (ip_nonlocal_bind), but not connected from.
                probe.bind((self._address, 0))
                probe.connect((target, 1))
            except OSError:
                return False
        return True


class Rival:
    """Receives the peer's advertisements (RFC 5798, 5.2) while our own keepalived considers itself MASTER.

    In VRRP one of two masters yields as soon as it receives the other's advertisement. Ours hangs, or is not heard, if
    both advertise for longer than `seconds`, without a gap of that length.
    """

    def __init__(
        self,
        vrrp: socket.socket,
        peer: str,
        head: bytes,
        state: Path,
        end_keepalived: Callable[[], None],
        *,
        seconds: float,
    ) -> None:
        """`head` is the start of an advertisement that our keepalived accepts."""
        self._vrrp, self._peer, self._head, self._seconds = vrrp, peer, head, seconds
        self._state, self._end_keepalived = state, end_keepalived
        self._since = self._last = self._ended = -math.inf

    def heard(self) -> None:
        """A packet has arrived."""
        packet, (source, _) = self._vrrp.recvfrom(2048)
        advertisement = packet[(packet[0] & 15) * 4 :]
        if source != self._peer or len(advertisement) < 8 or not advertisement.startswith(self._head):
            return
        if not advertisement[2]:  # priority 0: the peer gives up the VIP
            return
        now = time.monotonic()
        if not self._is_master():
            # What was heard before it became MASTER is no conflict.
            self._last = -math.inf
            return
        if now - self._last > self._seconds:
            self._since = now
        self._last = now
        if now - self._since > self._seconds and now - self._ended > REPRIEVE_SECONDS:
            self._ended = now
            log(f"{self._peer} advertises for {self._seconds:g} s, and keepalived here does not yield: killing it")
            self._end_keepalived()

    def _is_master(self) -> bool:
        try:
            return self._state.read_text().startswith("MASTER ")
        except FileNotFoundError:
            return False


class Sessions:
    """Closes the sessions of API servers that answer no TCP handshake any more, while another API server does.

    If none answers, it is this host's network or a storm that fills every backlog: sessions may survive that, and their
    clients could not connect anywhere else. Like `Watchdog` it counts checks, not seconds.
    """

    def __init__(self, master: Path, interval: float, out_after: int, close_after: int) -> None:
        """After so many unanswered checks in a row a server is out of service, and after so many its sessions end."""
        self._master, self._interval = master, interval
        self._out_after, self._close_after = out_after, close_after
        self._unanswered: dict[str, int] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._works = True

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self.check(), ANSWER_SECONDS)
                self._works = True
            except (OSError, asyncio.TimeoutError) as error:  # noqa: UP041 two classes in Python 3.10
                self._unanswered.clear()
                if self._works:
                    log(f"no answer on {self._master}, so no sessions of dead API servers are closed: {error!r}")
                self._works = False
            await asyncio.sleep(self._interval)

    async def check(self) -> None:
        """Check once; OSError if HAProxy does not answer."""
        servers = await haproxy.servers(self._master, haproxy.HANDSHAKES)
        unanswered = {server["svname"] for server in servers if is_unanswered(server)}
        if not any(server["status"].startswith("UP") for server in servers):
            unanswered.clear()
        self._unanswered = {name: self._unanswered.get(name, 0) + 1 for name in unanswered}
        for name, checks in self._unanswered.items():
            if checks == self._out_after:
                # From now on no session is sent there, until two health checks have passed.
                log(f"{name} answers no TCP handshake: no new connections to it")
                await haproxy.command(self._master, f"@1 set server {haproxy.READY}/{name} health down")
            elif checks == self._close_after:
                log(f"{name} still answers no TCP handshake: closing its sessions")
                # Checks go on meanwhile. asyncio itself does not keep a task.
                closing = asyncio.create_task(self._close(name))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    async def _close(self, name: str) -> None:
        servers = [(haproxy.READY, name), (haproxy.HANDSHAKES, name)]
        try:
            await asyncio.wait_for(haproxy.close_sessions(self._master, servers), CLOSE_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:  # noqa: UP041 two classes in Python 3.10
            log(f"not all sessions of {name} are closed: {error!r}")
            # Counted, and closed, once more.
            self._unanswered.pop(name, None)


def is_unanswered(server: Mapping[str, str]) -> bool:
    """Whether the last handshake with a server got no answer from its host: silence, or a router's "unreachable"."""
    # While a check runs, "* " precedes the result of the last one.
    result = server["check_status"].removeprefix("* ")
    return result == "L4TOUT" or (result == "L4CON" and "refused" not in server["last_chk"])


def kill_keepalived() -> None:
    """Kill all of its processes, so that none is left to hold the VIP."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text() == "keepalived\n":
                os.kill(int(process.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue


async def watch(arguments: argparse.Namespace) -> None:
    """Watch until cancelled."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 112) as vrrp:
        vrrp.setblocking(False)
        if arguments.router_id:
            # Version 3 and type 1 (advertisement, the only one), and the virtual router id.
            head = bytes([0x31, arguments.router_id])
            state = arguments.folder / "vrrp_state"
            rival = Rival(vrrp, arguments.peer, head, state, kill_keepalived, seconds=arguments.rival / 1000)
            asyncio.get_running_loop().add_reader(vrrp, rival.heard)
        await asyncio.gather(
            Network(arguments.address, arguments.peer, arguments.folder).run(),
            Watchdog(arguments.port, arguments.interval / 1000, arguments.failures, arguments.folder).run(),
            Sessions(haproxy.MASTER, arguments.interval / 1000, arguments.out_after, arguments.close_after).run(),
        )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Reports HAProxy's and the network's health to keepalived, through files."
    )
    parser.add_argument("--port", type=int, required=True, help="where HAProxy answers /reachable")
    parser.add_argument("--interval", type=int, required=True, help="milliseconds between checks")
    parser.add_argument("--failures", type=int, required=True, help="unanswered checks in a row that mean it hangs")
    parser.add_argument("--address", required=True, help="this load balancer's own address")
    parser.add_argument("--peer", required=True, help="address of the other load balancer")
    parser.add_argument("--router-id", type=int, help="VRRP virtual router id; without it, VRRP is not watched")
    parser.add_argument("--rival", type=int, help="milliseconds of two masters that are too many, with --router-id")
    parser.add_argument("--out-after", type=int, required=True, help=f"{CHECKS} gets no new sessions")
    parser.add_argument("--close-after", type=int, required=True, help=f"{CHECKS}'s sessions are closed")
    parser.add_argument("--folder", type=Path, required=True, help="where keepalived looks for the files")
    asyncio.run(watch(parser.parse_args()))


if __name__ == "__main__":
    main()
