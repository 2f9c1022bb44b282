"""Connections that are held through the VIP to stand-in API servers, and when their clients notice the end."""

import select
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from socket import SO_REUSEADDR, SOL_SOCKET, socket

from dev.standin.apiserver import BACKEND_HEADER
from model.topology import API_PORT

# Longer than HAProxy tries another server, shorter than a retransmitted SYN after the third try.
PATIENCE_SECONDS = 5.0
# For each part of a transfer: a busy lab loses packets, and TCP waits longer each time.
TRANSFER_SECONDS = 60.0


@dataclass(frozen=True)
class Watch:
    """A connection on which nothing is sent, like a watch of something that does not change."""

    connection: socket
    backend: str

    def works(self) -> bool:
        """Whether the API server answers on it."""
        self.connection.sendall(b".")
        return self.connection.recv(1) == b"."


def connect(address: str, source_port: int = 0) -> ssl.SSLSocket:
    """A new connection; port 0 is any."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    connection = socket()
    connection.settimeout(PATIENCE_SECONDS)
    if source_port:
        # A connection from the same port to another VIP may have just ended.
        connection.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        connection.bind(("", source_port))
    connection.connect((address, API_PORT))
    return tls.wrap_socket(connection)


def ask(address: str, path: str, source_port: int = 0) -> tuple[ssl.SSLSocket, str]:
    """A request on a new connection, which stays open, and the API server that has answered."""
    connection = connect(address, source_port)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: api\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("closed before the answer")
        head += byte
    return connection, head.decode().partition(f"{BACKEND_HEADER}: ")[2].partition("\r\n")[0]


def watch(address: str, source_port: int = 0) -> Watch:
    """Begin one."""
    return Watch(*ask(address, "/watch", source_port))


def download(address: str, size: int, source_port: int = 0, *, pause: float = 0) -> int:
    """How many of so many bytes arrive, with a pause (seconds) after each megabyte."""
    connection, _ = ask(address, f"/download/{size}", source_port)
    connection.settimeout(TRANSFER_SECONDS)
    received, pauses = 0, 0
    with connection:
        while data := connection.recv(1 << 16):
            received += len(data)
            if pause and received >> 20 > pauses:
                pauses = received >> 20
                time.sleep(pause)
            if received == size:
                break
    return received


def upload(address: str, size: int, source_port: int = 0, *, pause: float = 0) -> bool:
    """Whether so many megabytes are accepted, with a pause (seconds) after each; OSError if they are not."""
    with connect(address, source_port) as connection:
        connection.settimeout(TRANSFER_SECONDS)
        connection.sendall(b"POST /upload HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n")
        megabyte = bytes(1 << 20)
        for _ in range(size):
            connection.sendall(b"%x\r\n%b\r\n" % (len(megabyte), megabyte))
            time.sleep(pause)
        connection.sendall(b"0\r\n\r\n")
        return connection.recv(1 << 10).startswith(b"HTTP/1.1 200 ")


def ends_after(watches: Sequence[Watch], seconds: float) -> list[tuple[Watch, float]]:
    """The watches whose end arrives within some seconds, each with the seconds until then."""
    begin, ends = time.monotonic(), list[tuple[Watch, float]]()
    left = {watch.connection: watch for watch in watches}
    while left and (now := time.monotonic()) < begin + seconds:
        for connection in select.select(list(left), (), (), begin + seconds - now)[0]:
            # Not suddenly silent, and not with an answer.
            with suppress(ConnectionResetError, ssl.SSLEOFError):
                assert connection.recv(1) == b""
            ends.append((left.pop(connection), time.monotonic() - begin))
    return ends
