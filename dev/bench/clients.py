"""The clients: requests at a fixed pace and held connections (`held`), in their own process and network namespace.

They are not threads of the bench, because a busy bench would delay them. All times are time.monotonic(), which is the
same in all processes.
"""

import asyncio
import ctypes
import multiprocessing
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from pyroute2 import netns

from dev.bench.held import AUTHORIZATION, HeldConnections, HeldResult, request, tls_context
from dev.standin.apiserver import BACKEND_HEADER
from model.topology import API_PORT
from operate.probe import MAX_SECONDS, NO_ANSWER, Probe, ProbeReport, Request

# The timeout of an impatient client; then timeouts like those of kubectl and client-go, each with the number of quick
# requests per patient one.
QUICK_TIMEOUT, PATIENT = 0.25, ((1.0, 5), (5.0, 25))
# In a storm clients wait for the retransmissions of a lost SYN, after 1, 3, 7, 15 and 31 s.
STORM_SECONDS = 40.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Probed:
    """One kind of request, and when its probe started."""

    timeout: float
    begin: float
    report: ProbeReport


@dataclass(frozen=True)
class ClientsReport:
    """The results of all clients."""

    quick: Probed
    patient: Sequence[Probed]
    held: Sequence[HeldResult]


def _authorized() -> Request:
    return Request(headers={"Authorization": AUTHORIZATION})


async def _storm(pipe: Connection, host: str, count: int) -> None:
    """Open `count` connections at once; again, after closing them, for each `True` from the pipe."""
    again = True
    while again:
        writers: list[asyncio.StreamWriter] = []
        pipe.send(await asyncio.gather(*(_arrive(host, writers) for _ in range(count))))
        again = await asyncio.to_thread(pipe.recv)
        for writer in writers:
            writer.transport.abort()


async def _arrive(host: str, writers: list[asyncio.StreamWriter]) -> float | None:
    """Seconds until an answer, or None without one. The connection stays open.

    Without TLS: HAProxy passes it through, and the machine would spend its CPU time on it.
    """
    begin = time.monotonic()
    with suppress(*NO_ANSWER):
        async with asyncio.timeout(STORM_SECONDS):
            reader, writer = await asyncio.open_connection(host, API_PORT)
            writers.append(writer)
            writer.write(request("GET", "/readyz"))
            await reader.readuntil(b"\r\n\r\n")
            return time.monotonic() - begin
    return None


def _ask(host: str) -> str | None:
    """Send one request on a new connection; the API server that answered, None if none did within a second."""
    context = tls_context()
    with suppress(OSError), socket.create_connection((host, API_PORT), 1) as plain, context.wrap_socket(plain) as tls:
        tls.sendall(request("GET", "/readyz", "Connection: close\r\n"))
        answer = b""
        while data := tls.recv(4096):
            answer += data
        head = answer.decode(errors="replace").splitlines()
        if head and " 200 " in head[0]:
            return next((line.split(": ")[1] for line in head if line.startswith("X-Stand-In-Backend: ")), None)
    return None


def _serve(pipe: Connection, namespace: str, vip: str) -> None:
    """Run in the process of the clients: read commands, send answers."""
    # This process ends with the bench, even if the bench is killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the bench handles Ctrl-C
    netns.setns(namespace)  # pyright: ignore[reportUnknownMemberType] partly typed
    # For a storm of thousands of connections.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    probes: list[tuple[float, float, Probe]] = []
    held = HeldConnections(vip)
    while True:
        match pipe.recv():
            case ("ask", str(host)):
                pipe.send(_ask(host))
            case ("storm", str(host), int(count)):
                asyncio.run(_storm(pipe, host, count))
                pipe.send(None)
            case ("begin", float(pace)):
                held = HeldConnections(vip)
                held.open()
                probes = []
                for timeout, paces in ((QUICK_TIMEOUT, 1), *PATIENT):
                    probe = Probe(
                        f"https://{vip}:{API_PORT}",
                        interval=pace * paces,
                        timeout=timeout,
                        limit=MAX_SECONDS,
                        request=_authorized,
                        backend_header=BACKEND_HEADER,
                    )
                    probes.append((timeout, time.monotonic(), probe.__enter__()))
                pipe.send(None)
            case ("steady",):
                pipe.send(probes[0][2].steady)
            case ("prove",):
                held.prove()
                pipe.send(None)
            case ("end",):
                # Stop all at the same time: a patient request can take seconds.
                stoppers = [threading.Thread(target=probe.__exit__, args=(None,) * 3) for _, _, probe in probes]
                for stopper in stoppers:
                    stopper.start()
                results = held.close()
                for stopper in stoppers:
                    stopper.join()
                quick, *patient = (Probed(timeout, begin, probe.report()) for timeout, begin, probe in probes)
                pipe.send(ClientsReport(quick, patient, results))
            case unknown:
                raise ValueError(f"unknown command: {unknown}")


class Clients:
    """Controls the process of the clients; TimeoutError if it does not answer, EOFError if it died."""

    def __init__(self, namespace: str, vip: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, namespace, vip), daemon=True, name="clients")
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid  # noqa: S101 it has been started
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def ask(self, host: str) -> str | None:
        """The API server that answers through `host` now; None if none does within a second."""
        return self._command(5, "ask", host)

    def begin(self, pace: float) -> None:
        """Open the held connections, and start a request every `pace` seconds; returns when all are open."""
        self._command(30, "begin", pace)

    def steady(self) -> float:
        """Seconds since the last failure of a quick request."""
        return self._command(5, "steady")

    def prove(self) -> None:
        """Check which held connections work while the fault lasts; silent ones are not silent any more."""
        self._command(10, "prove")

    def end(self) -> ClientsReport:
        """Stop the requests, and check which connections still work."""
        return self._command(20, "end")

    @contextmanager
    def storm(self, host: str, count: int) -> Generator[Callable[[], list[float | None]]]:
        """Each call opens `count` connections at once; it returns the seconds to each answer, None without one.

        The connections stay open until the next call, or the end of the context.
        """
        first = True

        def arrive() -> list[float | None]:
            nonlocal first
            limit = STORM_SECONDS + 20
            answered = self._command(limit, "storm", host, count) if first else self._send(limit, True)
            first = False
            return answered

        yield arrive
        if not first:
            self._send(10, False)

    def _command(self, limit: float, *command: str | float):
        return self._send(limit, command)

    def _send(self, limit: float, message: tuple[str | float, ...] | bool):
        self._pipe.send(message)
        if not self._pipe.poll(limit):
            raise TimeoutError(f"the clients did not answer {message!r} within {limit:g} s")
        return self._pipe.recv()
