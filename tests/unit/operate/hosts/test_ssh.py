"""Logging in to hosts, against a real SSH server on loopback."""

import asyncio
import socket
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from model.settings import BastionSettings
from operate.hosts import ssh
from operate.hosts.ssh import Access, BastionError, HostError, failure_of, on_all, output

ADDRESS = "127.0.0.1"


def new_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


HOST_KEY, OTHER_KEY = new_key(), new_key()


def known_hosts(key: bytes, port: int) -> str:
    return f"[{ADDRESS}]:{port} {asyncssh.import_private_key(key).export_public_key().decode()}"


@pytest.fixture
def access() -> Access:
    return Access(user="debian", private_key=new_key().decode(), known_hosts="", patience=0)


Forward = Callable[[str, int], Any]


class Forwarder(asyncssh.SSHServer):
    """What a bastion does with requests to forward a connection."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:  # noqa: ARG002
        return self._forward(dest_host, dest_port)


def admit(_host: str, _port: int) -> Any:
    return True


def forbid(_host: str, _port: int) -> Any:
    """As sshd with `AllowTcpForwarding no`."""
    raise asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed")


class Server:
    """An SSH server in a thread, on a loopback port: it accepts the access's key, and runs commands here."""

    def __init__(self, access: Access) -> None:
        self._key = asyncssh.import_private_key(access.private_key)
        with socket.create_server((ADDRESS, 0)) as free:
            port = int(free.getsockname()[1])
        self.access = replace(access, port=port, known_hosts=known_hosts(HOST_KEY, port))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._acceptor: asyncssh.SSHAcceptor | None = None

    def start(self, forward: Forward = lambda _host, _port: False) -> None:
        """`forward` answers a request to forward a connection, as `SSHServer.connection_requested` does."""
        listening = asyncssh.listen(
            ADDRESS,
            self.access.port,
            server_factory=partial(Forwarder, forward),
            server_host_keys=[asyncssh.import_private_key(HOST_KEY)],
            authorized_client_keys=asyncssh.import_authorized_keys(self._key.export_public_key().decode()),
            process_factory=run_here,
            encoding=None,
        )

        async def listen() -> asyncssh.SSHAcceptor:
            return await listening

        self._acceptor = asyncio.run_coroutine_threadsafe(listen(), self._loop).result(5)

    def end(self) -> None:
        if self._acceptor:
            self._loop.call_soon_threadsafe(self._acceptor.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


HANG_UP, FREEZE = "hang up", "freeze"
"""Instead of a command: the host goes down before it has ended; the host answers nothing until it is thawed."""
THAWED = threading.Event()


async def run_here(process: asyncssh.SSHServerProcess[bytes]) -> None:
    if process.command == HANG_UP:
        process.stdout.write(b"half an answer\n")
        process.get_extra_info("connection").abort()
        return
    if process.command == FREEZE:
        THAWED.wait(20)  # it blocks the whole server
        process.exit(0)
        return
    shell = await asyncio.create_subprocess_shell(process.command or "", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    out, err = await shell.communicate(await process.stdin.read())
    process.stdout.write(out)
    process.stderr.write(err)
    process.exit(shell.returncode or 0)


@pytest.fixture
def server(access: Access) -> Iterator[Server]:
    server = Server(access)
    yield server
    server.end()


def test_a_command_gets_its_input_and_returns_its_output(server: Server) -> None:
    server.start()

    async def shout() -> str:
        async with server.access.connect(ADDRESS) as connection:
            return await output(connection, "tr a-z A-Z", b"hello\n")

    assert asyncio.run(shout()) == "HELLO"


def test_a_command_whose_connection_ended_first_has_not_succeeded(server: Server) -> None:
    server.start()
    with pytest.raises(asyncssh.ConnectionLost, match=r"ended before the command.*may still be running"):
        asyncio.run(server.access.run(ADDRESS, HANG_UP))


def test_a_host_that_answers_nothing_any_more_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "KEEPALIVE_SECONDS", 0.1)
    server.start()
    # After its 20 s it would answer.
    with pytest.raises(asyncssh.ConnectionLost):
        asyncio.run(server.access.run(ADDRESS, FREEZE))
    THAWED.set()


def test_a_host_that_is_still_booting_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "RETRY_SECONDS", 0.1)
    patient = replace(server.access, patience=10)
    later = threading.Timer(0.2, server.start)
    later.start()
    assert asyncio.run(patient.run(ADDRESS, "echo up")) == "up"
    later.join()


def test_a_host_that_never_answers_times_out(server: Server) -> None:
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(server.access.run(ADDRESS, "true"))


def test_a_wrong_host_key_is_refused_at_once(server: Server) -> None:
    server.start()
    wrong = replace(server.access, known_hosts=known_hosts(OTHER_KEY, server.access.port), patience=60)
    began = time.monotonic()
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        asyncio.run(wrong.run(ADDRESS, "true"))
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("host", ["2001:db8::1", "jump_host.corp", "198.51.100.7"])
@pytest.mark.parametrize("port", [22, 2222])
def test_a_bastion_s_key_is_found_by_its_address_and_port(host: str, port: int) -> None:
    public = asyncssh.import_private_key(HOST_KEY).export_public_key().decode().strip()
    bastion = BastionSettings(host=host, port=port, user="debian", host_key=public)
    known = asyncssh.import_known_hosts(bastion.known_hosts)
    # asyncssh looks for a name without a port if it is the usual one.
    keys = known.match(host, "", None if port == 22 else port)[0]
    assert [key.export_public_key().decode().strip() for key in keys] == [public]
    assert not known.match(host, "", 2200)[0] or port == 22


@pytest.fixture
def bastion(access: Access) -> Iterator[Server]:
    """A bastion, in front of the server, with the same key."""
    bastion = Server(access)
    yield bastion
    bastion.end()


def behind(bastion: Server, host: Access, *, key: bytes = HOST_KEY) -> Access:
    """A host's access, through a bastion of which this host key is known."""
    public = asyncssh.import_private_key(key).export_public_key().decode().strip()
    return replace(host, bastion=BastionSettings(host=ADDRESS, port=bastion.access.port, user="jump", host_key=public))


def test_a_host_is_reached_through_a_bastion(server: Server, bastion: Server) -> None:
    server.start()
    bastion.start(admit)
    assert asyncio.run(behind(bastion, server.access).run(ADDRESS, "echo up")) == "up"


def test_a_bastion_that_lets_nothing_through_is_named(server: Server, bastion: Server) -> None:
    server.start()
    through = behind(bastion, server.access)

    def error(access: Access) -> str:
        with pytest.raises(BastionError) as failed:
            asyncio.run(access.run(ADDRESS, "true"))
        return failure_of(failed.value)

    named = f"the bastion {ADDRESS}: "
    assert error(through).startswith(f"{named}does not answer on port {bastion.access.port} (ConnectionRefused")
    assert error(through).endswith("; start it, or correct bastionHost or bastionPort")
    bastion.start(forbid)
    assert error(through).startswith(f"{named}does not forward connections for jump (ChannelOpenError: ")
    assert "AllowTcpForwarding" in error(through)
    assert error(behind(bastion, server.access, key=OTHER_KEY)).startswith(f"{named}its host key is not bastionHostKey")
    stranger = replace(through, private_key=OTHER_KEY.decode())
    assert error(stranger).startswith(f"{named}refuses jump with sshPrivateKey")


def test_a_bastion_is_not_blamed_for_the_host_behind_it(server: Server, bastion: Server) -> None:
    bastion.start(admit)
    through = behind(bastion, server.access)
    with pytest.raises(asyncssh.ChannelOpenError):
        asyncio.run(through.run(ADDRESS, "true"))
    server.start()
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        asyncio.run(replace(through, known_hosts=known_hosts(OTHER_KEY, through.port)).run(ADDRESS, "true"))


def test_host_and_bastion_may_be_booting(server: Server, bastion: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "RETRY_SECONDS", 0.1)
    patient = replace(behind(bastion, server.access), patience=20)
    starts = [threading.Timer(0.2, bastion.start, [admit]), threading.Timer(0.6, server.start)]
    for it in starts:
        it.start()
    assert asyncio.run(patient.run(ADDRESS, "echo up")) == "up"
    for it in starts:
        it.join()


def test_a_bastion_that_refuses_is_not_asked_again(server: Server, bastion: Server) -> None:
    server.start()
    bastion.start(forbid)
    began = time.monotonic()
    with pytest.raises(BastionError):
        asyncio.run(replace(behind(bastion, server.access), patience=60).run(ADDRESS, "true"))
    assert time.monotonic() - began < 30


def test_all_failures_are_reported_with_host_and_reason(server: Server) -> None:
    server.start()
    access = server.access

    async def act(address: str) -> None:
        await access.run(ADDRESS, "echo no space left >&2; exit 3" if address == "cp-2" else "true")

    with pytest.raises(HostError) as failed:
        on_all(["cp-1", "cp-2"], act)
    assert str(failed.value) == "cp-2: 'echo no space left >&2; exit 3' ended with status 3: no space left"


def test_an_exception_without_text_is_reported_by_name():
    assert failure_of(TimeoutError()) == "TimeoutError"
    assert failure_of(OSError("no route")) == "OSError: no route"
