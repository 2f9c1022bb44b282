"""Which load balancer has the VIP, from kernel messages (rtnetlink(7)): without polling, nothing short is missed."""

import selectors
import socket
import threading
import time
from dataclasses import dataclass
from typing import cast

from pyroute2 import netns
from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from dev.bench.results import Span


@dataclass
class _Holding:
    machine: str
    since: float
    until: float | None = None


class Holders:
    """Follows the VIP in the network namespaces of machines, in its own thread.

    Times are time.monotonic() when a message arrives.
    """

    def __init__(self, vip: str) -> None:
        self._vip = vip
        self._holdings: list[_Holding] = []
        self._sockets: dict[str, socket.socket] = {}
        self._marshal = MarshalRtnl()
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._closing = threading.Event()
        self._lost: OSError | None = None
        self._thread = threading.Thread(target=self._follow, name="holders", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and leave all namespaces."""
        self._closing.set()
        self._thread.join()
        for machine in list(self._sockets):
            self.lost(machine)
        self._selector.close()

    def follow(self, machine: str, pid: int) -> None:
        """Follow a machine that has just booted and cannot have the VIP yet; `pid` is a process in its namespace."""
        opened: list[socket.socket] = []

        def enter() -> None:
            # setns() changes only this thread; the socket stays in the namespace when the thread ends.
            netns.setns(f"/proc/{pid}/ns/net")  # pyright: ignore[reportUnknownMemberType] partly typed
            opened.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE))

        thread = threading.Thread(target=enter, name="enter-namespace")
        thread.start()
        thread.join()
        if not opened:
            raise OSError(f"cannot enter the network namespace of {machine} (process {pid})")
        opened[0].bind((0, RTMGRP_IPV4_IFADDR))
        opened[0].setblocking(False)
        with self._lock:
            self._sockets[machine] = opened[0]
            self._selector.register(opened[0], selectors.EVENT_READ, machine)

    def lost(self, machine: str) -> None:
        """Forget a machine that is gone. Closes the socket, which would keep its namespace alive."""
        with self._lock:
            opened = self._sockets.pop(machine, None)
            if opened is not None:
                self._selector.unregister(opened)
                opened.close()
                self._released(machine)

    def current(self) -> list[str]:
        """The machines that have the VIP now."""
        with self._lock:
            return [holding.machine for holding in self._holdings if holding.until is None]

    @property
    def last_change(self) -> float:
        """When a machine last took or lost the VIP; 0 if none ever did."""
        with self._lock:
            return max((holding.until or holding.since for holding in self._holdings), default=0.0)

    def spans(self, machines: list[str], begin: float, end: float) -> dict[str, tuple[Span, ...]]:
        """By machine: when it had the VIP between `begin` and `end`, in seconds since `begin`.

        Raises OSError if a message was lost.
        """
        if self._lost:
            raise self._lost
        spans: dict[str, tuple[Span, ...]] = {}
        with self._lock:
            for machine in machines:
                own = [holding for holding in self._holdings if holding.machine == machine]
                clipped = ((max(h.since, begin) - begin, min(h.until or end, end) - begin) for h in own)
                spans[machine] = tuple((a, b) for a, b in clipped if b > a)
        return spans

    def _released(self, machine: str) -> None:
        for holding in self._holdings:
            if holding.machine == machine and holding.until is None:
                holding.until = time.monotonic()

    def _follow(self) -> None:
        while not self._closing.is_set():
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.data in self._sockets and key.fileobj is self._sockets[key.data]:
                        self._read(key.data, self._sockets[key.data])

    def _read(self, machine: str, opened: socket.socket) -> None:
        now = time.monotonic()
        try:
            data = opened.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost = error
            return
        messages = self._marshal.parse(data)  # pyright: ignore[reportUnknownMemberType] partly typed
        for message in messages:
            address = cast("str | None", message.get_attr("IFA_LOCAL"))  # pyright: ignore[reportUnknownMemberType]
            if address != self._vip:
                continue
            if message["event"] == "RTM_NEWADDR":
                if not any(h.machine == machine and h.until is None for h in self._holdings):
                    self._holdings.append(_Holding(machine, now))
            elif message["event"] == "RTM_DELADDR":
                self._released(machine)
