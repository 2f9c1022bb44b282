#!/usr/bin/python3
"""Passes held connections on when a load balancer gives the VIP up on purpose, so that none is cut.

Python's standard library only, 3.10 or newer. `held_connections.py` runs this; as a program it asks that one to begin.

The new holder gets the VIP at once, and with it every new connection. Segments of connections that it does not know go
through a tunnel (VXLAN, between the two only) to the old one, which serves what it has until all has ended, or a grace
is over. Its answers take the same way back: the trackers at the new holder's port (security groups) drop what exceeds
one window of a connection of which they see a single direction.

Both hosts have the same rules, so the VIP may move again during the grace, on purpose or because the new holder dies.
The kernel carries it all; if this program dies, the next one removes what it left.
"""

import argparse
import asyncio
import hmac
import json
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence, Sized
from contextlib import suppress
from pathlib import Path

CONTROL = Path("/run/ha-api-held-connections/control")
STATUS = Path("/run/ha-api-held-connections/handover.json")
"""A handover in progress: `connections` that are left, and `seconds_left`. Missing without one."""

DEVICE = TABLE = "ha-handover"
# The table that limits clients' segments. It stays.
SEGMENTS = "ha-segments"
# What the tunnel adds to a packet (Ethernet, IPv4, UDP, VXLAN), and what is in a packet besides a segment's data.
TUNNEL_BYTES, HEADER_BYTES = 50, 40
# Of the route table, its rules, the tunnel, and the VIP's second local route: any number that nobody else uses. Below
# 32766, the priority of the rule for the main table.
NUMBER = 16443
# Of the tunnel's device, link-local (RFC 3927) and never used on the wire.
ADDRESS = "169.254.112.52"
# The peer sets its side up within some tens of milliseconds.
ASK_EVERY_SECONDS, READY_SECONDS = 0.05, 1.5
# As long as the grace lasts, the peer hears so often that this host lives. Seven messages may be lost.
EVERY_SECONDS, SILENT_SECONDS = 0.25, 2.0
# Without answers from the peer: longer than its daemon takes to restart.
DEAF_SECONDS = 5.0
# To count 20,000 connections takes some 0.1 s, and there are at most twice as many (some_connections).
COUNT_SECONDS = 1.0
# keepalived stops within a second, unless somebody changed his mind.
LEAVE_SECONDS = 10.0
# The new holder's announcement may be lost. The next ones come 1 s and 5 s later.
LEAST_SECONDS = 5.5
# HAProxy closes connections at once, and clients receive what was sent before. Clients that have not by then are reset.
CLOSE_SECONDS = 5.0
# At a shutdown: Nova cuts the power after 60 s, and there is more to stop.
SHUTDOWN_SECONDS = 30.0
# After that an older stamp is accepted, because the peer has started again after its clock was set back.
STAMP_SECONDS = 10.0
# Stamps begin with the time at which this program starts, and go on by a clock that nobody sets.
EPOCH = time.time_ns() - time.monotonic_ns()

MESSAGE = struct.Struct("!QB")  # when it was sent, in ns, and one of these
GIVE, READY, END = 1, 2, 3


class HandoverError(Exception):
    """Why connections cannot be passed on."""


def log(text: str) -> None:
    """Write a line to the journal."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 systemd sends standard error to the journal


def next_stamp() -> int:
    """The time for a datagram, in ns: later than the last one's even if the clock has been set back meanwhile."""
    return EPOCH + time.monotonic_ns()


class Tunnel:
    """What the kernel needs to pass segments on, the same on both hosts."""

    def __init__(
        self, *, vip: str, ports: Sequence[int], interface: str, address: str, peer: str, tunnel_port: int
    ) -> None:
        self._vip, self._ports, self._interface = vip, ports, interface
        self._address, self._peer, self._tunnel_port = address, peer, tunnel_port

    def open(self) -> None:
        """Set it up; HandoverError if the kernel refuses. Connections with the VIP in use are not affected."""
        self.close()
        try:
            self._open()
        except OSError as error:
            raise HandoverError(str(error)) from None

    def _open(self) -> None:
        # Connections keep their mark for longer than the tunnel is open, so each tunnel has its own.
        mark = secrets.randbelow(1 << 32) or 1
        ports = f"{{ {', '.join(map(str, self._ports))} }}"
        client, answer = f"ip daddr {self._vip} tcp dport {ports}", f"ip saddr {self._vip} tcp sport {ports}"
        from_peer, from_network = f'iifname "{DEVICE}"', f'iifname "{self._interface}"'
        to_peer = f'dup to {self._peer} device "{DEVICE}" drop'
        to_network = f'dup to ip daddr device "{self._interface}" drop'
        no_syn = "tcp flags & (syn | ack) != syn"
        # As large packets as on the network: a connection that is older than `limit_segments` may send some. They
        # become fragments outside (`df unset`, and no `dev`).
        self._ip(
            f"link add {DEVICE} address {_mac(self._address)} type vxlan id {NUMBER} dstport {self._tunnel_port} "
            f"local {self._address} remote {self._peer} nolearning df unset",
            f"link set {DEVICE} mtu {self._mtu()}",
            # The kernel drops what comes from a device without any address, unless no reverse path is asked for.
            f"address add {ADDRESS}/32 dev {DEVICE}",
        )
        # Refused where IPv6 is off, which is as well.
        _try("ip", "link", "set", DEVICE, "addrgenmode", "none")
        # `dup` and not a route: before routing, nobody takes an answer from the VIP for a packet of the host's own. A
        # connection that this host's tracker did not see begin is the peer's. Each of its segments looks like that,
        # because none gets as far as where the tracker would keep it. The last ones (FIN, RST) cannot be a beginning,
        # so they are invalid: the peer's if no socket here has them. What the peer has passed here is marked, and its
        # answers take the tunnel, until it reaches this host directly again, after another move.
        rules = f"""
            table ip {TABLE} {{
                chain arrive {{
                    type filter hook prerouting priority mangle;
                    {from_peer} {client} {no_syn} ct mark set {mark} accept
                    {from_peer} {answer} {to_network}
                    {from_peer} drop
                    {from_network} {client} ct mark {mark} ct mark set 0
                    {from_network} {client} {no_syn} ct state new {to_peer}
                    {from_network} {client} {no_syn} ct state invalid socket wildcard 1 {to_peer}
                }}
                chain leave {{
                    type route hook output priority mangle;
                    {answer} ct mark {mark} meta mark set {mark}
                }}
            }}
        """
        _run("nft", "-f", "-", stdin=rules)
        # One table for what is sent through the tunnel: by `dup`, which names the device, and by the mark. The tunnel's
        # own packets inherit the mark, so the table has a way to the peer as well.
        self._ip(
            f"link set {DEVICE} up",
            f"neighbor replace {self._peer} lladdr {_mac(self._peer)} dev {DEVICE} nud permanent",
            f"route replace {self._peer}/32 dev {self._interface} table {NUMBER}",
            f"route replace default via {self._peer} dev {DEVICE} onlink table {NUMBER}",
            f"rule add oif {DEVICE} lookup {NUMBER} priority {NUMBER}",
            f"rule add fwmark {mark} lookup {NUMBER} priority {NUMBER}",
        )
        # Loose: clients are not reached through the tunnel. The larger of this and the value for all devices holds.
        Path("/proc/sys/net/ipv4/conf", DEVICE, "rp_filter").write_text("2")

    def limit_segments(self) -> None:
        """From now on, have clients send segments that fit into the tunnel; HandoverError if the kernel refuses.

        The tunnel's packets would be fragments otherwise, which not every switch on the way passes: an upload that is
        under way would stall.
        """
        segment = self._mtu() - TUNNEL_BYTES - HEADER_BYTES
        answer = f"ip saddr {self._vip} tcp sport {{ {', '.join(map(str, self._ports))} }}"
        rules = f"""
            table ip {SEGMENTS}
            delete table ip {SEGMENTS}
            table ip {SEGMENTS} {{
                chain leave {{
                    type filter hook output priority mangle;
                    {answer} tcp flags & (syn | ack) == syn | ack tcp option maxseg size set {segment}
                }}
            }}
        """
        _run("nft", "-f", "-", stdin=rules)

    def close(self) -> None:
        """Remove everything, whatever is there."""
        self.serve_vip(here=False)
        # The device before the filter for what comes out of it. One deletion for each of the two rules of routing.
        rule = f"rule delete priority {NUMBER}"
        for command in (f"link delete {DEVICE}", rule, rule, f"route flush table {NUMBER}"):
            _try("ip", *command.split())
        _try("nft", "delete", "table", "ip", TABLE)

    def serve_vip(self, *, here: bool) -> None:
        """Whether the kernel accepts packets to the VIP without having its address."""
        # A route, not an address: no program takes this host for the holder. ARP is not answered for it (arp_ignore).
        route = ("local", f"{self._vip}/32", "dev", "lo", "table", "local", "metric", str(NUMBER))
        if here:
            _run("ip", "route", "replace", *route)
        else:
            _try("ip", "route", "delete", *route)

    def holds_vip(self) -> bool:
        """Whether this host has the VIP's address."""
        return bool(_run("ip", "-oneline", "-4", "address", "show", "dev", self._interface, "to", f"{self._vip}/32"))

    def _mtu(self) -> int:
        return int(Path("/sys/class/net", self._interface, "mtu").read_text())

    def _ip(self, *commands: str) -> None:
        _run("ip", "-batch", "-", stdin="\n".join(commands))


def _run(*command: str, stdin: str = "") -> str:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise HandoverError(f"{command[0]}: {' '.join(said.split())}") from None
    return done.stdout


def _try(*command: str) -> None:
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(command, capture_output=True, check=False, timeout=5)


def _mac(address: str) -> str:
    """A locally administered MAC address that both hosts can compute."""
    return "02:00:" + ":".join(f"{byte:02x}" for byte in socket.inet_aton(address))


def _show(connections: int, seconds_left: float) -> None:
    new = STATUS.with_suffix(".new")
    # Without it nobody sees the progress, but connections go on.
    with suppress(OSError):
        new.write_text(json.dumps({"connections": connections, "seconds_left": max(0, round(seconds_left))}))
        # Renamed, so that nobody reads half of it.
        new.replace(STATUS)


class Handover:
    """This host's part: it gives connections to pass on, or passes the peer's on, or both after a second move."""

    def __init__(
        self,
        tunnel: Tunnel,
        key: bytes,
        *,
        send: Callable[[bytes], None],
        connections: Callable[[], Sized],
        close: Callable[[], Awaitable[None]],
        reset: Callable[[], Awaitable[None]],
        forget: Callable[[], None],
        lost: Callable[[], Awaitable[None]],
        newest: Callable[[], int],
    ) -> None:
        """`send` sends to the peer. `connections` are this host's, which `close` closes gracefully and `reset` cuts.

        `forget` makes this host's tracker forget the peer's connections, before they are passed on; `lost` resets their
        clients when the peer is gone. `newest` is the stamp of the peer's newest snapshot, in ns.
        """
        self._tunnel, self._key, self._send, self._connections = tunnel, key + b"handover", send, connections
        self._close, self._reset, self._forget, self._lost, self._newest = close, reset, forget, lost, newest
        self._one_at_a_time = asyncio.Lock()
        self.giving = False
        """Whether the peer passes this host's connections on, or will."""
        self._grace: asyncio.Task[None] | None = None
        self._until = self._decided_until = self._answered = 0.0
        self._refusal = ""
        self._peer_ready, self._vip_left, self._vip_came = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._asked: float | None = None
        self._stamp, self._heard = 0, 0.0

    @property
    def receiving(self) -> bool:
        """Whether this host passes the peer's connections on, or will."""
        return self._asked is not None

    def clean_up(self) -> None:
        """Remove what this program, or one that was killed, has left in the kernel.

        Not while the peer's connections are passed on: they go on without this program, until the next one is asked.
        """
        STATUS.unlink(missing_ok=True)
        if not self.receiving:
            self._tunnel.close()

    def vip_changed(self, *, here: bool) -> None:
        """The VIP's address was added to this host, or removed."""
        (self._vip_came if here else self._vip_left).set()
        self._decided_until = 0.0

    async def give(self, grace: float) -> bool:
        """Get ready to give the VIP up; False if there is nothing to do. HandoverError if the peer is not ready.

        After that the VIP has to leave soon. `grace` (seconds) begins at once; 0 lets all connections be cut. What was
        decided holds for the next request as well, which comes from the unit of keepalived as that stops.
        """
        async with self._one_at_a_time:
            if time.monotonic() < self._decided_until and self._refusal:
                raise HandoverError(self._refusal)
            if self.giving or time.monotonic() < self._decided_until or not self._tunnel.holds_vip():
                return False
            self._refusal = ""
            if grace:
                await self._begin(grace)
            else:
                self._decided_until = time.monotonic() + LEAVE_SECONDS
            return bool(grace)

    async def _begin(self, grace: float) -> None:
        for event in (self._peer_ready, self._vip_left, self._vip_came):
            event.clear()
        # First of all, so that nothing that happens from here on resets clients.
        self.giving, self._until = True, time.monotonic() + grace
        try:
            if not self.receiving:
                self._tunnel.open()
            self._tunnel.serve_vip(here=True)
            await self._ask()
        except BaseException as error:
            self._decided_until, self._refusal = time.monotonic() + LEAVE_SECONDS, str(error)
            self._end_giving()
            raise
        self._grace = asyncio.create_task(self._go_on())

    async def _ask(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            self._say(GIVE)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._peer_ready.wait(), ASK_EVERY_SECONDS)
                return
        raise HandoverError(
            "the peer does not answer, or cannot pass connections on: journalctl -u ha-api-held-connections on the peer"
        )

    async def _go_on(self) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            await self._last()
        except Exception as error:
            log(f"the handover has failed: {error!r}")
            # Clients that only listen would wait for what nobody passes on any more.
            if self._vip_left.is_set() and not self._vip_came.is_set():
                await self._reset()
        finally:
            beating.cancel()
            self._end_giving()

    async def _beat(self) -> None:
        while True:
            self._say(GIVE)
            await asyncio.sleep(EVERY_SECONDS)

    async def _last(self) -> None:
        """Until no connection is left, the grace period ends, or the VIP is back."""
        began = time.monotonic()
        while not self._vip_came.is_set():
            now, left = time.monotonic(), len(self._connections())
            _show(left, self._until - now)
            if not self._vip_left.is_set():
                if now - began > LEAVE_SECONDS:
                    log("the VIP did not leave, so no connection is passed on")
                    return
            elif now - self._answered > DEAF_SECONDS:
                log("the peer passes nothing on any more")
                await self._close_all()
                return
            elif now >= self._until or (not left and now - began >= LEAST_SECONDS):
                log(f"the grace period is over with {left} connections left" + (", which are closed" if left else ""))
                await self._close_all()
                return
            await self._wait(min(COUNT_SECONDS, max(self._until - now, ASK_EVERY_SECONDS)))
        log("the VIP is back, and so are this host's connections")

    def _end_giving(self) -> None:
        self.giving = False
        STATUS.unlink(missing_ok=True)
        # One may be lost.
        for _ in range(3):
            self._say(END)
        self._tunnel.serve_vip(here=False)
        if not self.receiving:
            self._tunnel.close()

    async def _wait(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._vip_came.wait(), seconds)

    async def _close_all(self) -> None:
        if not self._connections():
            return
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._close(), CLOSE_SECONDS)
        # Not a number of turns: with many connections it takes longer to count them than to wait.
        deadline = time.monotonic() + CLOSE_SECONDS
        while time.monotonic() < deadline:
            if self._vip_came.is_set() or not self._connections():
                return
            await asyncio.sleep(ASK_EVERY_SECONDS)
        await self._reset()

    async def finish(self) -> None:
        """End a grace soon, because this host is being shut down."""
        if self.giving and self._grace:
            self._until = min(self._until, time.monotonic() + SHUTDOWN_SECONDS)
            await self._grace

    # ---- the other side

    def heard(self, datagram: bytes) -> None:
        """A message from the peer's address."""
        digest, text = datagram[: -MESSAGE.size], datagram[-MESSAGE.size :]
        if not hmac.compare_digest(digest, hmac.digest(self._key, text, "sha256")):
            return
        stamp, what = MESSAGE.unpack(text)
        now = time.monotonic()
        repeated = stamp <= self._stamp and now - self._heard < STAMP_SECONDS
        if repeated or stamp < self._newest() - STAMP_SECONDS * 1e9:
            return  # an old one that somebody repeats
        self._stamp, self._heard = stamp, now
        if what == GIVE:
            self._receive(now)
        elif what == READY:
            self._answered = now
            self._peer_ready.set()
        elif what == END and self.receiving:
            self._end_receiving()

    def _receive(self, now: float) -> None:
        if not self.receiving:
            try:
                if not self.giving:
                    self._tunnel.open()
            except HandoverError as error:
                log(f"the peer's connections cannot be passed on: {error}")
                self._tunnel.close()
                return
            # It may remember older connections from the same ports.
            self._forget()
            log("passing the peer's connections on")
        self._asked = now
        self._say(READY)

    def _end_receiving(self) -> None:
        self._asked = None
        if not self.giving:
            self._tunnel.close()
        log("the peer's connections have ended")

    async def run(self) -> None:
        """Notice a peer that dies while its connections are passed on; never ends."""
        # What a killed predecessor has left carries on until the peer asks again, or does not.
        await asyncio.sleep(SILENT_SECONDS)
        if not self.giving:
            self.clean_up()
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            if self._asked is not None and time.monotonic() - self._asked > SILENT_SECONDS:
                log("the peer is silent")
                self._end_receiving()
                await self._lost()

    def _say(self, what: int) -> None:
        text = MESSAGE.pack(next_stamp(), what)
        self._send(hmac.digest(self._key, text, "sha256") + text)

    # ---- requests of this host

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A request of the program below: a line with the grace. The answer is what failed, or nothing."""
        try:
            grace = float(await reader.readline())
            if await self.give(grace):
                log(f"giving the VIP up; connections may go on for {grace:g} s")
        except (HandoverError, OSError, ValueError) as error:
            writer.write(str(error).encode())
        finally:
            writer.close()


def main() -> None:
    """Ask for a handover; the VIP may leave this host when this ends with status 0."""
    parser = argparse.ArgumentParser(description="Prepares this host to give the VIP up without cutting connections.")
    parser.add_argument("--grace", type=float, required=True, help="seconds for which they may go on; 0: none")
    grace = parser.parse_args().grace
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(READY_SECONDS + 5)
            control.connect(str(CONTROL))
            control.sendall(f"{grace}\n".encode())
            with control.makefile() as answer:
                failed = answer.read()
    except OSError as error:
        failed = f"ha-api-held-connections does not answer: {error}"
    if failed:
        sys.exit(failed)


if __name__ == "__main__":
    main()
