"""The STAND-IN API server with HTTP/2 as well, for the bench: `python -m dev.standin.http2`, with its options.

Over HTTP/2 there are `/watch` and the paths with short answers. The package `h2` is why it is not part of
dev/standin/apiserver.py, which is installed on instances.
"""

import ssl
from collections.abc import Mapping

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived
from h2.exceptions import ProtocolError

from dev.standin.apiserver import BACKEND_HEADER, HANGING, IDLE_SECONDS, StandInServer, answer, main


class Connection:
    """One client connection."""

    def __init__(self, connection: ssl.SSLSocket, standin: StandInServer) -> None:
        self._connection, self._standin = connection, standin
        self._protocol = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._watches: set[int] = set()
        connection.settimeout(IDLE_SECONDS)

    def serve(self) -> None:
        """Answer until the client closes the connection."""
        self._protocol.initiate_connection()
        self._send()
        while data := self._connection.recv(1 << 16):
            try:
                events = self._protocol.receive_data(data)
            except ProtocolError:  # not HTTP/2
                return
            for event in events:
                if isinstance(event, RequestReceived):
                    self._request(event.stream_id, dict(event.headers))
                elif isinstance(event, DataReceived):
                    self._protocol.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    if event.stream_id in self._watches:
                        self._protocol.send_data(event.stream_id, b"." * len(event.data))
            self._send()

    def _request(self, stream: int, headers: Mapping[str | bytes, str | bytes]) -> None:
        health = self._standin.delayed_health()
        if health == HANGING:
            self._standin.hang(self._connection)
            return
        verb, path = str(headers[":method"]), str(headers[":path"]).partition("?")[0]
        if path == "/watch":
            self._watches.add(stream)
            self._protocol.send_headers(stream, [(":status", "200"), (BACKEND_HEADER.lower(), self._standin.backend)])
            return
        status, content_type, text = answer(health, verb, path, anonymous="authorization" not in headers)
        fields = [
            (":status", str(int(status))),
            ("content-type", content_type),
            (BACKEND_HEADER.lower(), self._standin.backend),
        ]
        self._protocol.send_headers(stream, fields)
        self._protocol.send_data(stream, b"" if verb == "HEAD" else text.encode(), end_stream=True)

    def _send(self) -> None:
        self._connection.sendall(self._protocol.data_to_send())


class Http2Server(StandInServer):
    """Offers both; the client chooses."""

    protocols = ("h2", "http/1.1")

    def serve(self, connection: ssl.SSLSocket, client_address: object) -> None:
        """Answer a client until one of both ends the connection."""
        if connection.selected_alpn_protocol() == "h2":
            Connection(connection, self).serve()
        else:
            super().serve(connection, client_address)


if __name__ == "__main__":
    main(Http2Server)
