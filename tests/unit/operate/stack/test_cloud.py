"""A cloud that fails for a while, and one that keeps failing: a session against stand-ins for Keystone and Nova."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1.exceptions import ClientException
from openstack.exceptions import SDKException
from urllib3.util import Retry

from operate.stack import cloud
from operate.stack.cloud import connect, explain
from operate.stack.engine import StackError

LOGIN, SERVERS, STOP = (
    ("POST", "/v3/auth/tokens"),
    ("GET", "/compute/v2.1/servers/detail"),
    ("POST", "/compute/v2.1/stop"),
)


class Cloud(ThreadingHTTPServer):
    """Answers logins and lists no servers, after first returning the given (status, headers)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.first: dict[tuple[str, str], list[tuple[int, dict[str, str]]]] = {}
        self.requests: Counter[tuple[str, str]] = Counter()


def provider(url: str) -> dict[str, str]:
    return {
        "authUrl": f"{url}/v3",
        "userName": "ada",
        "password": "secret",
        "tenantName": "api",
        "userDomainName": "Default",
        "projectDomainName": "Default",
    }


class Answering(BaseHTTPRequestHandler):
    server: Cloud  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the acknowledgement of the headers

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = (self.command, self.path.partition("?")[0])
        self.server.requests[request] += 1
        first = self.server.first.get(request)
        if first:
            status, headers = first.pop(0)
            self.send(status, {"error": {"message": "try later"}}, headers)
        elif request == LOGIN:
            endpoints = [{"interface": "public", "region": "one", "url": f"{self.server.url}/compute/v2.1", "id": "1"}]
            catalog = [{"type": "compute", "name": "nova", "id": "nova", "endpoints": endpoints}]
            token = {"expires_at": "2999-01-01T00:00:00Z", "issued_at": "2026-01-01T00:00:00Z", "methods": ["password"]}
            self.send(201, {"token": token | {"catalog": catalog, "user": {"id": "1"}}}, {"X-Subject-Token": "token"})
        elif request == ("GET", "/v3"):
            links = [{"rel": "self", "href": f"{self.server.url}/v3"}]
            self.send(200, {"version": {"id": "v3.14", "status": "stable", "links": links}}, {})
        elif request == ("GET", "/compute/v2.1"):
            links = [{"rel": "self", "href": f"{self.server.url}/compute/v2.1"}]
            version = {"id": "v2.1", "status": "CURRENT", "version": "2.90", "min_version": "2.1", "links": links}
            self.send(200, {"version": version}, {})
        else:
            self.send(200, {"servers": []}, {})

    do_GET = do_POST = answer  # noqa: N815 the names that http.server looks for

    def send(self, status: int, body: Any, headers: dict[str, str]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(content))} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 part of http.server
        """Log nothing."""


@pytest.fixture(autouse=True)
def no_cloud_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", "/nonexistent")
    monkeypatch.delenv("OS_CLOUD", raising=False)


@pytest.fixture
def fake() -> Iterator[Cloud]:
    with Cloud() as fake:
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield fake
        fake.shutdown()
        thread.join()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pauses between attempts."""
    for name in ("_RETRY", "_RETRY_LOGIN"):
        retry: Retry = getattr(cloud, name)
        monkeypatch.setattr(cloud, name, retry.new(backoff_factor=0.001))


def servers(url: str) -> list[Any]:
    untyped: Any = connect(provider(url))
    return [*untyped.compute.servers()]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("request_", [LOGIN, SERVERS], ids=["login", "list"])
def test_requests_are_repeated_while_the_cloud_fails(fake: Cloud, request_: tuple[str, str], status: int):
    fake.first[request_] = [(status, {})] * 3
    assert servers(fake.url) == []
    assert fake.requests[request_] == 4


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, in seconds, which end at once."""
    paused: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", paused.append)
    return paused


def test_the_cloud_may_say_when_to_try_again(fake: Cloud, paused: list[float]):
    fake.first[SERVERS] = [(429, {"Retry-After": "17"})]
    assert servers(fake.url) == []
    assert paused == [17]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("request_", [LOGIN, SERVERS], ids=["login", "list"])
def test_after_the_last_attempt_the_failure_is_reported(fake: Cloud, request_: tuple[str, str]):
    fake.first[request_] = [(500, {})] * 100
    with pytest.raises((SDKException, ClientException)) as failed:
        servers(fake.url)
    assert fake.requests[request_] == 7
    said = explain(failed.value)
    assert said.startswith("the cloud still fails")
    assert said.endswith("Wait, and run the command again")
    assert request_ == LOGIN or f"{fake.url}/compute" in said


def test_the_pauses_add_up_to_half_a_minute(fake: Cloud, paused: list[float]):
    fake.first[SERVERS] = [(503, {})] * 100
    with pytest.raises(SDKException):
        servers(fake.url)
    assert paused == [1, 2, 4, 8, 15]


@pytest.mark.usefixtures("hasty")
def test_a_request_that_changes_something_is_not_repeated(fake: Cloud):
    fake.first[STOP] = [(500, {})] * 2
    untyped: Any = connect(provider(fake.url))
    assert untyped.compute.post("/stop").status_code == 500
    assert fake.requests[STOP] == 1


def test_refused_credentials_are_reported_at_once(fake: Cloud):
    fake.first[LOGIN] = [(401, {})] * 2
    with pytest.raises((SDKException, ClientException)) as failed:
        servers(fake.url)
    said = explain(failed.value)
    assert said.startswith("the cloud refuses the credentials, or the token has expired")
    assert "`openstack token issue`" in said
    assert "secret" not in said


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("settings", [{}, {"cloud": "nowhere"}])
def test_missing_credentials_are_reported(settings: dict[str, str]):
    with pytest.raises((SDKException, ClientException)) as failed:
        connect(settings)
    assert explain(failed.value).startswith("the cloud or its credentials are unknown")


def test_the_provider_s_endpoint_overrides_are_followed(fake: Cloud):
    overrides = {"compute": f"{fake.url}/elsewhere/v2.1/"}
    untyped: Any = connect(provider(fake.url) | {"endpointOverrides": json.dumps(overrides)})
    assert untyped.compute.get("/servers/detail").status_code == 200
    assert fake.requests["GET", "/elsewhere/v2.1/servers/detail"] == 1


@pytest.mark.parametrize("value", ["https://nova/", "[]", '{"compute": 1}', '"a"'])
def test_invalid_endpoint_overrides_are_refused(value: str):
    with pytest.raises(StackError, match="openstack:endpointOverrides") as refused:
        connect(provider("https://cloud.example") | {"endpointOverrides": value})
    assert value not in str(refused.value), "a URL may have a password in it"


def test_a_private_key_is_written_only_where_nobody_else_can_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And is gone once the process exits."""
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr("operate.stack.cloud.atexit.register", at_exit.append)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    pem = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"
    untyped: Any = connect(provider("https://cloud.example") | {"cert": pem, "key": pem})
    file = Path(untyped.session.cert[1])
    assert file.read_text() == pem
    assert (file.stat().st_mode, file.parent.stat().st_mode) == (0o100600, 0o40700)
    assert file.parent.parent == tmp_path
    for clean_up in at_exit:
        clean_up()
    assert [*tmp_path.iterdir()] == []


def test_a_certificate_may_be_a_path_or_a_file_s_content():
    """The provider accepts both; openstacksdk takes the content for a path."""
    pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
    untyped: Any = connect(provider("https://cloud.example") | {"cacertFile": pem, "cert": pem, "key": pem})
    for path in (untyped.session.verify, *untyped.session.cert):
        assert Path(path).read_text() == pem
        assert Path(path).stat().st_mode & 0o077 == 0
    untyped = connect(provider("https://cloud.example") | {"cacertFile": "/etc/ca.pem"})
    assert untyped.session.verify == "/etc/ca.pem"


@pytest.mark.usefixtures("hasty")
def test_an_unreachable_cloud_is_reported():
    with pytest.raises((SDKException, ClientException)) as failed:
        servers("http://127.0.0.1:9")
    assert explain(failed.value).startswith("the cloud cannot be reached: ")
