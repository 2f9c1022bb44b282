"""Connections that are held during a fault, and when their clients hear of it.

The kinds differ in how a client could notice that its connection leads nowhere any more. One that only listens cannot,
unless somebody closes its connection; one that expects something regularly misses it; client-go pings.
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event, PingAckReceived, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from dev.standin.apiserver import BACKEND_HEADER, EVENT_SECONDS
from model.topology import API_PORT
from operate.probe import NO_ANSWER

T = TypeVar("T")
C = TypeVar("C", bound="HeldConnection")

AUTHORIZATION = "Bearer a-client-that-the-server-knows"
WRITE_SECONDS, UPLOAD_SECONDS = 0.2, 0.1
WRITE_TIMEOUT = 10.0
"""After this long a kubelet gives up a heartbeat and its connection."""
READ_IDLE_SECONDS, PING_SECONDS = 30.0, 15.0
"""client-go's defaults: after this long without a frame it sends a ping, and waits this long for the answer."""
PROOF_SECONDS = 2.0
"""Within this time a connection must show that it works."""
OPEN_SECONDS = 5.0
API_SERVERS, MOST_TRIES = 3, 60


def tls_context(*protocols: str) -> ssl.SSLContext:
    """A client's context that verifies nothing, and offers these protocols (ALPN)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def request(verb: str, path: str, more: str = "") -> bytes:
    """A request of HTTP/1.1 without a body."""
    return f"{verb} {path} HTTP/1.1\r\nHost: api\r\nAuthorization: {AUTHORIZATION}\r\n{more}\r\n".encode()


@dataclass(frozen=True)
class HeldResult:
    """What the client of one held connection noticed. Times are time.monotonic()."""

    kind: str
    backend: str
    """The API server that it led to; empty if that is unknown."""
    heard: Sequence[float]
    """When something arrived."""
    lost_at: float | None
    """When the client noticed that the connection was gone; None if it works."""
    deaf: bool
    """Whether it did not answer when it had to show that it works."""
    why: str = ""


class HeldConnection:
    """One connection on which the client only listens; `kind` is its name in the results."""

    kind = "watch"
    path = "/watch"
    protocols: tuple[str, ...] = ()

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.backend = ""
        self.heard: list[float] = []
        self._news = asyncio.Event()

    async def begin(self) -> None:
        """Send the request, and read the beginning of the answer."""
        self._writer.write(request("GET", self.path))
        self.backend = (await self._head()).get(BACKEND_HEADER.lower(), "")

    async def hold(self) -> None:
        """Use it as this kind of client does, until an error shows that it is gone."""
        while await self._reader.read(1 << 16):
            self.hear()
        raise EOFError("closed")

    async def provoke(self) -> None:
        """Cause something to arrive, if nothing arrives by itself."""
        self._writer.write(b".")

    async def works(self) -> bool:
        """Whether something arrives within PROOF_SECONDS."""
        self._news.clear()
        with suppress(*NO_ANSWER):
            async with asyncio.timeout(PROOF_SECONDS):
                await self.provoke()
                await self._news.wait()
                return True
        return False

    def hear(self) -> None:
        """Something has arrived."""
        self.heard.append(time.monotonic())
        self._news.set()

    def abort(self) -> None:
        """Drop it, without a word to the server."""
        self._writer.transport.abort()

    async def _head(self) -> dict[str, str]:
        """The fields of an answer, by name in lower case."""
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


class Events(HeldConnection):
    """A watch with two events a second."""

    kind = "events"
    path = "/events"

    async def provoke(self) -> None:
        """Events arrive by themselves."""


class Writes(HeldConnection):
    """Writes, one after the other, each of which waits for its answer."""

    kind = "writes"

    async def begin(self) -> None:
        """The first write."""
        await self._write()

    async def hold(self) -> None:
        """Write again a moment after each answer; TimeoutError after WRITE_TIMEOUT."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self._write()

    async def provoke(self) -> None:
        """Answers arrive by themselves."""

    async def _write(self) -> None:
        self._writer.write(request("POST", "/readyz"))
        head = await self._head()
        await self._reader.readexactly(int(head["content-length"]))
        self.backend = head.get(BACKEND_HEADER.lower(), "")
        self.hear()


class Http2Watch(HeldConnection):
    """A watch over HTTP/2 with client-go's pings (golang.org/x/net/http2, ReadIdleTimeout and PingTimeout)."""

    kind = "http2"
    protocols = ("h2",)

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._protocol = H2Connection()
        self._stream = 0

    async def begin(self) -> None:
        """Send the request, and read the head of the answer."""
        self._protocol.initiate_connection()
        self._stream = self._protocol.get_next_available_stream_id()
        fields = {
            ":method": "GET", ":scheme": "https", ":authority": "api", ":path": "/watch",
            "authorization": AUTHORIZATION,
        }  # fmt: skip
        self._protocol.send_headers(self._stream, list(fields.items()))
        self._send()
        while not self.backend:
            for event in await self._read():
                if isinstance(event, ResponseReceived):
                    self.backend = dict(event.headers)[BACKEND_HEADER.lower().encode()].decode()

    async def hold(self) -> None:
        """Read; after READ_IDLE_SECONDS without a frame, ping. TimeoutError PING_SECONDS later."""
        while True:
            try:
                async with asyncio.timeout(READ_IDLE_SECONDS):
                    await self._read()
            except TimeoutError:
                await self._ping()

    async def provoke(self) -> None:
        """The server answers each byte, unless it has ended the stream."""
        with suppress(ProtocolError):
            self._protocol.send_data(self._stream, b".")
        self._send()

    async def _ping(self) -> None:
        self._protocol.ping(b"are you?")
        self._send()
        async with asyncio.timeout(PING_SECONDS):
            while not any(isinstance(event, PingAckReceived) for event in await self._read()):
                pass

    async def _read(self) -> list[Event]:
        data = await self._reader.read(1 << 16)
        if not data:
            raise EOFError("closed")
        self.hear()
        try:
            events = self._protocol.receive_data(data)
        except ProtocolError as error:
            raise EOFError(f"not HTTP/2: {error}") from None
        if any(isinstance(event, (ConnectionTerminated, StreamEnded, StreamReset)) for event in events):
            raise EOFError("the server ended the watch")
        self._send()
        return events

    def _send(self) -> None:
        self._writer.write(self._protocol.data_to_send())


class Upload(HeldConnection):
    """A request whose body does not end before the run does."""

    kind = "upload"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._complete = False

    async def begin(self) -> None:
        """Send the head of the request. The answer comes after the body."""
        self._writer.write(request("POST", "/upload", "Transfer-Encoding: chunked\r\n"))

    async def hold(self) -> None:
        """Send more of the body all the time."""
        await asyncio.gather(super().hold(), self._send())

    async def _send(self) -> None:
        while not self._complete:
            self._writer.write(b"10\r\n0123456789abcdef\r\n")
            await self._writer.drain()
            await asyncio.sleep(UPLOAD_SECONDS)

    async def provoke(self) -> None:
        """End the body."""
        self._complete = True
        self._writer.write(b"0\r\n\r\n")


KINDS: Sequence[type[HeldConnection]] = (HeldConnection, Events, Http2Watch, Writes)
UPLOADS = 2
PAUSES = {Events.kind: EVENT_SECONDS, Writes.kind: WRITE_SECONDS}
"""Seconds between two things that arrive by themselves, by kind."""
SILENT = (HeldConnection.kind, Http2Watch.kind)
"""The kinds on which nothing arrives while nothing changes."""


class _Holding:
    """One connection, and the task that uses it."""

    def __init__(self, connection: HeldConnection) -> None:
        self.connection = connection
        self._deaf = False
        self._lost: tuple[float, str] | None = None
        self._task = asyncio.create_task(self._hold())

    async def _hold(self) -> None:
        try:
            await self.connection.hold()
        except NO_ANSWER as error:
            self._lost = time.monotonic(), repr(error)

    async def prove(self) -> bool:
        """Whether it works. If not, and its client does not know it yet, that is noted."""
        if self._task.done():
            return False
        works = await self.connection.works()
        # A client that expects something notices the end without our help.
        ended_by_itself = self._task.done() and self.connection.kind not in SILENT
        self._deaf |= not works and not ended_by_itself
        return works

    async def end(self) -> HeldResult:
        """Check whether it works at the end, and close it."""
        works = await self.prove()
        lost_at, why = (None, "") if works else self._lost or (time.monotonic(), "no answer at the end")
        self._task.cancel()
        await asyncio.wait((self._task,))
        self.connection.abort()
        return HeldResult(
            kind=self.connection.kind,
            backend=self.connection.backend,
            heard=tuple(self.connection.heard),
            lost_at=lost_at,
            deaf=self._deaf,
            why=why,
        )


class HeldConnections:
    """Connections that are open before the fault, in their own thread."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._holdings: list[_Holding] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="held", daemon=True)

    def open(self) -> None:
        """Open all connections, of each kind one at each API server; raises OSError if one cannot be opened."""
        self._thread.start()
        self._call(self._open_all)

    def prove(self) -> None:
        """Check which connections work while the fault lasts. It costs silent ones their silence."""
        self._call(self._prove_all)

    def close(self) -> Sequence[HeldResult]:
        """Check whether each connection still works, and close it."""
        results = self._call(self._end_all)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        return results

    def _call(self, what: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(what(), self._loop).result()

    async def _open_all(self) -> None:
        uploads = [await self._open(Upload) for _ in range(UPLOADS)]
        others = [connection for kind in KINDS for connection in await self._open_at_each(kind)]
        self._holdings = [_Holding(connection) for connection in (*others, *uploads)]

    async def _open_at_each(self, kind: type[HeldConnection]) -> Collection[HeldConnection]:
        """One connection to each API server. One that has just returned gets few, so this may take some tries."""
        found: dict[str, HeldConnection] = {}
        for _ in range(MOST_TRIES):
            connection = await self._open(kind)
            if connection.backend in found:
                connection.abort()
            found.setdefault(connection.backend, connection)
            if len(found) == API_SERVERS:
                break
        return found.values()

    async def _open(self, kind: type[C]) -> C:
        async with asyncio.timeout(OPEN_SECONDS):
            context = tls_context(*kind.protocols)
            connection = kind(*await asyncio.open_connection(self._host, API_PORT, ssl=context))
            await connection.begin()
            return connection

    async def _prove_all(self) -> None:
        await asyncio.gather(*(holding.prove() for holding in self._holdings if holding.connection.kind != Upload.kind))

    async def _end_all(self) -> Sequence[HeldResult]:
        return await asyncio.gather(*(holding.end() for holding in self._holdings))
