"""A client of a real cluster that reads, writes and watches while something is broken, and reports what it noticed.

It is what Kubernetes' own clients do: short requests on new connections, and one connection that is held open.
"""

import json
import socket
import ssl
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import yaml
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from operate.probe import Probe, ProbeReport, Request

# As in docs/failover.md: a read every 50 ms, a write every 100 ms.
READ_INTERVAL = 0.05
WRITE_INTERVAL = 0.1
# kubectl and client-go wait for longer; a request that hangs for so long counts as failed.
TIMEOUT = 10.0
LIMIT = 900.0
# A watch that hears nothing for so long opens another connection. client-go does after 45 s (it sends an HTTP/2 ping
# after 30 s, and waits 15 s for the answer), a client without keep-alives never.
WATCH_TIMEOUT = 10.0
# An API server deletes hundreds of objects one after another.
_ASK_TIMEOUT = 60.0
_NAME = "ha-api-client"
_CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
_OURS = f"labelSelector=app%3D{_NAME}"
_NO_STREAM = (OSError, HTTPException, ValueError)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a watch saw: it gets an event for every write."""

    events: int
    closed: int
    """How often its connection ended, and it had to open a new one."""
    longest_silence: float
    """Seconds without an event."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the three kinds of clients noticed."""

    reads: ProbeReport
    writes: ProbeReport
    watch: Watched

    @property
    def longest_stall(self) -> float:
        """How late the client itself was at worst, in seconds."""
        return max(self.reads.longest_stall, self.writes.longest_stall)


class ClusterClient:
    """Reads a ConfigMap, creates others and watches them while its context lasts; in the end it deletes all of them.

    `kubeconfig` is the text of one, with a client's certificate. Each write is of an object of its own: many at once of
    the same would conflict, and the API servers would repeat them without end.
    """

    def __init__(self, kubeconfig: str) -> None:
        config = yaml.safe_load(kubeconfig)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._url: str = cluster["server"]
        self._host = urlsplit(self._url).netloc
        self._tls = _context(cluster, user)
        self._open = ExitStack()
        self._stopping = threading.Event()
        self._events: list[float] = []
        self._opened = 0
        self._connection: HTTPSConnection | None = None
        self._reads = self._probe(READ_INTERVAL, lambda: Request(path=f"{_CONFIG_MAPS}/{_NAME}"))
        self._writes = self._probe(WRITE_INTERVAL, self._write)

    def __enter__(self) -> Self:
        self._delete_all()  # what a client that was killed has left
        self._ask("POST", _CONFIG_MAPS, {"metadata": {"name": _NAME, "labels": {"app": _NAME}}})
        watch = threading.Thread(target=self._watch, name="watch", daemon=True)
        watch.start()
        self._open.callback(watch.join)
        self._open.callback(self._end_watch)
        self._open.enter_context(self._writes)
        self._open.enter_context(self._reads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if not error:
            self._delete_all()

    @property
    def steady(self) -> float:
        """For how many seconds until now all reads and writes have been answered and the watch has had events."""
        silent = time.monotonic() - self._events[-1] if self._events else TIMEOUT
        return min(self._reads.steady, self._writes.steady) if silent < 10 * WRITE_INTERVAL else 0.0

    def report(self) -> Seen:
        """What was seen until now, or in the whole run once it has ended."""
        silence = max((later - earlier for earlier, later in pairwise(self._events)), default=0.0)
        return Seen(
            reads=self._reads.report(),
            writes=self._writes.report(),
            watch=Watched(events=len(self._events), closed=max(self._opened - 1, 0), longest_silence=silence),
        )

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        """One request. OSError if the API does not answer, or refuses it."""
        connection = self._connect(_ASK_TIMEOUT)
        try:
            connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise OSError(f"{method} {path}: status {response.status}: {text[:500]}")

    def _probe(self, interval: float, request: Callable[[], Request]) -> Probe:
        return Probe(
            self._url,
            interval=interval,
            timeout=TIMEOUT,
            limit=LIMIT,
            request=request,
            tls=self._tls,
            answers=(HTTPStatus.OK, HTTPStatus.CREATED),
        )

    def _connect(self, timeout: float) -> HTTPSConnection:
        return HTTPSConnection(self._host, timeout=timeout, context=self._tls)

    def _write(self) -> Request:
        metadata = {"generateName": f"{_NAME}-", "labels": {"app": _NAME}}
        return Request(
            method="POST",
            path=_CONFIG_MAPS,
            headers={"Content-Type": "application/json"},
            body=json.dumps({"metadata": metadata}),
        )

    def _delete_all(self) -> None:
        # The API server gives up on a request after a minute. On a busy machine, deleting thousands takes longer, but
        # each attempt deletes some.
        for attempt in Retrying(retry=retry_if_exception_type(OSError), stop=stop_after_attempt(5), reraise=True):
            with attempt:
                self._ask("DELETE", f"{_CONFIG_MAPS}?{_OURS}")

    def _watch(self) -> None:
        path = f"{_CONFIG_MAPS}?watch=true&{_OURS}"
        while not self._stopping.is_set():
            connection = self._connection = self._connect(WATCH_TIMEOUT)
            with suppress(*_NO_STREAM):
                connection.connect()
                # `_end_watch` closes a connection that it finds; until now this one was not there.
                if not self._stopping.is_set():
                    connection.request("GET", path)
                    response = connection.getresponse()
                    if response.status == HTTPStatus.OK:
                        self._opened += 1
                        while response.readline():
                            self._events.append(time.monotonic())
            connection.close()
            time.sleep(0.05)

    def _end_watch(self) -> None:
        self._stopping.set()
        if self._connection and self._connection.sock:
            with suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)


def _context(cluster: Mapping[str, str], user: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
    # OpenSSL reads a client's certificate from files only.
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder) / "client.crt", Path(folder) / "client.key"
        certificate.write_bytes(b64decode(user["client-certificate-data"]))
        key.touch(mode=0o600)
        key.write_bytes(b64decode(user["client-key-data"]))
        context.load_cert_chain(certificate, key)
    return context
