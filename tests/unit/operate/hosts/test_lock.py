"""The operators' lock, against a real SSH server on loopback, where a stand-in for sudo gives no rights."""

import asyncio
import subprocess
import sys
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from operate.hosts import lock
from operate.hosts.lock import hold_all
from operate.hosts.ssh import Access, HostError
from operate.stack.files import ROOT

ADDRESS = "127.0.0.1"
HOSTS = {"dev-lb-0": ADDRESS}


def new_key() -> str:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


@pytest.fixture(autouse=True)
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "operator.lock"
    monkeypatch.setattr(lock, "LOCK", str(file))
    return file


@pytest.fixture
def access(tmp_path: Path) -> Iterator[Access]:
    """Access to a host whose commands run here."""
    sudo = tmp_path / "bin" / "sudo"
    sudo.parent.mkdir()
    sudo.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    sudo.chmod(0o755)
    host_key, key = new_key(), new_key()

    async def run_here(process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = f"PATH={sudo.parent}:$PATH; {process.command}"
        shell = await asyncio.create_subprocess_shell(command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        await process.redirect(shell.stdin, shell.stdout, shell.stderr)
        ended, closed = asyncio.ensure_future(shell.wait()), asyncio.ensure_future(process.wait_closed())
        await asyncio.wait({ended, closed}, return_when=asyncio.FIRST_COMPLETED)
        if shell.stdin and not ended.done():  # as sshd does for a connection that is gone
            shell.stdin.close()
        process.exit(await ended)

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            ADDRESS,
            0,
            server_host_keys=[asyncssh.import_private_key(host_key)],
            authorized_client_keys=asyncssh.import_authorized_keys(
                asyncssh.import_private_key(key).export_public_key().decode()
            ),
            process_factory=run_here,
            encoding=None,
        )

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    acceptor = asyncio.run_coroutine_threadsafe(listen(), loop).result(5)
    port = acceptor.get_port()
    public = asyncssh.import_private_key(host_key).export_public_key().decode()
    yield Access(user="debian", private_key=key, known_hosts=f"[{ADDRESS}]:{port} {public}", port=port, patience=0)

    async def end() -> None:
        acceptor.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=5) if others else None

    asyncio.run_coroutine_threadsafe(end(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def seconds_until_free(access: Access) -> float:
    began = time.monotonic()
    while time.monotonic() - began < 10:
        try:
            with hold_all(access, HOSTS, "waiting"):
                return time.monotonic() - began
        except HostError:
            time.sleep(0.1)
    raise AssertionError("it is not free after 10 s")


def test_a_second_operator_is_refused_with_who_holds_the_lock_and_why(access: Access):
    with (
        hold_all(access, HOSTS, "drill"),
        pytest.raises(HostError, match=r"dev-lb-0 is in use by .+ on .+, drill, since 2.+UTC"),
        hold_all(access, HOSTS, "move"),
    ):
        pass


def test_the_lock_is_free_as_soon_as_the_work_ends(access: Access):
    for purpose in ("move", "drain"):
        with hold_all(access, HOSTS, purpose):
            pass


def test_an_error_releases_the_lock(access: Access):
    with pytest.raises(ZeroDivisionError), hold_all(access, HOSTS, "drill"):
        raise ZeroDivisionError
    assert seconds_until_free(access) < 1


def test_both_hosts_are_locked_or_none(access: Access):
    refused = pytest.raises(HostError, match=r"dev-lb-1 \(127.0.0.2\) cannot be locked: ConnectionRefused")
    with refused, hold_all(access, HOSTS | {"dev-lb-1": "127.0.0.2"}, "move"):
        pass
    assert seconds_until_free(access) < 1


def test_the_purpose_is_quoted_for_the_shell(access: Access, lock_file: Path):
    with hold_all(access, HOSTS, "it's $(touch /tmp/x) `id`"):
        assert "it's $(touch /tmp/x) `id`" in lock_file.read_text()


def test_a_killed_process_releases_the_lock_at_once(access: Access, lock_file: Path):
    program = (
        "import sys, time\n"
        "from operate.hosts import lock\nfrom operate.hosts.ssh import Access\n"
        "lock.LOCK, port, known_hosts = sys.argv[1:]\n"
        "access = Access(user='debian', private_key=sys.stdin.read(), known_hosts=known_hosts, port=int(port))\n"
        f"with lock.hold_all(access, {HOSTS!r}, 'drill'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", program, str(lock_file), str(access.port), access.known_hosts]
    with subprocess.Popen(arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True) as holder:
        assert holder.stdin and holder.stdout
        holder.stdin.write(access.private_key)
        holder.stdin.close()
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HostError, match="drill"), hold_all(access, HOSTS, "move"):
            pass
        holder.kill()
    assert seconds_until_free(access) < 2


def test_an_operator_without_network_loses_the_lock(access: Access, monkeypatch: pytest.MonkeyPatch):
    """Its connection stays open, but nothing arrives."""
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 1)
    monkeypatch.setattr(lock, "SIGN_OF_LIFE_SECONDS", 60)
    with hold_all(access, HOSTS, "drill"):
        assert 0.5 < seconds_until_free(access) < 3


def test_signs_of_life_keep_the_lock(access: Access, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.6)
    monkeypatch.setattr(lock, "SIGN_OF_LIFE_SECONDS", 0.1)
    with hold_all(access, HOSTS, "drill"):
        time.sleep(1.2)
        with pytest.raises(HostError, match="drill"), hold_all(access, HOSTS, "move"):
            pass
