#!/usr/bin/python3
"""Resets the clients of a load balancer that died, so that they reconnect now and not when their own keep-alives fail.

Python's standard library only, 3.10 or newer.

A client that sends something after the VIP has moved is reset by the new holder's kernel, which has no such connection.
One that only listens, as a watch does, would wait: 15 to 45 s if it sends keep-alives, else for ever. So the new holder
makes it answer, by a keep-alive that the dead host would have sent. Everything on the way that tracks connections
(security groups, firewalld, the NAT of a floating IP) lets that pass, and the reset as well, but only if its numbers
are exact: the sequence number that the dead host would have sent next, less one, and the one that it expected next.

So once a second each host reports to the other which clients hold a connection to the VIP through it, with these
numbers. The kernel does not show them, but they follow from what it does show: how many bytes went each way
(`ss -tni`), and the first number of each side, which a packet socket sees in the SYN/ACK.

A new connection is reported within a tenth of a second, by the numbers of its handshake.

The API's port comes first, whenever something takes time. All of its clients are reported, and of the frontends' only
so many in all: each client costs both hosts CPU time, every second.

A host that loses the VIP resets its own clients: the new holder may have had the VIP all the time, cut off, and then
knows nothing of them.

A host that gives the VIP up on purpose keeps them, and the new holder passes their segments on: `handover.py`.

Two kinds of connections have no exact numbers: those that are older than this program, and those that have carried data
since they were last reported. Their clients answer with the number that they expect (a challenge ACK, RFC 5961, 4), and
are reset with that one. Not every tracker lets this pass for numbers that are far off.
"""

import argparse
import asyncio
import ctypes
import hmac
import json
import re
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import haproxy
from handover import CONTROL, MESSAGE, Handover, HandoverError, Tunnel, next_stamp

EVERY_SECONDS = 1.0
# New connections between two snapshots. No more than that many of a port at a time: a flood of SYNs looks the same.
NEW_EVERY_SECONDS, NEW_AT_MOST = 0.1, 2_000
# Connections of all frontends: with as many of the API's, a snapshot takes a quarter of a core.
FRONTENDS_AT_MOST = 20_000
# Three snapshots may be lost.
FRESH_SECONDS = 3.5
# keepalived announces the VIP when it has added the address. A client that answers before it has heard that answers the
# dead host, and answers no such segment for 500 ms from then on (tcp_invalid_ratelimit): repeats come later than that.
DELAY_SECONDS, REPEAT_SECONDS, REPEATS = 0.05, 0.6, 2
# Clients in a second: what each of them does next is a TLS handshake.
RATE, BATCH = 20_000, 100
# Handshakes that are read in one turn, and that are remembered: a flood must not keep this program from its other work,
# nor take all memory. HAProxy accepts some 20,000 connections.
READ_AT_MOST, KNOWN_AT_MOST = 1_000, 100_000
# For how long a handshake may be without a connection: until the client's ACK has come.
FORGET_SECONDS = 5.0
# After that an older stamp is accepted, because the peer has started again after its clock was set back.
SILENT_SECONDS = 10.0

# By how many bytes a tracker may be ahead of the numbers that are known of a connection: it has carried more since, or
# some of it is not acknowledged. A tracker accepts no number beyond the client's window, which is 64 kB for most.
AHEAD = (0, 1 << 14, 60_000)
# Until the switches have followed the new holder's announcement, packets still come to the old one.
SETTLED_SECONDS = 1.0
# Between two events that are handled in one turn, in any order.
AT_ONCE_SECONDS = 0.1
# A client across a continent.
ANSWER_SECONDS = 0.2
# Of handshakes or answers of a storm of clients.
BUFFER_BYTES = 1 << 22

# HAProxy's tcp-ut ends a connection whose client acknowledges nothing for so long. But the kernel checks that only when
# it sends again, which after a bad measurement of the round trip is two minutes later. A move does not wait for these.
STUCK_MS = 30_000

HEADER = struct.Struct("!QH")  # when the snapshot was made, in ns, and the port of the VIP that the clients use
ENTRY = struct.Struct("!4sHIIB")  # address, port, next to send, next expected, whether these two are known
DIGEST_BYTES = 32
ENTRIES = 88  # in a datagram that no network has to fragment: 1,362 bytes

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
# From Linux's include/uapi/linux: if_ether.h, socket.h, netlink.h, sock_diag.h, inet_diag.h, rtnetlink.h, if_addr.h,
# nfnetlink.h, nfnetlink_conntrack.h.
ETH_P_IP, ETH_P_ALL, SO_ATTACH_FILTER, SO_RCVBUFFORCE = 0x0800, 3, 26, 33
SOCK_DIAG, SOCK_DIAG_BY_FAMILY, SOCK_DESTROY, REQUEST_DUMP, INET_DIAG_INFO = 4, 20, 21, 0x301, 2
# States of TCP, as bits: ESTABLISHED, and with FIN_WAIT1, CLOSE_WAIT, LAST_ACK and CLOSING, which may have data left.
ESTABLISHED, UNFINISHED = 1 << 1, 1 << 1 | 1 << 4 | 1 << 8 | 1 << 9 | 1 << 11
# All of these but ESTABLISHED, and FIN_WAIT2 and TIME_WAIT: the kernel answers for a connection that is over.
ENDED = UNFINISHED & ~ESTABLISHED | 1 << 5 | 1 << 6
RTMGRP_IPV4_IFADDR, RTM_NEWADDR, RTM_DELADDR, IFA_LOCAL = 0x10, 20, 21, 2
NETFILTER, CONNTRACK_DELETE, REQUEST, NESTED = 12, 0x102, 1, 0x8000


class Client(NamedTuple):
    """The client's end of a connection to the VIP."""

    address: bytes
    port: int
    vip_port: int


class Numbers(NamedTuple):
    """The sequence numbers that come next, in the eyes of the load balancer."""

    send: int
    expect: int


Clients = Mapping[Client, Numbers | None]
"""Who holds a connection, and its numbers, if they are known."""


def log(text: str) -> None:
    """Write a line to the journal."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 systemd sends standard error to the journal


def read_key(path: Path) -> bytes:
    """What the pair signs its messages with; ends this program if the file has no such key."""
    try:
        key = path.read_bytes()
    except OSError as error:
        sys.exit(f"the pair's key cannot be read: {error}")
    # Anybody could sign with an empty one.
    if not re.fullmatch(rb"[0-9a-f]{64}", key):
        sys.exit(
            f"{path} is not the pair's key, which has 64 hexadecimal digits; write it again: "
            "pulumi up --replace '**::HOST-pair-key'"
        )
    return key


def attach(packets: socket.socket, *program: tuple[int, int, int, int]) -> None:
    """Let only packets pass that a program of the kernel's "classic" BPF accepts; offsets begin at the IP header."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *it) for it in program))
    packets.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code)))


class Handshakes:
    """The first sequence numbers of both sides of each connection."""

    def __init__(self, vip: bytes, ports: Sequence[int], saved: Path) -> None:
        """`saved` has those that this program knew when it ended last: a restart forgets no connection."""
        self._vip, self._saved = vip, saved
        self._first: dict[Client, tuple[int, int, float]] = {}
        self._new: dict[int, dict[Client, Numbers]] = {port: {} for port in ports}
        with suppress(FileNotFoundError, ValueError):
            # Without the port of the VIP: from a version that knew the API's alone.
            for address, port, *vip_port, ours, theirs in json.loads(saved.read_text()):
                client = Client(bytes.fromhex(address), port, *vip_port or ports[:1])
                self._first[client] = ours, theirs, time.monotonic()

    def save(self) -> None:
        """For the next run."""
        known = [(client.address.hex(), *client[1:], *it[:2]) for client, it in self._first.items()]
        self._saved.write_text(json.dumps(known))

    def listen(self, interface: str) -> socket.socket:
        """A socket that gets the SYN/ACKs that this host sends from the VIP."""
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        attach(
            packets,
            (0x28, 0, 0, 0xFFFFF000),  # the frame's protocol: IPv4
            (0x15, 0, 11, 0x0800),
            (0x30, 0, 0, 9),  # the packet's: TCP
            (0x15, 0, 9, socket.IPPROTO_TCP),
            (0x28, 0, 0, 6),  # the first fragment
            (0x45, 7, 0, 0x1FFF),
            (0x20, 0, 0, 12),  # the source address
            (0x15, 0, 5, int.from_bytes(self._vip, "big")),
            (0xB1, 0, 0, 0),  # from the end of the IP header: the flags
            (0x50, 0, 0, 13),
            (0x54, 0, 0, SYN | ACK),
            (0x15, 0, 1, SYN | ACK),
            (0x06, 0, 0, 80),
            (0x06, 0, 0, 0),
        )
        packets.bind((interface, ETH_P_ALL))
        return packets

    def read(self, packets: socket.socket) -> None:
        """What has arrived on that socket, or the first part of it."""
        with suppress(OSError):  # nothing more, or the link is down
            for _ in range(READ_AT_MOST):
                self.saw(packets.recv(80))

    def saw(self, packet: bytes) -> None:
        """A SYN/ACK from the VIP, from its IP header on."""
        vip_port, port, number, acknowledged = struct.unpack_from("!HHII", packet, (packet[0] & 15) * 4)
        if vip_port in self._new:
            client = Client(packet[16:20], port, vip_port)
            if client in self._first or len(self._first) < KNOWN_AT_MOST:
                self._first[client] = number, acknowledged, time.monotonic()
            if len(self._new[vip_port]) < NEW_AT_MOST:
                self._new[vip_port][client] = Numbers((number + 1) & 0xFFFFFFFF, acknowledged)

    def new(self) -> Clients:
        """The connections since the last call, before they have carried any data; of the first port first."""
        found, self._new = self._new, {port: {} for port in self._new}
        return {client: numbers for its in found.values() for client, numbers in its.items()}

    def numbers(self, client: Client, acknowledged: int, received: int) -> Numbers | None:
        """What comes next on a connection on which so many bytes went each way."""
        if client not in self._first:
            return None
        ours, theirs, _ = self._first[client]
        # Our SYN counts as a byte; theirs is in what the SYN/ACK acknowledges.
        return Numbers((ours + 1 + acknowledged) & 0xFFFFFFFF, (theirs + received) & 0xFFFFFFFF)

    def seen_since(self, client: Client, when: float) -> bool:
        """Whether a connection began after a time (monotonic)."""
        return client in self._first and self._first[client][2] >= when

    def begun_since(self, when: float) -> Clients:
        """The connections that began after a time (monotonic), with their first numbers, whether they go on or not."""
        return {
            client: Numbers((ours + 1) & 0xFFFFFFFF, theirs)
            for client, (ours, theirs, seen) in self._first.items()
            if seen >= when
        }

    def forget_all_but(self, clients: Clients) -> None:
        """Forget those that have no connection any more."""
        now = time.monotonic()
        for client in [
            it for it, known in self._first.items() if it not in clients and now - known[2] > FORGET_SECONDS
        ]:
            del self._first[client]


def checksum(data: bytes) -> bytes:
    """Of an IP header, or a TCP segment behind its pseudo header, without a checksum (RFC 1071)."""
    total = sum(it for (it,) in struct.iter_unpack("!H", data))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


class Connection(NamedTuple):
    """A connection to the VIP, as the kernel shows it."""

    client: Client
    acknowledged: int
    """Bytes of this host's."""
    sent: int
    """The same, with those that are not acknowledged yet."""
    received: int
    """Bytes of the client's."""
    stuck: bool
    """Whether the client has acknowledged nothing for STUCK_MS, and the kernel has not sent again either."""
    socket: bytes
    """struct inet_diag_sockid."""


def connections(vip: bytes, port: int, states: int = ESTABLISHED) -> Iterator[Connection]:
    """The connections to a port of the VIP (sock_diag(7))."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as kernel:
        any_socket = struct.pack("!HH", port, 0) + bytes(32) + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
        information = 1 << (INET_DIAG_INFO - 1)
        request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, information, 0, states)
        length = 16 + len(request) + len(any_socket)
        kernel.send(struct.pack("=IHHII", length, SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 1, 0) + request + any_socket)
        while True:
            answer = kernel.recv(1 << 18)
            at = 0
            while at < len(answer):
                length, kind = struct.unpack_from("=IH", answer, at)
                if kind != SOCK_DIAG_BY_FAMILY:  # the end, or an error
                    return
                # struct inet_diag_msg, then attributes, one of which is struct tcp_info.
                if answer[at + 24 : at + 28] == vip:
                    client = Client(answer[at + 40 : at + 44], int.from_bytes(answer[at + 22 : at + 24], "big"), port)
                    # In FIN_WAIT2 and TIME_WAIT, of which the kernel keeps little.
                    acknowledged = sent = received = 0
                    stuck = False
                    attribute = at + 88
                    while attribute < at + length:
                        size, name = struct.unpack_from("=HH", answer, attribute)
                        if name == INET_DIAG_INFO:
                            # tcpi_unacked (segments), tcpi_last_data_sent and tcpi_last_ack_recv (ms ago).
                            waits, sent_ago, acknowledged_ago = struct.unpack_from(
                                "=I16xI8xI", answer, attribute + 4 + 24
                            )
                            stuck = waits > 0 and min(sent_ago, acknowledged_ago) > STUCK_MS
                            # tcpi_bytes_acked and tcpi_bytes_received.
                            acknowledged, received = struct.unpack_from("=QQ", answer, attribute + 4 + 120)
                            # tcpi_bytes_sent and tcpi_bytes_retrans.
                            all_sent, again = struct.unpack_from("=QQ", answer, attribute + 4 + 200)
                            sent = max(all_sent - again, acknowledged)
                            break
                        attribute += (size + 3) & ~3
                    yield Connection(client, acknowledged, sent, received, stuck, answer[at + 20 : at + 68])
                at += (length + 3) & ~3


def some_connections(vip: bytes, ports: Sequence[int], states: int = ESTABLISHED) -> Iterator[Connection]:
    """All connections to the first port of the VIP, the API's, and as many to the others as may be handled often."""
    api, *frontends = (connections(vip, port, states) for port in ports)
    return chain(api, islice(chain.from_iterable(frontends), FRONTENDS_AT_MOST))


def destroy(sockets: Iterable[bytes]) -> None:
    """End sockets of this host (sock_diag(7)); HAProxy sees its connections as broken.

    One that is gone is left alone, because the kernel's own id of it is sent along: by its addresses it would find the
    socket that listens. A kernel without INET_DIAG_DESTROY keeps them until their keep-alives fail.
    """
    with suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as kernel:
        for it in sockets:
            request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0)
            kernel.send(struct.pack("=IHHII", 72, SOCK_DESTROY, REQUEST, 1, 0) + request + it)


def forget_tracked(vip: bytes, clients: Iterable[Client]) -> None:
    """Delete what this host's connection tracking knows of these clients: it may be an older connection's."""
    with suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as kernel:
        for client in clients:
            # CTA_TUPLE_ORIG: CTA_TUPLE_IP with source and destination, CTA_TUPLE_PROTO with protocol and both ports.
            addresses = struct.pack("=HHHH4sHH4s", 20, 1 | NESTED, 8, 1, client.address, 8, 2, vip)
            protocol = struct.pack("=HHHHB3x", 28, 2 | NESTED, 5, 1, socket.IPPROTO_TCP)
            ports = struct.pack("=HHH2xHHH2x", 6, 2, socket.htons(client.port), 6, 3, socket.htons(client.vip_port))
            header = struct.pack("=IHHIIB3xHH", 72, CONNTRACK_DELETE, REQUEST, 0, 0, socket.AF_INET, 52, 1 | NESTED)
            kernel.send(header + addresses + protocol + ports)


def pack(key: bytes, clients: Clients, stamp: int) -> Iterator[bytes]:
    """A snapshot as datagrams, each about one port: at least one, because having no clients is news as well."""
    entries_of: dict[int, list[bytes]] = {}
    for (address, port, vip_port), known in clients.items():
        entry = ENTRY.pack(address, port, *(known or (0, 0)), known is not None)
        entries_of.setdefault(vip_port, []).append(entry)
    for vip_port, entries in (entries_of or {0: []}).items():
        for first in range(0, len(entries) or 1, ENTRIES):
            text = HEADER.pack(stamp, vip_port) + b"".join(entries[first : first + ENTRIES])
            yield hmac.digest(key, text, "sha256") + text


class Peer:
    """What the other host has said last.

    Each datagram is signed with a key that only the pair has: a forged one could have any client reset.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._clients: dict[Client, tuple[int, Numbers | None]] = {}
        self.stamp, self._heard = 0, time.monotonic()

    def heard(self, datagram: bytes) -> bool:
        """Whether a datagram is the peer's, and not an old one that somebody repeats."""
        digest, text = datagram[:DIGEST_BYTES], datagram[DIGEST_BYTES:]
        if len(text) < HEADER.size or not hmac.compare_digest(digest, hmac.digest(self._key, text, "sha256")):
            return False
        if (len(text) - HEADER.size) % ENTRY.size:
            return False  # a version of this program without the port
        stamp, vip_port = HEADER.unpack_from(text)
        now = time.monotonic()
        if stamp < self.stamp and now - self._heard < SILENT_SECONDS:
            return False
        if stamp != self.stamp:
            oldest = stamp - int(FRESH_SECONDS * 1e9)
            self._clients = {it: known for it, known in self._clients.items() if oldest < known[0] < stamp}
        self.stamp, self._heard = stamp, now
        for address, port, send, expect, known in ENTRY.iter_unpack(text[HEADER.size :]):
            self._clients[Client(address, port, vip_port)] = stamp, Numbers(send, expect) if known else None
        return True

    def clients(self) -> Clients:
        """Who held a connection through it."""
        return {client: known for client, (_, known) in self._clients.items()}

    def forget(self, stamp: int) -> None:
        """Forget those of whom it has said nothing since a stamp."""
        self._clients = {it: known for it, known in self._clients.items() if known[0] > stamp}


class Resets:
    """Sends segments from the VIP, to which clients answer."""

    def __init__(self, vip: bytes, ports: Sequence[int], interface: str) -> None:
        self._vip, self._interface = vip, interface
        self._importance = {port: number for number, port in enumerate(ports)}
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)

    def packet(self, client: Client, number: int, flags: int, acknowledge: int = 0) -> bytes:
        """A TCP segment without data, in its packet (RFC 9293, 3.1)."""
        window = 1024
        tcp = struct.pack(
            "!HHIIBBHHH", client.vip_port, client.port, number & 0xFFFFFFFF, acknowledge, 5 << 4, flags, window, 0, 0
        )
        pseudo_header = self._vip + client.address + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp))
        tcp = tcp[:16] + checksum(pseudo_header + tcp) + tcp[18:]
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0, self._vip, client.address)
        return ip[:10] + checksum(ip) + ip[12:] + tcp

    async def send(self, clients: Clients, remembered: Clients) -> None:
        """Make all of them answer once, and reset those that the kernel does not.

        These are the ones whose answer shows that their numbers were not exact, and those of which this host remembers
        an older connection from the same port, whose socket gets the answer; `remembered` has the older ones' numbers.
        """
        waiting = {**clients, **dict.fromkeys(remembered)}
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP) as answers:
            answers.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            attach(
                answers,
                (0x20, 0, 0, 16),  # the destination address
                (0x15, 0, 4, int.from_bytes(self._vip, "big")),
                (0xB1, 0, 0, 0),  # from the end of the IP header: the flags
                (0x50, 0, 0, 13),
                (0x15, 0, 1, ACK),
                (0x06, 0, 0, 80),
                (0x06, 0, 0, 0),
            )
            loop.add_reader(answers, self._read, answers, waiting)
            try:
                began, everyone = time.monotonic(), self._in_order(clients)
                for first in range(0, len(everyone), BATCH):
                    batch = everyone[first : first + BATCH]
                    forget_tracked(self._vip, (client for client, _ in batch))
                    for client, known in batch:
                        if client in remembered:
                            self._end_older(client, remembered[client], known)
                        if known:
                            self._send(client, self.packet(client, known.send - 1, ACK, known.expect))
                        else:
                            self._send(client, self.packet(client, 0, ACK))
                    await asyncio.sleep(began + (first + len(batch)) / RATE - time.monotonic())
                await asyncio.sleep(ANSWER_SECONDS)
            finally:
                loop.remove_reader(answers)

    async def end(self, clients: Clients) -> None:
        """Reset this host's own clients after it has lost the VIP, from which its kernel can send nothing any more."""
        began, known = time.monotonic(), [(client, it) for client, it in self._in_order(clients) if it]
        for first in range(0, len(known), BATCH):
            batch = known[first : first + BATCH]
            for client, numbers in batch:
                self._send(client, self.packet(client, numbers.send, RST | ACK, numbers.expect))
                # If the client has had more than it has acknowledged, it answers, and the new holder resets it.
                self._send(client, self.packet(client, numbers.send - 1, ACK, numbers.expect))
            await asyncio.sleep(began + (first + len(batch)) / RATE - time.monotonic())

    async def end_at_own_port(self, clients: Clients) -> None:
        """End connections for the tracker at this host's own port, and for nobody else.

        It never sees the end of those that the peer passes on, and would drop later ones from the same port of the
        client: its SYN, or after another move all that it sends. So each gets a reset that is addressed to this host's
        own interface: it passes the tracker as it leaves, and no switch delivers a frame to where it came from.
        """
        datagrams = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        with suppress(OSError), socket.socket(socket.AF_PACKET, datagrams, 0) as port:
            port.bind((self._interface, 0))
            *_, own = port.getsockname()
            for count, (client, known) in enumerate(self._in_order(clients), 1):
                for packet in self.ends(client, known) if known else ():
                    with suppress(OSError):  # a queue that is full
                        port.sendto(packet, (self._interface, ETH_P_IP, 0, 0, own))
                if count % BATCH == 0:
                    await asyncio.sleep(BATCH / RATE)

    def ends(self, client: Client, known: Numbers) -> Iterator[bytes]:
        """Segments that end a connection for a tracker that may have seen more of it than this.

        Open vSwitch in userspace accepts a reset only with exactly the number that it expects, and a FIN with a later
        one, after which it expects the next.
        """
        for ahead in AHEAD:
            after = known.send + ahead
            yield self.packet(client, after - 1, FIN | ACK, known.expect)
            yield self.packet(client, after, RST | ACK, known.expect)

    def _in_order(self, clients: Clients) -> Sequence[tuple[Client, Numbers | None]]:
        return sorted(clients.items(), key=lambda it: self._importance.get(it[0].vip_port, len(self._importance)))

    def _end_older(self, client: Client, older: Numbers | None, known: Numbers | None) -> None:
        """Make trackers on the way exchange a connection that this host remembers for the one through the dead host.

        The reset ends the older one, and the SYN begins another. The client ignores the first, which is not within its
        connection, and answers the second.
        """
        if older:
            self._send(client, self.packet(client, older.send, RST))
        if known:
            self._send(client, self.packet(client, known.send - 1, SYN))

    def _read(self, answers: socket.socket, waiting: dict[Client, Numbers | None]) -> None:
        with suppress(BlockingIOError):
            while True:
                packet = answers.recv(80)
                port, vip_port, expected = struct.unpack_from("!HH4xI", packet, (packet[0] & 15) * 4)
                self._answered(Client(packet[12:16], port, vip_port), expected, waiting)

    def _answered(self, client: Client, expected: int, waiting: dict[Client, Numbers | None]) -> None:
        """A client has said which number it expects; the kernel has answered with a reset."""
        if client not in waiting:
            return
        known = waiting.pop(client)
        if known is None or known.send != expected:
            # A tracker that has seen another number from us may have dropped that reset. So one ends the tracker's
            # entry and a SYN begins another, both of which the client ignores, and the last one is within that.
            for number, flags in ((0, RST), (expected - 1, SYN), (expected, RST)):
                self._send(client, self.packet(client, number, flags))

    def _send(self, client: Client, packet: bytes) -> None:
        # A client without a route, or a queue that is full: there are repeats.
        with suppress(OSError):
            self._raw.sendto(packet, (socket.inet_ntoa(client.address), 0))


class HeldConnections:
    """Exchanges snapshots with the peer, and resets its clients when the VIP comes here."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._vip = socket.inet_aton(arguments.vip)
        self._ports, self._interface = arguments.port, arguments.interface
        self._key = read_key(arguments.key)
        self._peer_address = (arguments.peer, arguments.exchange_port)
        self._handshakes = Handshakes(self._vip, self._ports, arguments.saved)
        self._peer = Peer(self._key)
        self._resets = Resets(self._vip, self._ports, self._interface)
        self._here, self._gone = asyncio.Event(), asyncio.Event()
        self._since = 0.0
        self._reported: Clients = {}
        """This host's connections as of the last snapshot."""
        self._tunnel = Tunnel(
            vip=arguments.vip,
            ports=self._ports,
            interface=self._interface,
            address=arguments.address,
            peer=arguments.peer,
            tunnel_port=arguments.tunnel_port,
        )
        self._handover = Handover(
            self._tunnel,
            self._key,
            send=self._send,
            connections=lambda: [it for it in some_connections(self._vip, self._ports, UNFINISHED) if not it.stuck],
            close=self._close_own,
            reset=self._reset_own,
            forget=lambda: forget_tracked(self._vip, self._peer.clients()),
            lost=lambda: self._reset_peers_clients("the peer is silent"),
            newest=lambda: self._peer.stamp,
        )
        self._exchange = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._exchange.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._exchange.bind((arguments.address, arguments.exchange_port))
        self._addresses = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._addresses.bind((0, RTMGRP_IPV4_IFADDR))

    async def run(self) -> None:
        """Until SIGTERM."""
        loop = asyncio.get_running_loop()
        try:
            self._tunnel.limit_segments()
        except HandoverError as error:
            log(f"an upload may stall when the VIP moves on purpose: {error}")
        packets = self._handshakes.listen(self._interface)
        loop.add_reader(packets, self._handshakes.read, packets)
        loop.add_reader(self._exchange, self._heard)
        loop.add_reader(self._addresses, self._address_changed)
        CONTROL.unlink(missing_ok=True)
        async with await asyncio.start_unix_server(self._handover.serve, CONTROL):
            ended = asyncio.gather(self._tell(), self._take_over(), self._give_up(), self._handover.run())
            finishing: list[asyncio.Task[None]] = []
            loop.add_signal_handler(
                signal.SIGTERM, lambda: finishing.append(loop.create_task(self._finish(ended.cancel)))
            )
            try:
                with suppress(asyncio.CancelledError):
                    await ended
            finally:
                self._handshakes.save()
                self._handover.clean_up()

    async def _finish(self, end: Callable[[], object]) -> None:
        try:
            await self._handover.finish()
        finally:
            end()

    def _own(self) -> Clients:
        return {
            it.client: self._handshakes.numbers(it.client, it.acknowledged, it.received)
            for it in some_connections(self._vip, self._ports)
        }

    def _sending(self) -> Clients:
        """The connections on which data are on their way to the client, with the numbers after these."""
        return {
            it.client: self._handshakes.numbers(it.client, it.sent, it.received)
            for it in some_connections(self._vip, self._ports)
            if it.sent > it.acknowledged
        }

    async def _tell(self) -> None:
        while True:
            # Those of which the kernel has only sent the SYN/ACK are no connections yet.
            new = self._handshakes.new()
            self._reported = clients = self._own()
            self._handshakes.forget_all_but(clients)
            await self._tell_of({**new, **clients})
            for _ in range(round(EVERY_SECONDS / NEW_EVERY_SECONDS)):
                await asyncio.sleep(NEW_EVERY_SECONDS)
                if new := self._handshakes.new():
                    await self._tell_of(new)

    async def _tell_of(self, clients: Clients) -> None:
        for count, datagram in enumerate(pack(self._key, clients, next_stamp()), 1):
            # Lost ones are sent again in a second, and a peer that is down has no use for them.
            self._send(datagram)
            # The peer reads meanwhile.
            if count % BATCH == 0:
                await asyncio.sleep(BATCH / RATE)

    def _send(self, datagram: bytes) -> None:
        with suppress(OSError):
            self._exchange.sendto(datagram, self._peer_address)

    def _heard(self) -> None:
        with suppress(BlockingIOError):
            while True:
                datagram, address = self._exchange.recvfrom(2048)
                if address == self._peer_address:
                    # A snapshot never has this length.
                    if len(datagram) == DIGEST_BYTES + MESSAGE.size:
                        self._handover.heard(datagram)
                    else:
                        self._peer.heard(datagram)

    def _address_changed(self) -> None:
        """A message of rtnetlink(7): the VIP has come to this host, or left it, if one of its attributes says so."""
        with suppress(BlockingIOError, OSError):
            while True:
                message = self._addresses.recv(1 << 16)
                local = struct.pack("=HH", 8, IFA_LOCAL) + self._vip
                kind = struct.unpack_from("=H", message, 4)[0]
                if kind == RTM_NEWADDR and local in message:
                    self._since = time.monotonic()
                    self._handover.vip_changed(here=True)
                    self._here.set()
                elif kind == RTM_DELADDR and local in message:
                    self._handover.vip_changed(here=False)
                    self._gone.set()

    async def _give_up(self) -> None:
        while True:
            await self._gone.wait()
            self._gone.clear()
            if self._handover.giving:
                await self._end_at_own_port()
            else:
                await self._reset_own()

    async def _end_at_own_port(self) -> None:
        left = time.monotonic()
        while self._since < left:
            # Those that ended as the VIP left are in the last snapshot, or began after it. And the peer's, which have
            # been passed on here and now reach it directly.
            ended = {**self._handshakes.begun_since(left - 2 * EVERY_SECONDS), **self._reported}
            # First those that send: the tracker has seen what was on its way as the VIP left, which may be far more
            # than AHEAD, and with each moment more comes after it.
            await self._resets.end_at_own_port(self._sending())
            await self._resets.end_at_own_port({**self._peer.clients(), **ended, **self._own()})
            if time.monotonic() > left + SETTLED_SECONDS:
                return
            await asyncio.sleep(SETTLED_SECONDS)

    async def _reset_own(self) -> None:
        # Before anything else, because the VIP may come back with new connections meanwhile. Not those that HAProxy has
        # closed, of which older kernels would keep the sockets ("tcp: fix forever orphan socket caused by tcp_abort").
        sockets: list[bytes] = []
        for port in self._ports:
            sockets += (it.socket for it in connections(self._vip, port))
            await asyncio.sleep(0)
        await self._resets.end(self._own())
        # Else these sockets send keep-alives once the VIP is back, and get the segments of a later connection from the
        # same port of the client, which the peer passes on.
        destroy(sockets)

    async def _close_own(self) -> None:
        """Close this host's connections gracefully, as far as HAProxy does."""
        with suppress(OSError):
            servers = await haproxy.servers(haproxy.MASTER, haproxy.ALL)
            await haproxy.close_sessions(haproxy.MASTER, [(server["pxname"], server["svname"]) for server in servers])

    async def _take_over(self) -> None:
        while True:
            await self._here.wait()
            self._here.clear()
            if not self._handover.receiving:
                await asyncio.sleep(DELAY_SECONDS)
                await self._reset_peers_clients("the VIP came here")

    async def _reset_peers_clients(self, reason: str) -> None:
        began = time.monotonic()
        clients, stamp = self._peer.clients(), self._peer.stamp
        if not clients:
            return
        unknown = sum(known is None for known in clients.values())
        for turn in range(1 + REPEATS):
            await asyncio.sleep(max(0.0, began + turn * REPEAT_SECONDS - time.monotonic()))
            # Of those that have ended the numbers are unknown, but the kernel would answer for them.
            ended = {it.client: None for it in some_connections(self._vip, self._ports, ENDED)}
            own = {**ended, **self._own()}
            # From the same port, which is a connection of its own: by its handshake, because `own` may not have it.
            reconnected = {it for it in clients if self._handshakes.seen_since(it, self._since - AT_ONCE_SECONDS)}
            await self._resets.send(
                {it: known for it, known in clients.items() if it not in reconnected},
                remembered={it: own[it] for it in clients.keys() & own.keys() - reconnected},
            )
            if not turn:
                took = time.monotonic() - began
                log(
                    f"{reason}: {len(clients)} clients of the peer reset in {took:.2f} s, "
                    f"{unknown} of them without numbers"
                )
        # A peer that is alive reports them again. Otherwise, if the VIP left and returned days later, later connections
        # from these ports would be reset.
        self._peer.forget(stamp)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Resets the clients of a load balancer that died.")
    parser.add_argument("--vip", required=True)
    parser.add_argument(
        "--port",
        type=int,
        action="append",
        required=True,
        help="which clients connect to; may be repeated, first the API's",
    )
    parser.add_argument("--interface", required=True, help="the one with the VIP")
    parser.add_argument("--address", required=True, help="this load balancer's own address")
    parser.add_argument("--peer", required=True, help="address of the other load balancer")
    parser.add_argument("--exchange-port", type=int, required=True, help="UDP port of both")
    parser.add_argument(
        "--tunnel-port", type=int, required=True, help="UDP port of both, while connections are passed on"
    )
    parser.add_argument("--key", type=Path, required=True, help="file with the secret that both have")
    parser.add_argument("--saved", type=Path, required=True, help="file that outlives a restart of this program")
    asyncio.run(start(parser.parse_args()))


async def start(arguments: argparse.Namespace) -> None:
    """Run until SIGTERM."""
    await HeldConnections(arguments).run()


if __name__ == "__main__":
    main()
