"""A STAND-IN API server: it answers anonymous requests as a kube-apiserver does, but is not Kubernetes.

The system ends where kubeadm begins, so without it nothing would listen behind the load balancers in the demo and the
tests. It runs on every control-plane instance: `/healthz`, `/readyz` and `/livez` report its health, everything else is
forbidden. It has no state and no Kubernetes API.

It is installed as a single file, so it uses the standard library only. The health file sets its health while it runs:
`healthy` (also without the file), `failing` (health paths answer 500), `hanging` (requests on all paths are read and
never answered), `slow 400` (every answer is 400 ms late), or a status such as `401`, with which health paths answer
requests that have no `Authorization`, as a server without anonymous access does.

`/watch` sends its headers and then one byte for each byte from the client; `/events` sends two bytes a second;
`/upload` reads a chunked body and then answers. They last until the client ends them. `/download/N` answers with N
bytes.
"""

import argparse
import json
import socket
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import NamedTuple, cast

PORT = 6443
HEALTH_PATHS = frozenset({"/healthz", "/readyz", "/livez"})
HEALTHY, FAILING, HANGING, SLOW = "healthy", "failing", "hanging", "slow"
BACKEND_HEADER = "X-Stand-In-Backend"
HANDSHAKE_SECONDS = 10.0
IDLE_SECONDS = 3600.0
EVENT_SECONDS = 0.5
"""Between two bytes of `/events`."""


class Answer(NamedTuple):
    """A short answer."""

    status: HTTPStatus
    content_type: str
    text: str


def answer(health: str, verb: str, path: str, *, anonymous: bool) -> Answer:
    """The answer to a request for any path without a query, at this health."""
    word = health.partition(" ")[0]
    if path not in HEALTH_PATHS:
        return Answer(HTTPStatus.FORBIDDEN, "application/json", json.dumps(_forbidden(verb.lower(), path)))
    if word.isdecimal() and anonymous:
        return Answer(HTTPStatus(int(word)), "text/plain; charset=utf-8", "who are you?")
    if word in (HEALTHY, SLOW) or word.isdecimal():
        return Answer(HTTPStatus.OK, "text/plain; charset=utf-8", "ok")
    # The words of a kube-apiserver that has lost etcd.
    text = f"[+]ping ok\n[-]etcd failed: reason withheld\n{path[1:]} check failed\n"
    return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", text)


def _forbidden(verb: str, path: str) -> Mapping[str, object]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f'forbidden: User "system:anonymous" cannot {verb} path "{path}"',
        "reason": "Forbidden",
        "details": {},
        "code": int(HTTPStatus.FORBIDDEN),
    }


class Handler(BaseHTTPRequestHandler):
    """One client connection, with any number of requests."""

    protocol_version = "HTTP/1.1"  # keep-alive, as kubectl uses it
    timeout = IDLE_SECONDS

    @property
    def _standin(self) -> "StandInServer":
        return cast(StandInServer, self.server)

    def version_string(self) -> str:
        """The Server header."""
        return "stand-in-apiserver"

    def do_GET(self) -> None:
        """Answer as to an anonymous client; HEAD and the other verbs do the same."""
        health = self._standin.delayed_health()
        path = self.path.partition("?")[0]
        if health == HANGING:
            self.close_connection = True
            self._standin.hang(self.connection)
        elif path == "/watch":
            self._watch()
        elif path == "/events":
            self._events()
        elif path == "/upload":
            self._upload()
        elif path.startswith("/download/"):
            self._download(int(path.removeprefix("/download/")))
        else:
            self._answer(*answer(health, self.command, path, anonymous="Authorization" not in self.headers))

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815 the base class looks for these

    def _answer(self, status: HTTPStatus, content_type: str, text: str) -> None:
        body = text.encode()
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # the request's body is not read, so the next request cannot be found
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header(BACKEND_HEADER, self._standin.backend)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _watch(self) -> None:
        self._begin_stream()
        while self.rfile.read(1):
            self.wfile.write(b".")

    def _events(self) -> None:
        self._begin_stream()
        while True:
            self.wfile.write(b".")
            time.sleep(EVENT_SECONDS)

    def _begin_stream(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header(BACKEND_HEADER, self._standin.backend)
        self.end_headers()
        self.close_connection = True

    def _download(self, size: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(size))
        self.send_header(BACKEND_HEADER, self._standin.backend)
        self.end_headers()
        part = bytes(1 << 16)
        for first in range(0, size, len(part)):
            self.wfile.write(part[: size - first])

    def _upload(self) -> None:
        while size := int(self.rfile.readline(), 16):
            self.rfile.read(size + len("\r\n"))
        self.rfile.readline()
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class's name
        """Log nothing: 50 probes and several health checks a second would fill the journal."""


class StandInServer(ThreadingHTTPServer):
    """Accepts in one thread and does everything else, including the TLS handshake, in a thread per connection.

    `health_file` may be absent (healthy); `backend` is the name sent in each answer's `X-Stand-In-Backend`.
    """

    request_queue_size = 4096  # the kernel's limit, as in Go; the default of 5 drops parallel connections
    daemon_threads = True
    protocols: Sequence[str] = ("http/1.1",)
    """What it offers in the TLS handshake (RFC 7301)."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext, health_file: Path, backend: str) -> None:
        super().__init__(address, Handler)
        self._tls = tls
        tls.set_alpn_protocols(list(self.protocols))
        self._health_file = health_file
        self.backend = backend

    def health(self) -> str:
        """The word in the health file; an unknown one counts as failing, so that a typo shows."""
        try:
            return self._health_file.read_text().strip() or HEALTHY
        except FileNotFoundError:
            return HEALTHY

    def delayed_health(self) -> str:
        """The same, late if it says so."""
        health = self.health()
        word, _, number = health.partition(" ")
        if word == SLOW:
            time.sleep(int(number) / 1000)
        return health

    def hang(self, connection: socket.socket) -> None:
        """Do not answer until the client gives up or the health changes, so that no thread is left over."""
        connection.settimeout(0.2)
        while self.health() == HANGING:
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                continue

    def server_bind(self) -> None:
        """Bind without HTTPServer's lookup of the host's name, which may wait for a DNS server."""
        TCPServer.server_bind(self)

    def finish_request(self, request: object, client_address: object) -> None:
        """Do the handshake here, in the connection's own thread: a silent client delays no other."""
        connection = cast(socket.socket, request)
        connection.settimeout(HANDSHAKE_SECONDS)
        with self._tls.wrap_socket(connection, server_side=True) as wrapped:
            self.serve(wrapped, client_address)
            self.shutdown_request(wrapped)

    def serve(self, connection: ssl.SSLSocket, client_address: object) -> None:
        """Answer a client until one of both ends the connection."""
        Handler(connection, client_address, self)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 the base class's signature
        """Log a programming error, but not a client that left or did not speak TLS."""
        error = sys.exception()
        if not isinstance(error, OSError):  # ssl.SSLError is one, and so are resets and timeouts
            log(f"{client_address}: {error!r}")


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's TLS context from two PEM files. Raises OSError or ssl.SSLError if they cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def log(text: str) -> None:
    """Write a line to the journal."""
    print(f"stand-in-apiserver: {text}", file=sys.stderr, flush=True)  # noqa: T201 the service's log


def main(kind: type[StandInServer] = StandInServer) -> None:
    """Serve until the process ends."""
    parser = argparse.ArgumentParser(description="A stand-in for a Kubernetes API server (not Kubernetes).")
    parser.add_argument("--listen", required=True, help="address to listen on")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--certificate", type=Path, required=True, help="PEM file")
    parser.add_argument("--key", type=Path, required=True, help="PEM file")
    parser.add_argument("--health-file", type=Path, required=True, help="healthy, failing or hanging")
    parser.add_argument("--backend", default=socket.gethostname(), help=f"the {BACKEND_HEADER} of each answer")
    args = parser.parse_args()
    Path("/proc/self/comm").write_text("standin-api")  # what ps and top show; the kernel keeps 15 characters
    tls = tls_context(args.certificate, args.key)
    with kind((args.listen, args.port), tls, args.health_file, args.backend) as server:
        log(f"serving on {args.listen}:{args.port} as {args.backend}")
        server.serve_forever()


if __name__ == "__main__":
    main()
