"""Measures an interruption as clients see it: one request every 20 ms, each on a new connection, in parallel.

A probe that waits for one answer before it sends the next request misses short interruptions and stretches long ones;
this one sends on time, whatever happened to earlier requests. Rate and duration have hard limits: it is a measuring
instrument, not a load generator.

    with Probe("https://198.18.1.50:6443") as probe:
        probe.mark("holder stopped")
        ...
    print(probe.report().longest_gap)
"""

import asyncio
import math
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, parse_headers
from io import BytesIO
from itertools import pairwise
from types import TracebackType
from typing import Annotated, Self
from urllib.parse import urlsplit

import typer
from rich.console import Console, Group
from rich.text import Text

MIN_INTERVAL = 0.02
MAX_TIMEOUT = 10.0
MAX_SECONDS = 900.0
PATH = "/readyz"
ALIVE = (200, 401, 403)
"""Statuses of an API server that is alive; it may refuse an anonymous request."""
# A time-out, a broken connection, or an answer that is not HTTP.
NO_ANSWER = (OSError, EOFError, asyncio.LimitOverrunError, HTTPException, ValueError, IndexError)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a probe sends, on a connection of its own."""

    method: str = "GET"
    path: str = PATH
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: str = ""

    def encoded(self, host: str) -> bytes:
        """As it is sent to `host` (HOST[:PORT])."""
        body = self.body.encode()
        length = {"Content-Length": str(len(body))} if body else {}
        headers = {"Host": host, "User-Agent": "ha-api-probe", **self.headers, **length, "Connection": "close"}
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request: when it started and ended (seconds since the probe's start), and its result."""

    started: float
    ended: float
    failure: str | None = None
    backend: str | None = None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something done to the system while the probe ran, `at` seconds after its start."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """What a probe saw in `duration` seconds. Samples are in the order in which they ended."""

    duration: float
    samples: Sequence[Sample]
    marks: Sequence[Mark] = ()
    longest_stall: float = 0.0
    """How late the probe itself was at worst, in seconds: a shorter gap may be the probe's own."""

    @property
    def requests(self) -> int:
        """How many requests ended."""
        return len(self.samples)

    @property
    def failures(self) -> int:
        """How many requests got no answer, or one that does not count."""
        return sum(sample.failure is not None for sample in self.samples)

    @property
    def reasons(self) -> Counter[str]:
        """Number of failures by kind."""
        return Counter(sample.failure for sample in self.samples if sample.failure is not None)

    @property
    def backends(self) -> Counter[str]:
        """Number of answers by backend."""
        return Counter(s.backend for s in self.samples if s.failure is None and s.backend is not None)

    @property
    def longest_gap(self) -> float:
        """The longest time in seconds without a successful answer; start and end of the probe count as answers."""
        answers = [0.0, *(sample.ended for sample in self.samples if sample.failure is None), self.duration]
        return max(later - earlier for earlier, later in pairwise(answers))

    def render(self, width: int = 80) -> Group:
        """A summary and a timeline for a terminal, with the marks below it."""
        summary = (
            f"{self.requests} requests in {self.duration:.1f} s, {self.failures} failed; "
            f"longest interruption {self.longest_gap:.2f} s"
        )
        if self.longest_stall > 0.1:
            summary += f" (the probe itself was late by up to {self.longest_stall:.2f} s)"
        lines = [Text(summary), self._timeline(width), self._scale(width)]
        for mark in self.marks:
            column = self._column(mark.at, width)
            text = f"^ {mark.at:.1f} s {mark.label}"
            # The label of a mark near the right edge is to the left of its arrow.
            line = " " * column + text if column + len(text) <= width else f"{text[2:]} ^".rjust(column + 1)
            lines.append(Text(line))
        for title, counts in (("failures", self.reasons), ("answers", self.backends)):
            if counts:
                lines.append(Text(f"{title}: " + ", ".join(f"{n} x {name}" for name, n in counts.most_common())))
        return Group(*lines)

    def _column(self, at: float, width: int) -> int:
        return min(width - 1, int(at / self.duration * width)) if self.duration else 0

    def _timeline(self, width: int) -> Text:
        """`.` where all requests that started then were answered, `x` where some failed, `X` where all failed."""
        answered, failed = [0] * width, [0] * width
        for sample in self.samples:
            counts = answered if sample.failure is None else failed
            counts[self._column(sample.started, width)] += 1
        line = Text()
        for good, bad in zip(answered, failed, strict=True):
            if not bad:
                line.append("." if good else " ", "green")
            else:
                line.append("x" if good else "X", "yellow" if good else "red")
        return line

    def _scale(self, width: int) -> Text:
        end = f"{self.duration:.1f} s"
        return Text("0" + end.rjust(width - 1), "dim")


class Probe:
    """Sends requests to `url` while its context lasts, in a thread of its own; by default it reads `/readyz`.

    A URL that begins with tcp:// only has connections accepted.
    `interval` and `timeout` are seconds; it stops by itself after `limit` seconds. `request` is called for each
    request. Without a `tls` context certificates are not verified, since only the arrival of an answer is measured.
    `backend_header` is a header with the server's name, if it sends one; `answers` are the statuses that count as an
    answer.
    ValueError for a URL that is not https://HOST[:PORT], or one with http or tcp and a port, and for values beyond this
    module's limits.
    """

    def __init__(
        self,
        url: str,
        *,
        interval: float = MIN_INTERVAL,
        timeout: float = 0.25,
        limit: float = 120.0,
        request: Callable[[], Request] = Request,
        tls: ssl.SSLContext | None = None,
        backend_header: str = "",
        answers: Container[int] = (200,),
    ) -> None:
        parts = urlsplit(url)
        self._scheme = parts.scheme
        if self._scheme not in ("https", "http", "tcp") or not parts.hostname:
            raise ValueError(f"the probe needs https://HOST[:PORT], or http or tcp with a port, not {url!r}")
        if not (interval >= MIN_INTERVAL and 0 < timeout <= MAX_TIMEOUT and 0 < limit <= MAX_SECONDS):
            raise ValueError(
                f"out of range: interval {interval} s (at least {MIN_INTERVAL}), timeout {timeout} s "
                f"(up to {MAX_TIMEOUT:g}), limit {limit} s (up to {MAX_SECONDS:g})"
            )
        self._host, self._port = parts.hostname, parts.port or 443
        self._interval, self._timeout, self._limit = interval, timeout, limit
        self._request = request
        self._netloc = parts.netloc
        self._backend_header = backend_header
        self._answers = answers
        self._tls = tls or _unverified() if self._scheme == "https" else None
        self._samples: list[Sample] = []
        self._marks: list[Mark] = []
        self._longest_stall = 0.0
        self._begin = self._end = math.nan
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="probe", daemon=True)

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def elapsed(self) -> float:
        """Seconds since the probe's start; its duration once it has ended."""
        return (time.monotonic() if math.isnan(self._end) else self._end) - self._begin

    @property
    def steady(self) -> float:
        """For how many seconds until now all requests have been answered; 0 before the first answer."""
        samples = self._samples[:]
        failed = [sample.ended for sample in samples if sample.failure is not None]
        if not samples or samples[-1].failure is not None:
            return 0.0
        return self.elapsed - (max(failed) if failed else 0.0)

    def mark(self, label: str) -> None:
        """Note what is being done to the system now; it is shown on the timeline."""
        self._marks.append(Mark(at=self.elapsed, label=label))

    def wait(self) -> None:
        """Wait until the probe reaches its limit."""
        self._thread.join()

    def report(self) -> ProbeReport:
        """What was seen until now, or in the whole run once it has ended."""
        return ProbeReport(
            duration=self.elapsed,
            samples=tuple(self._samples),
            marks=tuple(self._marks),
            longest_stall=self._longest_stall,
        )

    async def _run(self) -> None:
        # At its end TaskGroup waits for requests in flight, at most one time-out.
        async with asyncio.TaskGroup() as requests:
            due = time.monotonic()
            while not self._stopping.is_set() and due - self._begin < self._limit:
                requests.create_task(self._sample())
                due += self._interval
                late = time.monotonic() - due
                if late > 0:
                    # No burst to catch up: missed requests are skipped, and the stall is reported.
                    self._longest_stall = max(self._longest_stall, late)
                    due += late
                await asyncio.sleep(due - time.monotonic())
        self._end = time.monotonic()

    async def _sample(self) -> None:
        started = time.monotonic() - self._begin
        failure: str | None = None
        backend: str | None = None
        try:
            async with asyncio.timeout(self._timeout):
                status, backend = await self._request_once()
            if status is not None and status not in self._answers:
                failure = f"status {status}"
        except NO_ANSWER as error:
            failure = type(error).__name__
        ended = time.monotonic() - self._begin
        self._samples.append(Sample(started=started, ended=ended, failure=failure, backend=backend))

    async def _request_once(self) -> tuple[int | None, str | None]:
        """One connection, one request: its status, if it has one, and the backend that answered."""
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            if self._scheme == "tcp":
                return None, None
            writer.write(self._request().encoded(self._netloc))
            head = await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.transport.abort()  # without a closing handshake, which would be measured too
        status_line, _, fields = head.partition(b"\r\n")
        return int(status_line.split()[1]), parse_headers(BytesIO(fields)).get(self._backend_header)


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def main(
    url: Annotated[str, typer.Argument(help="https://HOST[:PORT]; requests go to /readyz")],
    seconds: Annotated[float, typer.Option(help=f"how long, up to {MAX_SECONDS:g}")] = 30.0,
    interval: Annotated[float, typer.Option(help=f"seconds between requests, at least {MIN_INTERVAL}")] = MIN_INTERVAL,
    timeout: Annotated[float, typer.Option(help="timeout of a request, in seconds")] = 0.25,
) -> None:
    """Measure how long an endpoint is interrupted. Exit status 1 if no request was answered."""
    console = Console()
    try:
        probe = Probe(url, interval=interval, timeout=timeout, limit=seconds)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        with probe, console.status(f"probing {url}{PATH} for {seconds:g} s; Ctrl-C ends it early"):
            probe.wait()
    except KeyboardInterrupt:
        pass
    report = probe.report()
    console.print(report.render(min(console.width, 100)))
    if report.failures == report.requests:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
