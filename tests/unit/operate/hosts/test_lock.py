"""The operators' lock, against a real SSH server on loopback, where a stand-in for sudo gives no rights."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncssh
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from operate.hosts import lock
from operate.hosts.lock import Lock, hold_all
from operate.hosts.ssh import Access, HostError
from operate.stack.files import ROOT
from tests.unit.waiting import wait_until

ADDRESS, OTHER = "127.0.0.1", "127.0.0.2"
HOSTS = {"dev-lb-0": ADDRESS}
BOTH = HOSTS | {"dev-lb-1": OTHER}


def new_key() -> str:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


@pytest.fixture(autouse=True)
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "operator.lock"
    monkeypatch.setattr(lock, "LOCK", str(file))
    return file


@pytest.fixture
def access(tmp_path: Path) -> Iterator[Access]:
    """Access to two hosts whose commands run here; each has a lock file of its own."""
    sudo = tmp_path / "bin" / "sudo"
    sudo.parent.mkdir()
    sudo.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    sudo.chmod(0o755)
    host_key, key = new_key(), new_key()

    async def run_here(process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = f"PATH={sudo.parent}:$PATH; {process.command}"
        if process.get_extra_info("sockname")[0] == OTHER:
            command = command.replace(".lock", ".other")
        shell = await asyncio.create_subprocess_shell(command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        await process.redirect(shell.stdin, shell.stdout, shell.stderr)
        ended, closed = asyncio.ensure_future(shell.wait()), asyncio.ensure_future(process.wait_closed())
        await asyncio.wait({ended, closed}, return_when=asyncio.FIRST_COMPLETED)
        if shell.stdin and not ended.done():  # as sshd does for a connection that is gone
            shell.stdin.close()
        process.exit(await ended)

    async def listen(address: str, port: int = 0) -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            address,
            port,
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
    acceptor = asyncio.run_coroutine_threadsafe(listen(ADDRESS), loop).result(5)
    port = acceptor.get_port()
    other = asyncio.run_coroutine_threadsafe(listen(OTHER, port), loop).result(5)
    public = asyncssh.import_private_key(host_key).export_public_key().decode()
    yield Access(
        user="debian",
        private_key=key,
        known_hosts=f"[{ADDRESS}]:{port},[{OTHER}]:{port} {public}",
        port=port,
        patience=0,
    )

    async def end() -> None:
        acceptor.close()
        other.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=0.5)
            # A process that was killed never reads its input to the end, and asyncssh waits for that.
            for it in others:
                it.cancel()
            await asyncio.wait(others, timeout=5)

    asyncio.run_coroutine_threadsafe(end(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def wait_until_free(access: Access) -> None:
    """Not for as long as a host waits for signs of life before it frees the lock by itself (20 s)."""

    def free() -> bool:
        with suppress(HostError), hold_all(access, HOSTS, "waiting"):
            return True
        return False

    wait_until("it is free", free, 10)


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
    wait_until_free(access)


def test_both_hosts_are_locked_or_none(access: Access):
    refused = pytest.raises(HostError, match=r"dev-lb-1 \(127.0.0.3\) cannot be locked: ConnectionRefused")
    with refused, hold_all(access, HOSTS | {"dev-lb-1": "127.0.0.3"}, "move"):
        pass
    wait_until_free(access)


def test_a_host_that_is_spared_need_not_be_reachable(access: Access):
    with hold_all(access, HOSTS | {"dev-lb-1": "127.0.0.3"}, "rebuild of dev-lb-1", spared="dev-lb-1") as held:
        assert held.held == HOSTS.keys()
        held.check()
    refused = pytest.raises(HostError, match=r"dev-lb-1 \(127.0.0.3\) cannot be locked")
    with refused, hold_all(access, HOSTS | {"dev-lb-1": "127.0.0.3"}, "rebuild of dev-lb-0", spared="dev-lb-0"):
        pass


@pytest.mark.parametrize("name", BOTH)
def test_two_operators_who_each_rebuild_a_load_balancer_are_refused(access: Access, name: str):
    with (
        hold_all(access, BOTH, "rebuild of dev-lb-1", spared="dev-lb-1"),
        pytest.raises(HostError, match=r"is in use by .*, rebuild of dev-lb-1"),
        hold_all(access, {name: BOTH[name]}, "rebuild", spared=name),
    ):
        pass


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
    wait_until_free(access)


def test_an_operator_without_network_loses_the_lock(access: Access, monkeypatch: pytest.MonkeyPatch):
    """Its connection stays open, but nothing arrives."""
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 1)
    monkeypatch.setattr(lock, "SIGN_OF_LIFE_SECONDS", 60)
    began = time.monotonic()
    with hold_all(access, HOSTS, "drill"):
        wait_until_free(access)
    assert time.monotonic() - began >= lock.SILENCE_SECONDS


def test_signs_of_life_keep_the_lock(access: Access, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 2)
    monkeypatch.setattr(lock, "SIGN_OF_LIFE_SECONDS", 0.1)
    with hold_all(access, HOSTS, "drill") as held:
        time.sleep(2.3)
        held.check()
        with pytest.raises(HostError, match="drill"), hold_all(access, HOSTS, "move"):
            pass


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    hurried = {"SILENCE_SECONDS": 2, "SIGN_OF_LIFE_SECONDS": 0.1, "RETRY_SECONDS": 0.1, "ANSWER_SECONDS": 3}
    for name, seconds in hurried.items():
        monkeypatch.setattr(lock, name, seconds)


REFUSALS_SECONDS = 0.5
"""Time for several attempts to take a lock again, less than `hasty` allows for them all."""


def signal_on_host(lock_file: Path, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to the process that holds a lock on the host, but not to who waits for it."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(folder.name)) == os.getsid(0) and any(
                link.readlink() == lock_file for link in (folder / "fd").iterdir()
            ):
                os.kill(int(folder.name), number)


def until_lost(held: Lock) -> str:
    said: list[str] = []

    def lost() -> bool:
        try:
            held.check()
        except HostError as error:
            said.append(str(error))
        return bool(said)

    wait_until("the lock is lost", lost)
    return said[0]


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGKILL, "its connection ended, or the host went down"), (signal.SIGSTOP, "has not answered for")],
    ids=["session ended", "host hangs"],
)
@pytest.mark.usefixtures("hasty")
def test_an_operator_notices_that_the_lock_was_lost(
    access: Access, lock_file: Path, number: signal.Signals, reason: str
):
    with hold_all(access, HOSTS, "drain") as held:
        held.check()
        signal_on_host(lock_file, number)
        said = until_lost(held)
        signal_on_host(lock_file)
    assert "dev-lb-0: " in said
    assert reason in said
    assert "`./ha status`" in said


@pytest.mark.usefixtures("hasty")
def test_a_lock_that_ends_with_its_host_is_taken_again_while_the_other_host_s_is_held(access: Access, lock_file: Path):
    """As during a drill that stops an instance. Then the other host's may end too."""
    with hold_all(access, BOTH, "drill") as held:
        for file in (lock_file, lock_file.with_suffix(".other")) * 2:
            before = file.stat().st_mtime_ns
            signal_on_host(file)
            wait_until("it is taken again", lambda file=file, before=before: file.stat().st_mtime_ns > before)
            wait_until("it is held", lambda: held.held == BOTH.keys())
        held.check()
        with pytest.raises(HostError, match="is in use by"), hold_all(access, BOTH, "move"):
            pass


@contextmanager
def next_in_line(lock_file: Path, signature: str) -> Generator[None]:
    """A process on the host gets the lock as soon as it is free, before anybody else, and keeps it meanwhile."""
    take = 'exec 9<>"$1"; flock --timeout 20 9 && printf %s "$2" >"$1" && exec sleep 20'
    command = ["bash", "-c", take, "bash", lock_file, signature]
    waiting = re.compile(rf"-> FLOCK .*:{lock_file.stat().st_ino} ")
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            wait_until("it waits", lambda: bool(waiting.search(Path("/proc/locks").read_text())))
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.usefixtures("hasty")
def test_a_lock_that_another_operator_takes_meanwhile_is_lost(
    access: Access, lock_file: Path, monkeypatch: pytest.MonkeyPatch
):
    with (
        hold_all(access, BOTH, "drill") as held,
        next_in_line(lock_file, "ada on desk, rebuild of dev-lb-1, since today"),
    ):
        monkeypatch.setattr(lock, "ANSWER_SECONDS", 1)
        signal_on_host(lock_file)
        assert "dev-lb-0 is in use by ada on desk, rebuild of dev-lb-1" in until_lost(held)


@pytest.mark.usefixtures("hasty")
def test_an_operator_who_is_refused_on_the_other_host_does_not_end_the_work(access: Access, lock_file: Path):
    """For a moment it has the lock of a host that was booting."""
    with hold_all(access, BOTH, "drill") as held:
        with next_in_line(lock_file, "ada on desk, move, since today"):
            signal_on_host(lock_file)
            wait_until("it is noticed", lambda: len(held.held) == 1)
            time.sleep(REFUSALS_SECONDS)
        wait_until("it is held", lambda: held.held == BOTH.keys())
        held.check()


@pytest.mark.usefixtures("hasty")
def test_after_the_work_nothing_is_held(access: Access):
    with hold_all(access, BOTH, "drill") as held:
        assert held.held == BOTH.keys()
    assert held.held == set()


def test_the_operator_notices_a_lost_network_before_the_host_frees_the_lock(monkeypatch: pytest.MonkeyPatch):
    """Even if the last sign of life that arrived took as long as the pause between two."""
    waited: list[float] = []
    wait = asyncio.timeout

    def at_once(seconds: float) -> asyncio.Timeout:
        waited.append(seconds)
        return wait(0)

    async def nothing(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio, "timeout", at_once)
    silent: Any = SimpleNamespace(
        wait_closed=nothing, stdin=SimpleNamespace(write=len), stdout=SimpleNamespace(readline=nothing)
    )
    assert "has not answered" in asyncio.run(lock._live(silent))  # pyright: ignore[reportPrivateUsage]
    assert sum(waited) + lock.SIGN_OF_LIFE_SECONDS <= lock.SILENCE_SECONDS


@pytest.mark.usefixtures("hasty")
def test_a_host_that_still_waits_for_our_lost_connection_is_not_another_operator_s(access: Access, lock_file: Path):
    with hold_all(access, BOTH, "drill") as held:
        with next_in_line(lock_file, lock_file.read_text()):
            signal_on_host(lock_file)
            wait_until("it is noticed", lambda: len(held.held) == 1)
            time.sleep(REFUSALS_SECONDS)
            held.check()
        wait_until("it is held", lambda: held.held == BOTH.keys())
        held.check()


@pytest.mark.usefixtures("hasty")
def test_the_lock_is_lost_with_the_last_host_s_and_not_taken_again(access: Access, lock_file: Path):
    with hold_all(access, HOSTS, "drill") as held:
        signal_on_host(lock_file)
        until_lost(held)
        time.sleep(0.5)
        wait_until_free(access)
        with pytest.raises(HostError, match="was lost"):
            held.check()
