"""What one load balancer tells the other of its clients, and the segments that reset them."""

import argparse
import asyncio
import hmac
import json
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from tests.unit.hosts.programs import load
from tests.unit.waiting import wait_until

held = load("held_connections")
KEY = b"be" * 32
VIP = socket.inet_aton("198.51.100.100")
PORTS = API, INGRESS = 6443, 443


def client(number: int = 0, vip_port: int = API) -> Any:
    return held.Client(IPv4Address(0xC6336400 + number // 50_000).packed, 10_000 + number % 50_000, vip_port)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [100.0]
    monkeypatch.setattr(held.time, "monotonic", lambda: now[0])
    yield now


def syn_ack(to: Any, *, number: int, acknowledged: int, options: int = 0) -> bytes:
    """The headers of a SYN/ACK of the VIP's."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45 + options, 0, 40, 0, 0, 64, 6, 0, VIP, to.address) + bytes(4 * options)
    return ip + struct.pack("!HHIIBBHHH", to.vip_port, to.port, number, acknowledged, 5 << 4, 0x12, 64_240, 0, 0)


# ---- snapshots -------------------------------------------------------------------------------------------------------


def test_the_peer_has_what_was_packed():
    clients = {client(0): held.Numbers(1, 0xFFFFFFFF), client(1): None}
    peer = held.Peer(KEY)
    assert all(peer.heard(datagram) for datagram in held.pack(KEY, clients, 1))
    assert peer.clients() == clients


def test_twenty_thousand_clients_of_each_port_are_datagrams_that_no_network_fragments():
    clients = {client(number, port): held.Numbers(number, number) for port in PORTS for number in range(20_000)}
    datagrams = [*held.pack(KEY, clients, 1)]
    # Geneve's MTU on an underlay of 1,500 bytes, less the headers of IP and UDP.
    assert max(map(len, datagrams)) <= 1442 - 28
    peer = held.Peer(KEY)
    assert all(map(peer.heard, datagrams))
    assert peer.clients() == clients


def test_of_the_frontends_connections_only_so_many_are_handled(monkeypatch: pytest.MonkeyPatch):
    of = {API: range(5), INGRESS: range(10, 12), 80: range(20, 23)}

    def connections(_vip: bytes, port: int, _states: int) -> Iterator[int]:
        yield from of[port]

    monkeypatch.setattr(held, "connections", connections)
    monkeypatch.setattr(held, "FRONTENDS_AT_MOST", 4)
    assert [*held.some_connections(VIP, (API, INGRESS, 80))] == [0, 1, 2, 3, 4, 10, 11, 20, 21]
    assert [*held.some_connections(VIP, (API,))] == [0, 1, 2, 3, 4]


def test_no_clients_are_news():
    peer = held.Peer(KEY)
    for stamp, clients in ((1, {client(): None}), (10**10, {})):
        for datagram in held.pack(KEY, clients, stamp):
            assert peer.heard(datagram)
    assert peer.clients() == {}


def test_a_lost_datagram_forgets_nobody_at_once():
    peer = held.Peer(KEY)
    both = [*held.pack(KEY, {client(number): None for number in range(100)}, 1)]
    assert len(both) == 2
    assert [peer.heard(it) for it in both] == [True, True]
    (first, _) = held.pack(KEY, {client(number): None for number in range(100)}, 1 + 10**9)
    assert peer.heard(first)
    assert len(peer.clients()) == 100


@pytest.mark.parametrize("at", [0, held.DIGEST_BYTES, held.DIGEST_BYTES + held.HEADER.size, -1])
def test_a_changed_datagram_is_ignored(at: int):
    peer = held.Peer(KEY)
    changed = bytearray(next(held.pack(KEY, {client(): None}, 1)))
    changed[at] ^= 1
    assert not peer.heard(bytes(changed))
    assert peer.clients() == {}


def test_nobody_else_s_datagram_is_heard():
    peer = held.Peer(KEY)
    assert not peer.heard(next(held.pack(b"another", {client(): None}, 1)))
    assert not any(peer.heard(bytes(length)) for length in range(held.DIGEST_BYTES + held.HEADER.size))
    # A version that knows one port says nothing of it.
    for text in (bytes(8), bytes(8 + held.ENTRY.size)):
        assert not peer.heard(hmac.digest(KEY, text, "sha256") + text)
    assert peer.clients() == {}


def test_an_old_datagram_is_ignored_unless_the_peer_s_clock_was_set_back(clock: list[float]):
    peer = held.Peer(KEY)
    (old,), (new,) = (held.pack(KEY, {client(number): None}, stamp) for number, stamp in ((0, 1), (1, 10**12)))
    assert peer.heard(new)
    clock[0] += held.SILENT_SECONDS - 1
    assert not peer.heard(old)
    clock[0] += 2
    assert peer.heard(old)
    assert peer.clients() == {client(0): None}


# ---- handshakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [0, 3])
def test_the_numbers_follow_from_the_handshake_and_the_bytes_of_each_side(tmp_path: Path, options: int):
    handshakes = held.Handshakes(VIP, PORTS, tmp_path / "saved")
    handshakes.saw(syn_ack(client(), number=0xFFFFFFFE, acknowledged=1000, options=options))
    assert handshakes.numbers(client(), 3, 5) == held.Numbers(2, 1005)
    assert handshakes.numbers(client(1), 3, 5) is None


def test_a_new_connection_is_reported_once_by_the_numbers_of_its_handshake(tmp_path: Path):
    handshakes = held.Handshakes(VIP, PORTS, tmp_path / "saved")
    handshakes.saw(syn_ack(client(), number=0xFFFFFFFF, acknowledged=1000))
    assert handshakes.new() == {client(): held.Numbers(0, 1000)}
    assert handshakes.new() == {}


def test_a_flood_of_handshakes_is_reported_in_part_and_takes_nothing_from_another_port(tmp_path: Path):
    handshakes = held.Handshakes(VIP, PORTS, tmp_path / "saved")
    for number in range(held.NEW_AT_MOST + 1):
        handshakes.saw(syn_ack(client(number, INGRESS), number=number, acknowledged=number))
    handshakes.saw(syn_ack(client(), number=1, acknowledged=1))
    first, *others = handshakes.new()
    assert (first, len(others)) == (client(), held.NEW_AT_MOST)


def test_a_flood_that_never_ends_is_read_in_turns(tmp_path: Path):
    class Flood:
        """A socket that always has another packet."""

        left = 3 * held.READ_AT_MOST

        def recv(self, _: int) -> bytes:
            assert self.left
            self.left -= 1
            return syn_ack(client(self.left), number=1, acknowledged=1)

    flood = Flood()
    held.Handshakes(VIP, PORTS, tmp_path / "saved").read(flood)
    assert flood.left == 2 * held.READ_AT_MOST


def test_of_a_flood_only_so_many_handshakes_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(held, "KNOWN_AT_MOST", 2)
    handshakes = held.Handshakes(VIP, PORTS, tmp_path / "saved")
    for number in range(3):
        handshakes.saw(syn_ack(client(number), number=1, acknowledged=1))
    assert handshakes.numbers(client(2), 0, 0) is None
    # A new connection from the same port.
    handshakes.saw(syn_ack(client(0), number=5, acknowledged=5))
    assert [handshakes.numbers(client(number), 0, 0) for number in range(2)] == [held.Numbers(6, 5), held.Numbers(2, 1)]


def test_handshakes_of_other_ports_are_ignored(tmp_path: Path):
    handshakes = held.Handshakes(VIP, PORTS, tmp_path / "saved")
    handshakes.saw(syn_ack(client(vip_port=22), number=1, acknowledged=1))
    assert handshakes.new() == {}


def test_a_restart_forgets_no_connection(tmp_path: Path):
    saved = tmp_path / "saved"
    handshakes = held.Handshakes(VIP, PORTS, saved)
    handshakes.saw(syn_ack(client(), number=1, acknowledged=2))
    handshakes.save()
    assert held.Handshakes(VIP, PORTS, saved).numbers(client(), 0, 0) == held.Numbers(2, 2)
    saved.write_text(json.dumps([[client().address.hex(), client().port, 1, 2]]))  # of a version without the VIP's port
    assert held.Handshakes(VIP, PORTS, saved).numbers(client(), 0, 0) == held.Numbers(2, 2)
    saved.write_text("[[")
    assert held.Handshakes(VIP, PORTS, saved).numbers(client(), 0, 0) is None


def test_a_handshake_without_a_connection_is_forgotten_after_a_while(tmp_path: Path, clock: list[float]):
    handshakes = held.Handshakes(VIP, PORTS, tmp_path / "saved")
    for number in range(2):
        handshakes.saw(syn_ack(client(number), number=1, acknowledged=2))
    handshakes.forget_all_but({client(0): None})
    assert handshakes.numbers(client(1), 0, 0)
    clock[0] += held.FORGET_SECONDS + 1
    handshakes.forget_all_but({client(0): None})
    assert handshakes.numbers(client(0), 0, 0)
    assert handshakes.numbers(client(1), 0, 0) is None


def test_connections_that_have_ended_meanwhile_are_known_by_their_handshakes(tmp_path: Path, clock: list[float]):
    handshakes = held.Handshakes(VIP, PORTS, tmp_path / "saved")
    for number in range(3):
        handshakes.saw(syn_ack(client(number), number=0xFFFFFFFF, acknowledged=7))
        clock[0] += 1
    assert handshakes.begun_since(101) == dict.fromkeys([client(1), client(2)], held.Numbers(0, 7))


# ---- the key ---------------------------------------------------------------------------------------------------------


def test_only_a_whole_key_is_accepted(tmp_path: Path):
    key = tmp_path / "pair.key"
    with pytest.raises(SystemExit, match="No such file"):
        held.read_key(key)
    for text in ("", "ab" * 31, "ab" * 33, "xy" * 32, "ab" * 32 + "\n"):
        key.write_text(text)
        with pytest.raises(SystemExit, match="64 hexadecimal digits; write it again"):
            held.read_key(key)
    key.write_text("ab" * 32)
    assert held.read_key(key) == b"ab" * 32


# ---- segments --------------------------------------------------------------------------------------------------------


def no_socket(*_: object) -> None:
    """Only root may have one that sends such packets."""


def checksum_of(data: bytes) -> int:
    """RFC 1071; 0 if the data contain their own."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@pytest.mark.parametrize("number", [0, -1, 1, 0x7FFFFFFF, 0xFFFFFFFF, *range(0x10000, 0x10000 * 50, 0x2_4321)])
def test_a_segment_is_one_of_the_dead_host_s(monkeypatch: pytest.MonkeyPatch, number: int):
    monkeypatch.setattr(held.socket, "socket", no_socket)
    packet = held.Resets(VIP, PORTS, "eth0").packet(client(), number, held.ACK, 77)
    ip, tcp = packet[:20], packet[20:]
    assert (ip[2:4], ip[9], ip[12:16], ip[16:20]) == (b"\0\x28", 6, VIP, client().address)
    assert checksum_of(ip) == 0
    found = struct.unpack("!HHIIBBHHH", tcp)
    assert found[:6] == (API, client().port, number % 2**32, 77, 0x50, held.ACK)
    assert checksum_of(VIP + client().address + struct.pack("!BBH", 0, 6, 20) + tcp) == 0


def test_a_tracker_that_has_seen_more_expects_the_number_of_the_reset(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(held.socket, "socket", no_socket)
    packets = held.Resets(VIP, PORTS, "eth0").ends(client(), held.Numbers(0xFFFFFFF0, 5))
    sent = [struct.unpack("!IIxB", it[24:34]) for it in packets]
    fin, reset = held.FIN | held.ACK, held.RST | held.ACK
    expected = [
        ((0xFFFFFFF0 + ahead + it[0]) % 2**32, 5, it[1]) for ahead in held.AHEAD for it in ((-1, fin), (0, reset))
    ]
    assert sent == expected


def test_the_api_s_clients_do_not_wait_for_those_of_frontends(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr(held.socket, "socket", no_socket)
        resets, sent = held.Resets(VIP, PORTS, "eth0"), list[Any]()

    def send(to: Any, _packet: bytes) -> None:
        sent.append(to)

    monkeypatch.setattr(resets, "_send", send)
    clients = [client(0, INGRESS), client(1), client(2, INGRESS), client(3)]
    asyncio.run(resets.end(dict.fromkeys(clients, held.Numbers(1, 1))))
    assert list(dict.fromkeys(sent)) == [client(1), client(3), client(0, INGRESS), client(2, INGRESS)]


# ---- the program -----------------------------------------------------------------------------------------------------


def no_connections(*_: object) -> list[Any]:
    return []


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The program on a host without connections, and without sockets of its own."""
    (tmp_path / "key").write_bytes(KEY)
    options = {
        "vip": "198.51.100.100",
        "port": [API],
        "interface": "eth0",
        "address": "198.51.100.11",
        "tunnel_port": 2,
    }
    files = {"key": tmp_path / "key", "saved": tmp_path / "saved"}
    monkeypatch.setattr(held, "some_connections", no_connections)
    with monkeypatch.context() as patched:
        patched.setattr(held.socket, "socket", MagicMock())
        return held.HeldConnections(argparse.Namespace(**options, **files, peer="198.51.100.12", exchange_port=1))


def test_a_dead_peer_s_clients_are_reset_at_one_arrival_of_the_vip(program: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(held, "REPEAT_SECONDS", 0.0)
    reset = list[list[Any]]()

    async def send(clients: Any, **_: Any) -> None:
        reset.append([*clients])
        if later:
            report(later.pop())

    def report(stamp: int) -> None:
        for datagram in held.pack(KEY, {client(stamp): None}, stamp * 10**10):
            assert program._peer.heard(datagram)

    def arrive() -> list[list[Any]]:
        reset.clear()
        asyncio.run(program._reset_peers_clients("the VIP came here"))
        return [*reset]

    monkeypatch.setattr(program._resets, "send", send)
    later = list[int]()
    report(1)
    assert arrive() == [[client(1)]] * (1 + held.REPEATS)
    assert arrive() == []
    # It came back, and lives on for a moment after it has lost the VIP.
    report(2)
    later = [3]
    assert arrive() == [[client(2)]] * (1 + held.REPEATS)
    assert arrive() == [[client(3)]] * (1 + held.REPEATS)


def test_of_those_that_send_the_numbers_come_after_what_is_on_its_way(program: Any, monkeypatch: pytest.MonkeyPatch):
    def connections(*_: object) -> list[Any]:
        return [
            held.Connection(client(number), acknowledged=10, sent=sent, received=5, stuck=False, socket=b"")
            for number, sent in enumerate((10, 500_010))
        ]

    monkeypatch.setattr(held, "some_connections", connections)
    for number in range(2):
        program._handshakes.saw(syn_ack(client(number), number=99, acknowledged=7))
    assert program._sending() == {client(1): held.Numbers(500_110, 12)}
    assert program._own()[client(1)] == held.Numbers(110, 12)


def test_the_kernel_tells_how_many_bytes_went_each_way():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address, 5) as theirs, server.accept()[0] as ours:
            ours.sendall(bytes(1000))
            theirs.sendall(bytes(7))
            assert len(theirs.recv(1000, socket.MSG_WAITALL)) == 1000

            def counted() -> list[tuple[int, int, int]]:
                found = held.connections(socket.inet_aton(address[0]), address[1])
                return [(it.acknowledged, it.sent, it.received) for it in found]

            wait_until("all is acknowledged", lambda: counted() == [(1000, 1000, 7)])


def test_a_connection_is_stuck_when_its_client_acknowledges_nothing_and_the_kernel_has_not_sent_again(
    monkeypatch: pytest.MonkeyPatch,
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()

        def stuck() -> bool:
            (found,) = held.connections(socket.inet_aton(address[0]), address[1])
            return found.stuck

        with socket.create_connection(address, 5) as theirs, server.accept()[0] as ours:
            monkeypatch.setattr(held, "STUCK_MS", -1)
            assert not stuck()
            held.attach(theirs, (0x06, 0, 0, 0))  # a client that gets nothing any more
            ours.sendall(b"an event")
            assert stuck()
            # The kernel sends again after 0.2 s, and then after twice as long each time.
            monkeypatch.setattr(held, "STUCK_MS", 500)
            wait_until("the kernel has sent again", lambda: not stuck())
            wait_until("the kernel waits for longer", stuck)
