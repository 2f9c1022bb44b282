"""The stand-in API server and the probe against each other, on loopback."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dev.standin.apiserver import BACKEND_HEADER, StandInServer, tls_context
from dev.standin.certificate import self_signed
from operate.probe import MAX_TIMEOUT, Mark, Probe, ProbeReport, Sample
from tests.unit.waiting import wait_until


class StandIn:
    """A stand-in API server in a thread, on a loopback port that the kernel picks."""

    def __init__(self, folder: Path, tls: ssl.SSLContext) -> None:
        self.health_file = folder / "health"
        self._server = StandInServer(("127.0.0.1", 0), tls, self.health_file, "cp-1")
        self.port = int(self._server.server_address[1])
        self.url = f"https://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.02))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def get(self, path: str, method: str = "GET", timeout: float = 5.0) -> tuple[http.client.HTTPResponse, bytes]:
        context = ssl.create_default_context(cafile=None)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with closing(http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=context)) as client:
            client.request(method, path)
            response = client.getresponse()
            return response, response.read()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    pair = self_signed("cp-1", ["127.0.0.1"])
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    return tls_context(folder / "tls.crt", folder / "tls.key")


@pytest.fixture
def standin(tmp_path: Path, tls: ssl.SSLContext) -> Iterator[StandIn]:
    server = StandIn(tmp_path, tls)
    yield server
    server.stop()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/livez", "/readyz?verbose"])
def test_health_paths_answer_ok_and_name_the_stand_in(standin: StandIn, path: str) -> None:
    response, body = standin.get(path)
    assert (response.status, body) == (200, b"ok")
    assert response.headers[BACKEND_HEADER] == "cp-1"
    assert response.headers["Server"] == "stand-in-apiserver"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/v1/nodes"), ("POST", "/api"), ("HEAD", "/"), ("GET", "/readyz/etcd")]
)
def test_everything_else_is_forbidden(standin: StandIn, method: str, path: str) -> None:
    response, body = standin.get(path, method)
    assert response.status == 403
    assert response.headers["Content-Type"] == "application/json"
    assert b'"system:anonymous\\"' in body or method == "HEAD"


def test_failing_answers_500_on_health_paths_only(standin: StandIn) -> None:
    standin.health_file.write_text("failing\n")
    assert standin.get("/readyz")[0].status == 500
    assert standin.get("/api")[0].status == 403
    standin.health_file.write_text("healthy\n")
    assert standin.get("/readyz")[0].status == 200


def test_an_unknown_health_counts_as_failing(standin: StandIn) -> None:
    standin.health_file.write_text("heatlhy")
    assert standin.get("/readyz")[0].status == 500


def test_hanging_answers_nothing_and_ends_with_the_client(standin: StandIn) -> None:
    standin.health_file.write_text("hanging")
    threads = threading.active_count()
    with pytest.raises(TimeoutError):
        standin.get("/api", timeout=0.3)
    wait_until("the request's thread ends", lambda: threading.active_count() == threads)
    standin.health_file.unlink()
    assert standin.get("/readyz")[0].status == 200


def test_silent_clients_do_not_delay_others(standin: StandIn) -> None:
    with ExitStack() as silent:
        for _ in range(50):
            silent.enter_context(socket.create_connection(("127.0.0.1", standin.port)))
        # It waits 10 s for each of their handshakes, longer than `get` waits for an answer.
        assert standin.get("/readyz")[0].status == 200


def test_plain_http_is_refused_and_the_server_keeps_running(standin: StandIn) -> None:
    with socket.create_connection(("127.0.0.1", standin.port), timeout=5) as client:
        client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        with suppress(ConnectionResetError):
            assert client.recv(1024) == b""
    assert standin.get("/readyz")[0].status == 200


def wait_for_requests(probe: Probe, more: int) -> None:
    """Wait until `more` more requests have ended."""
    target = probe.report().requests + more
    wait_until(f"{target} requests", lambda: probe.report().requests >= target)


def test_the_probe_sees_a_healthy_server(standin: StandIn) -> None:
    with Probe(standin.url, timeout=MAX_TIMEOUT, backend_header=BACKEND_HEADER) as probe:
        wait_for_requests(probe, 10)
        assert probe.steady > 0
    report = probe.report()
    assert report.failures == 0
    assert report.backends == {"cp-1": report.requests}
    assert report.longest_gap < report.duration


def test_the_probe_counts_failures_while_the_server_is_down(tmp_path: Path, tls: ssl.SSLContext) -> None:
    server = StandIn(tmp_path, tls)
    with Probe(server.url, timeout=2) as probe:
        wait_for_requests(probe, 5)
        probe.mark("server stopped")
        server.stop()
        stopped = time.monotonic()
        wait_for_requests(probe, 30)
        assert probe.steady == 0
        down = time.monotonic() - stopped
    report = probe.report()
    assert report.reasons["ConnectionRefusedError"] >= 10
    # On a busy machine answers from before the stop are read a moment after it.
    assert report.longest_gap >= down / 2


def test_the_probe_distinguishes_wrong_answers_from_none(standin: StandIn) -> None:
    with Probe(standin.url, timeout=0.3) as probe:
        standin.health_file.write_text("failing")
        wait_for_requests(probe, 5)
        standin.health_file.write_text("hanging")
        wait_for_requests(probe, 20)
    reasons = probe.report().reasons
    assert reasons["status 500"] > 0
    assert reasons["TimeoutError"] > 0


def test_a_server_that_requires_authentication_counts_as_alive(standin: StandIn) -> None:
    standin.health_file.write_text("401")
    with (
        Probe(standin.url, timeout=MAX_TIMEOUT, answers=(200, 401)) as answered,
        Probe(standin.url, timeout=MAX_TIMEOUT) as refused,
    ):
        wait_for_requests(answered, 5)
        wait_for_requests(refused, 5)
    assert answered.report().failures == 0
    assert refused.report().failures == refused.report().reasons["status 401"] > 0


def test_without_tls_the_probe_reads_an_answer_or_has_its_connection_accepted() -> None:
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        serving = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
        serving.start()
        address = f"127.0.0.1:{server.server_address[1]}"
        try:
            with (
                Probe(f"http://{address}", timeout=MAX_TIMEOUT, answers=(404,)) as answered,
                Probe(f"http://{address}", timeout=MAX_TIMEOUT) as refused,
            ):
                wait_for_requests(answered, 5)
                wait_for_requests(refused, 5)
        finally:
            server.shutdown()
            serving.join()
    assert answered.report().failures == 0
    assert refused.report().failures == refused.report().reasons["status 404"] > 0
    # It answers nothing.
    with closing(socket.create_server(("127.0.0.1", 0), backlog=1000)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Probe(f"tcp://{address}", timeout=MAX_TIMEOUT) as accepted:
            wait_for_requests(accepted, 5)
    assert accepted.report().failures == 0
    with Probe(f"tcp://{address}", timeout=MAX_TIMEOUT) as closed:
        wait_for_requests(closed, 5)
    assert closed.report().failures == closed.report().reasons["ConnectionRefusedError"] > 0


def test_the_probe_keeps_its_rate_while_nothing_answers() -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=1000)) as silent:
        started = time.monotonic()
        with Probe(f"https://127.0.0.1:{silent.getsockname()[1]}", timeout=0.25, limit=1) as probe:
            probe.wait()
        assert time.monotonic() - started < 10
    report = probe.report()
    # One after the other they would be four.
    assert 8 < report.requests <= 50
    assert report.reasons == {"TimeoutError": report.requests}
    assert report.longest_gap == pytest.approx(report.duration)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("ftp://127.0.0.1:1", {}),
        ("127.0.0.1:6443", {}),
        ("https://127.0.0.1:1", {"interval": 0.001}),
        ("https://127.0.0.1:1", {"timeout": 11}),
        ("https://127.0.0.1:1", {"limit": 901}),
        ("https://127.0.0.1:1", {"limit": float("nan")}),
    ],
)
def test_the_probe_refuses_options_out_of_range(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"needs https|out of range"):
        Probe(url, **options)


def test_the_report_counts_the_gaps_at_both_ends() -> None:
    answer = Sample(started=2.9, ended=3.0, backend="cp-1")
    assert ProbeReport(duration=4, samples=[answer]).longest_gap == 3
    assert ProbeReport(duration=9, samples=[answer]).longest_gap == 6
    assert ProbeReport(duration=9, samples=[]).longest_gap == 9


def test_the_timeline_shows_where_requests_failed() -> None:
    samples = [
        Sample(
            started=i / 10,
            ended=i / 10 + 0.01,
            failure="TimeoutError" if 40 <= i < 60 else None,
            backend="cp-1",
        )
        for i in range(100)
    ]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(ProbeReport(duration=10, samples=samples, marks=[Mark(at=4, label="holder stopped")]).render(10))
    lines = capture.get().splitlines()
    assert lines[0] == "100 requests in 10.0 s, 20 failed; longest interruption 2.10 s"
    assert lines[1] == "....XX...."
    assert lines[3].strip("^ ") == "4.0 s holder stopped"
    assert lines[-2:] == ["failures: 20 x TimeoutError", "answers: 80 x cp-1"]
