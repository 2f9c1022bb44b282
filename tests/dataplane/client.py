"""A client in a network namespace of the bench."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from socket import create_connection

from pyroute2 import netns

from dev.bench.world import VIP, World
from model.topology import API_PORT, HEALTH_PORT
from tests.dataplane.frontends import watch_ingress
from tests.watches import PATIENCE_SECONDS, Watch, ask, download, watch

THREADS = 100


class Client:
    """Opens connections in the network of the client."""

    def __init__(self, world: World) -> None:
        enter = netns.setns  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] partly typed
        network = f"/proc/{world.clients.pid}/ns/net"
        # A namespace belongs to a thread; its sockets keep it, in whatever thread they are used.
        self._threads = ThreadPoolExecutor(THREADS, initializer=enter, initargs=(network,))  # pyright: ignore[reportUnknownArgumentType]

    def watch(self, count: int, first_port: int | None = None) -> list[Watch]:
        """Open watches, spread over the API servers; from ports that follow each other, or from any."""
        ports = [0] * count if first_port is None else range(first_port, first_port + count)
        opening = [self._threads.submit(watch, str(VIP), port) for port in ports]
        return [it.result() for it in opening]

    def leave_in_time_wait(self, count: int, first_port: int) -> None:
        """Connections from ports that follow each other, which HAProxy closes before the client does."""
        ports = range(first_port, first_port + count)
        for it in [self._threads.submit(self._is_closed, port) for port in ports]:
            it.result()

    def watch_ingress(self, count: int) -> list[Watch]:
        """Hold connections to a frontend open."""
        return [it.result() for it in [self._threads.submit(watch_ingress) for _ in range(count)]]

    def begin_download(self, size: int) -> Callable[[], int]:
        """Begin one of some seconds; calling the result waits, and returns how many bytes have arrived."""
        return self._threads.submit(download, str(VIP), size, pause=0.05).result

    def begin_request(self) -> Callable[[], str]:
        """Begin a request on a new connection; calling the result waits, and returns the API server that answered."""
        return self._threads.submit(self._request).result

    def is_ready(self, host: str) -> bool:
        """Whether an API server is ready, in the eyes of the HAProxy on a host."""
        return self._threads.submit(self._status, host).result() == b"200"

    def close(self) -> None:
        """End its threads."""
        self._threads.shutdown()

    @staticmethod
    def _is_closed(port: int) -> None:
        with create_connection((str(VIP), API_PORT), PATIENCE_SECONDS, ("", port)) as connection:
            connection.sendall(b"no TLS, so the API server closes it\r\n\r\n")
            while connection.recv(1000):
                pass

    @staticmethod
    def _request() -> str:
        connection, backend = ask(str(VIP), "/readyz")
        connection.close()
        return backend

    @staticmethod
    def _status(host: str) -> bytes:
        with create_connection((host, HEALTH_PORT), PATIENCE_SECONDS) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return connection.recv(100).split(b" ")[1]
