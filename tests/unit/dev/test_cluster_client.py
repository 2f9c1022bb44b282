"""The client of a cluster against a stand-in for the three requests that it makes, on loopback."""

import json
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster_client import ClusterClient
from dev.standin.apiserver import tls_context
from dev.standin.certificate import self_signed
from tests.unit.waiting import wait_until


class StandInCluster(ThreadingHTTPServer):
    """ConfigMaps: they can be created, read, watched and deleted."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        pair = self_signed("api", ["127.0.0.1"])
        certificate, key = folder / "tls.crt", folder / "tls.key"
        certificate.write_bytes(pair.certificate)
        key.write_bytes(pair.key)
        self.socket = tls_context(certificate, key).wrap_socket(self.socket, server_side=True)
        self.exists = False
        self.gives_up_deletions = 0
        self.refuses = False
        self.refuses_watches = False
        self.refused_watches = 0
        self.watches = 0
        self.ends_watches = threading.Event()
        self.written = threading.Condition()
        user = {"client-certificate-data": encoded(pair.certificate), "client-key-data": encoded(pair.key)}
        cluster = {
            "server": f"https://127.0.0.1:{self.server_port}",
            "certificate-authority-data": encoded(pair.certificate),
        }
        self.kubeconfig = yaml.safe_dump({"clusters": [{"cluster": cluster}], "users": [{"user": user}]})


def encoded(data: bytes) -> str:
    return b64encode(data).decode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def cluster(self) -> StandInCluster:
        assert isinstance(self.server, StandInCluster)
        return self.server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing."""

    def answer(self, status: int) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"status": status}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.cluster.exists = True
        with self.cluster.written:
            self.cluster.written.notify_all()
        self.answer(500 if self.cluster.refuses else 201)

    def do_DELETE(self) -> None:
        if self.cluster.gives_up_deletions:
            self.cluster.gives_up_deletions -= 1
            self.close_connection = True
            return
        self.cluster.exists = False
        self.answer(200)

    def do_GET(self) -> None:
        if "watch=true" in self.path:
            self.watch()
        else:
            self.answer(200 if self.cluster.exists else 404)

    def watch(self) -> None:
        if self.cluster.refuses_watches:
            self.cluster.refused_watches += 1
            self.answer(503)
            return
        self.cluster.watches += 1
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        event = b'{"type": "MODIFIED"}\n'
        while not self.cluster.ends_watches.is_set():
            with self.cluster.written:
                self.cluster.written.wait(1)
            with suppress(OSError):  # the client has gone
                self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
        self.close_connection = True


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[StandInCluster]:
    server = StandInCluster(tmp_path)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    yield server
    server.ends_watches.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_cluster_is_read_written_and_watched_and_nothing_is_left_there(cluster: StandInCluster):
    with ClusterClient(cluster.kubeconfig) as client:
        wait_until("the client works", lambda: client.steady > 0.3)
    seen = client.report()
    assert seen.reads.requests >= 2
    assert seen.writes.requests >= 2
    assert (seen.reads.reasons, seen.writes.reasons) == ({}, {})
    assert seen.watch.events >= 2
    assert seen.watch.closed == 0
    assert not cluster.exists


def test_a_deletion_that_the_api_server_gives_up_on_is_repeated(cluster: StandInCluster):
    with ClusterClient(cluster.kubeconfig):
        assert cluster.exists
        cluster.gives_up_deletions = 2
    assert not cluster.exists


def test_a_watch_that_ends_is_opened_again_and_counted(cluster: StandInCluster):
    with ClusterClient(cluster.kubeconfig) as client:
        wait_until("the client works", lambda: client.steady > 0.1)
        cluster.ends_watches.set()
        wait_until("another watch", lambda: cluster.watches >= 2)
        cluster.ends_watches.clear()
        wait_until("the client works", lambda: client.steady > 0.1)
    assert client.report().watch.closed >= 1


def test_a_watch_that_cannot_be_opened_again_at_once_has_ended_once(cluster: StandInCluster):
    with ClusterClient(cluster.kubeconfig) as client:
        wait_until("the client works", lambda: client.steady > 0.1)
        cluster.refuses_watches = True
        cluster.ends_watches.set()
        wait_until("some tries", lambda: cluster.refused_watches >= 3)
        cluster.ends_watches.clear()
        cluster.refuses_watches = False
        wait_until("another watch", lambda: client.report().watch.closed >= 1)
    assert client.report().watch.closed == 1


def test_refused_writes_are_failures_and_end_the_steadiness(cluster: StandInCluster):
    with ClusterClient(cluster.kubeconfig) as client:
        wait_until("the client works", lambda: client.steady > 0.1)
        cluster.refuses = True
        wait_until("two failures", lambda: client.report().writes.failures >= 2)
        assert client.steady == 0
        cluster.refuses = False
        wait_until("the client works", lambda: client.steady > 0.1)
    seen = client.report()
    assert set(seen.writes.reasons) == {"status 500"}
    assert seen.writes.longest_gap >= 0.1


def test_a_cluster_that_refuses_the_client_is_an_error(cluster: StandInCluster):
    cluster.refuses = True
    with pytest.raises(OSError, match=r"configmaps: status 500"), ClusterClient(cluster.kubeconfig):
        pass


def test_silence_counts_until_the_next_event(cluster: StandInCluster):
    with ClusterClient(cluster.kubeconfig) as client:
        wait_until("the client works", lambda: client.steady > 0.1)
        with cluster.written:  # nobody's write is an event meanwhile
            time.sleep(0.5)
        wait_until("the client works", lambda: client.steady > 0.1)
    assert client.report().watch.longest_silence >= 0.4
