"""The messages between two hosts of which one gives the VIP up; tests/dataplane has the kernel's part."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.hosts.programs import load
from tests.unit.waiting import wait_until

handover = load("handover")
KEY = b"the pair's"


class FakeTunnel:
    """A kernel that does what it is asked for, or refuses; records what is set up."""

    def __init__(self, *, holds_vip: bool, works: bool = True) -> None:
        self.vip, self.works = holds_vip, works
        self.opened = self.serves = False

    def holds_vip(self) -> bool:
        return self.vip

    def open(self) -> None:
        if not self.works:
            raise handover.HandoverError("nft: not permitted")
        self.opened = True

    def close(self) -> None:
        self.opened = self.serves = False

    def serve_vip(self, *, here: bool) -> None:
        self.serves = here


class Side:
    """One host; what it sends is delivered to `peer`, if there is one."""

    def __init__(self, *, holds_vip: bool, works: bool = True, key: bytes = KEY) -> None:
        self.tunnel = FakeTunnel(holds_vip=holds_vip, works=works)
        self.peer: Side | None = None
        self.sent: list[bytes] = []
        self.connections = ["client"]
        self.counting_seconds, self.counted = 0.0, 0
        self.closes = True
        self.closed = self.reset = self.lost = self.forgot = self.newest = 0
        self.it: Any = handover.Handover(
            self.tunnel,
            key,
            send=self._send,
            connections=self._count,
            close=self._close,
            reset=self._reset,
            forget=self._forget,
            lost=self._lose,
            newest=lambda: self.newest,
        )

    def _send(self, datagram: bytes) -> None:
        self.sent.append(datagram)
        if self.peer:
            self.peer.it.heard(datagram)

    def _count(self) -> list[str]:
        self.counted += 1
        time.sleep(self.counting_seconds)
        return self.connections

    def _forget(self) -> None:
        self.forgot += 1

    async def _close(self) -> None:
        self.closed += 1
        if self.closes:
            self.connections = []

    async def _reset(self) -> None:
        self.reset += 1
        self.connections = []

    async def _lose(self) -> None:
        self.lost += 1

    def vip_moves_to(self, other: "Side") -> None:
        self.tunnel.vip, other.tunnel.vip = False, True
        self.it.vip_changed(here=False)
        other.it.vip_changed(here=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(handover, "STATUS", tmp_path / "handover.json")
    for name, seconds in {
        "ASK_EVERY_SECONDS": 0.01,
        "READY_SECONDS": 0.5,
        "EVERY_SECONDS": 0.01,
        "SILENT_SECONDS": 0.5,
        "COUNT_SECONDS": 0.01,
        "LEAVE_SECONDS": 0.3,
        "LEAST_SECONDS": 0.05,
        "DEAF_SECONDS": 0.8,
    }.items():
        monkeypatch.setattr(handover, name, seconds)


def run(story: Callable[[Side, Side], Awaitable[None]], *, works: bool = True, key: bytes = KEY) -> tuple[Side, Side]:
    old, new = Side(holds_vip=True), Side(holds_vip=False, works=works, key=key)
    old.peer, new.peer = new, old
    asyncio.run(asyncio.wait_for(story(old, new), 60))  # type: ignore[arg-type]
    return old, new


async def until(what: str, condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, what, condition)


def test_connections_go_on_until_none_is_left_and_then_nothing_is():
    async def story(old: Side, new: Side) -> None:
        assert await old.it.give(60)
        assert (old.tunnel.opened, old.tunnel.serves, new.tunnel.opened) == (True, True, True)
        assert new.forgot == 1
        old.vip_moves_to(new)
        await asyncio.sleep(0.2)
        assert (old.it.giving, new.it.receiving) == (True, True)
        assert '"connections": 1' in handover.STATUS.read_text()
        old.connections = []
        await until("the grace ends", lambda: not old.it.giving)

    old, new = run(story)
    assert not (old.tunnel.opened or new.tunnel.opened or new.it.receiving or handover.STATUS.exists())
    assert old.closed == 0


def test_what_is_left_after_the_grace_is_closed():
    async def story(old: Side, new: Side) -> None:
        await old.it.give(0.1)
        old.vip_moves_to(new)
        await until("the grace ends", lambda: not old.it.giving)

    old, new = run(story)
    assert old.closed == 1
    assert not (old.tunnel.opened or new.tunnel.opened)


def test_those_that_do_not_close_are_reset_in_time_however_long_it_takes_to_count_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(handover, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(handover, "SHUTDOWN_SECONDS", 0.0)

    async def story(old: Side, new: Side) -> None:
        await old.it.give(60)
        old.vip_moves_to(new)
        old.closes, old.counting_seconds, old.counted = False, 0.05, 0
        await old.it.finish()

    old, _ = run(story)
    assert (old.closed, old.reset) == (1, 1)
    # At the end of the grace, perhaps just before it, before closing, and while they have 0.2 s.
    assert old.counted <= 3 + 4


def test_a_vip_that_comes_back_or_does_not_leave_closes_nothing():
    async def story(old: Side, new: Side) -> None:
        await old.it.give(60)
        await until("the grace ends", lambda: not old.it.giving)
        await old.it.give(60)
        old.vip_moves_to(new)
        new.vip_moves_to(old)
        await until("the grace ends", lambda: not old.it.giving)

    old, new = run(story)
    assert (old.closed, old.connections) == (0, ["client"])
    assert not (old.tunnel.opened or new.tunnel.opened)


def test_a_status_that_cannot_be_written_ends_no_grace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(handover, "STATUS", tmp_path / "missing/handover.json")

    async def story(old: Side, new: Side) -> None:
        await old.it.give(60)
        old.vip_moves_to(new)
        await asyncio.sleep(0.2)
        assert (old.it.giving, new.it.receiving) == (True, True)

    old, _ = run(story)
    assert (old.closed, old.reset) == (0, 0)


@pytest.mark.parametrize(("left", "reset"), [(True, 1), (False, 0)])
def test_clients_are_reset_if_a_handover_fails_after_the_vip_has_left(left: bool, reset: int):
    async def story(old: Side, new: Side) -> None:
        await old.it.give(60)
        if left:
            old.vip_moves_to(new)
        # Something that nobody has thought of.
        old.connections = None  # type: ignore[assignment]
        await until("the handover ends", lambda: not old.it.giving)

    old, new = run(story)
    assert old.reset == reset
    assert not (old.tunnel.opened or new.tunnel.opened)


def test_a_second_move_keeps_the_tunnel_for_the_other_direction():
    async def story(old: Side, new: Side) -> None:
        await old.it.give(60)
        old.vip_moves_to(new)
        await new.it.give(60)
        new.vip_moves_to(old)
        await until("the grace ends", lambda: not old.it.giving)
        assert (old.it.receiving, old.tunnel.opened, old.tunnel.serves) == (True, True, False)
        assert (new.it.giving, new.it.receiving, new.tunnel.serves) == (True, False, True)
        new.connections = []
        await until("the grace ends", lambda: not new.it.giving)

    old, new = run(story)
    assert not (old.tunnel.opened or new.tunnel.opened)


@pytest.mark.parametrize(("works", "key"), [(False, KEY), (True, b"another")], ids=["refuses", "does not understand"])
def test_a_peer_that_cannot_help_is_reported_once_and_nothing_stays(works: bool, key: bytes):
    async def story(old: Side, _: Side) -> None:
        with pytest.raises(handover.HandoverError, match="the peer does not answer"):
            await old.it.give(60)
        # keepalived's unit asks again while it stops: the VIP must not wait for that.
        sent = len(old.sent)
        with pytest.raises(handover.HandoverError, match="the peer does not answer"):
            await old.it.give(60)
        assert len(old.sent) == sent

    old, new = run(story, works=works, key=key)
    assert not (old.tunnel.opened or old.tunnel.serves or old.it.giving or new.it.receiving or new.tunnel.opened)


def test_without_the_vip_or_a_grace_there_is_nothing_to_do():
    async def story(old: Side, new: Side) -> None:
        assert await new.it.give(60) is False
        assert await old.it.give(0) is False
        assert await old.it.give(60) is False

    old, new = run(story)
    assert old.sent == new.sent == []


def test_a_peer_that_falls_silent_is_lost():
    async def story(old: Side, new: Side) -> None:
        await old.it.give(60)
        old.vip_moves_to(new)
        old.peer = None
        watching = asyncio.create_task(new.it.run())
        await until("the peer is lost", lambda: new.lost == 1)
        watching.cancel()

    _, new = run(story)
    assert not (new.tunnel.opened or new.it.receiving)


def test_a_grace_ends_when_the_peer_passes_nothing_on_any_more():
    async def story(old: Side, new: Side) -> None:
        await old.it.give(60)
        old.vip_moves_to(new)
        new.peer = None
        await until("the grace ends", lambda: not old.it.giving)

    old, _ = run(story)
    assert old.closed == 1


def test_a_repeated_or_forged_message_has_no_effect(monkeypatch: pytest.MonkeyPatch):
    async def story(old: Side, new: Side) -> None:
        await old.it.give(60)
        asked = old.sent[0]
        old.connections = []
        old.vip_moves_to(new)
        await until("the grace ends", lambda: not old.it.giving)
        text = handover.MESSAGE.pack(2**63, handover.GIVE)
        for datagram in (asked, hmac.digest(KEY, text, "sha256") + text, bytes(len(asked))):
            new.it.heard(datagram)

        # Long afterwards, when this host has heard of the peer's connections.
        monkeypatch.setattr(handover, "STAMP_SECONDS", 0.0)
        new.newest = handover.next_stamp()
        new.it.heard(asked)

    _, new = run(story)
    assert not new.it.receiving


def test_a_clock_that_is_set_back_makes_nobody_deaf(monkeypatch: pytest.MonkeyPatch):
    async def story(old: Side, new: Side) -> None:
        await old.it.give(60)
        old.vip_moves_to(new)
        now = time.time_ns()
        monkeypatch.setattr(handover.time, "time_ns", lambda: now - 5 * 10**9)
        watching = asyncio.create_task(new.it.run())
        await asyncio.sleep(1.2 * handover.DEAF_SECONDS)
        assert (old.it.giving, new.it.receiving) == (True, True)
        watching.cancel()

    old, new = run(story)
    assert (old.closed, new.lost) == (0, 0)


def test_a_shutdown_shortens_the_grace(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(handover, "SHUTDOWN_SECONDS", 0.1)

    async def story(old: Side, new: Side) -> None:
        await old.it.give(60)
        old.vip_moves_to(new)
        await old.it.finish()

    old, _ = run(story)
    assert (old.closed, old.it.giving) == (1, False)
