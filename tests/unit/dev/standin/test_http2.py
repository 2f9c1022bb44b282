"""The stand-in API server over HTTP/2, with the client of the bench."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.bench import held
from dev.bench.held import Http2Watch, tls_context
from dev.standin import apiserver
from dev.standin.certificate import self_signed
from dev.standin.http2 import Http2Server

SECONDS = 20


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    pair = self_signed("kubernetes", ["127.0.0.1"])
    certificate = tmp_path / "tls.pem"
    certificate.write_bytes(pair.certificate + pair.key)
    tls = apiserver.tls_context(certificate, certificate)
    with Http2Server(("127.0.0.1", 0), tls, tmp_path / "health", "cp-1") as server:
        threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


async def opened(port: int) -> Http2Watch:
    context = tls_context(*Http2Watch.protocols)
    watch = Http2Watch(*await asyncio.open_connection("127.0.0.1", port, ssl=context))
    await watch.begin()
    return watch


def test_a_watch_is_silent_until_it_has_to_show_that_it_works(port: int):
    async def run() -> None:
        watch = await opened(port)
        holding = asyncio.create_task(watch.hold())
        assert await watch.works()  # And so the settings of both have arrived.
        heard = len(watch.heard)
        await asyncio.sleep(0.3)
        assert len(watch.heard) == heard
        assert watch.backend == "cp-1"
        assert await watch.works()
        assert len(watch.heard) > heard
        holding.cancel()
        watch.abort()

    asyncio.run(asyncio.wait_for(run(), SECONDS))


def test_pings_keep_a_watch_that_works_and_end_one_whose_server_is_silent(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(held, "READ_IDLE_SECONDS", 0.1)
    monkeypatch.setattr(held, "PING_SECONDS", 2.0)

    async def run() -> None:
        watch = await opened(port)
        holding = asyncio.create_task(watch.hold())
        await asyncio.sleep(0.5)
        assert not holding.done()
        # From now on no answer arrives, as if the server's host was gone.
        monkeypatch.setattr(watch, "_send", lambda: None)
        monkeypatch.setattr(held, "PING_SECONDS", 0.1)
        with pytest.raises(TimeoutError):
            await holding
        watch.abort()

    asyncio.run(asyncio.wait_for(run(), SECONDS))


def test_one_that_does_not_offer_it_gets_http_1(port: int):
    async def run() -> str | None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls_context("http/1.1"))
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        writer.transport.abort()
        return tls.selected_alpn_protocol()

    assert asyncio.run(run()) == "http/1.1"
