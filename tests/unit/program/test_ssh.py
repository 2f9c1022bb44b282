"""What the program makes of ssh's own words about a bastion: the real ssh, and an SSH server on loopback."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import OPEN_CONNECT_FAILED

from components.ssh import bastion_trouble, run_script
from model.settings import BastionSettings
from operate.hosts.ssh import Access
from tests.unit.operate.hosts.test_ssh import ADDRESS, HOST_KEY, OTHER_KEY, Server, admit, forbid, new_key

HOST = "198.51.100.20"


async def banner(_reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    writer.close()


def reach(host: str, port: int) -> Any:
    """A host's sshd answers, and hangs up."""
    assert (host, port) == (HOST, 22)
    return banner


def no_answer(_host: str, _port: int) -> Any:
    raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "Connection refused")


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(Access(user="", private_key=new_key().decode(), known_hosts="", patience=0))
    yield server
    server.end()


def trouble(server: Server, key: bytes = HOST_KEY, login: bytes | None = None) -> str:
    """As seen with the bastion's host key `key`, and the private key `login`."""
    found = bastion_trouble(settings(server, key), login.decode() if login else server.access.private_key, HOST)
    assert found is None or found.startswith(f"the bastion {ADDRESS}: ")
    return found or ""


def settings(server: Server, key: bytes = HOST_KEY) -> BastionSettings:
    public = asyncssh.import_private_key(key).export_public_key().decode().strip()
    return BastionSettings(host=ADDRESS, port=server.access.port, user="jump", host_key=public)


def test_a_bastion_that_reaches_the_host_has_no_trouble(server: Server):
    server.start(reach)
    assert trouble(server) == ""


def test_a_host_that_does_not_answer_is_not_the_bastion_s_trouble(server: Server):
    server.start(no_answer)
    assert trouble(server) == ""


def test_a_bastion_that_is_down_is_named(server: Server):
    assert f"does not answer on port {server.access.port} (" in trouble(server)
    assert trouble(server).endswith("Connection refused); start it, or correct bastionHost or bastionPort")


def test_a_bastion_with_another_host_key_is_named(server: Server):
    server.start(reach)
    found = trouble(server, key=OTHER_KEY)
    assert "its host key is not bastionHostKey (" in found
    assert f"ssh-keyscan -p {server.access.port} {ADDRESS}" in found


def test_a_bastion_that_refuses_the_login_is_named(server: Server):
    server.start(reach)
    assert "refuses jump with sshPrivateKey (jump@127.0.0.1: Permission denied" in trouble(server, login=OTHER_KEY)


def test_a_bastion_that_forwards_nothing_is_named(server: Server):
    server.start(forbid)
    found = trouble(server)
    assert "does not forward connections for jump (" in found
    assert "AllowTcpForwarding" in found


def test_a_script_runs_as_root_through_the_bastion(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The server is both: the bastion, and the host, which has a sudo of its own here."""
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$1" = -n ] && shift && exec "$@"\n')
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server.start(admit)
    login = f"ssh://debian@{ADDRESS}:{server.access.port}"
    done = run_script(
        login, settings(server), server.access.private_key, f"{server.access.known_hosts}\n", "echo done; exit 3"
    )
    assert (done.stdout, done.returncode) == ("done\n", 3), done.stderr
