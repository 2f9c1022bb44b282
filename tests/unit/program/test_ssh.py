"""What the program makes of ssh's own words about a bastion: the real ssh, and an SSH server on loopback."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import OPEN_CONNECT_FAILED
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from components.ssh import bastion_problem, run_script
from model.settings import BastionSettings, Settings
from operate.hosts.ssh import Access
from tests.unit.example import example_values
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


def problem(server: Server, key: bytes = HOST_KEY, login: bytes | None = None) -> str:
    """As seen with the bastion's host key `key`, and the private key `login`."""
    found = bastion_problem(settings(server, key), login.decode() if login else server.access.private_key, HOST)
    assert found is None or found.startswith(f"the bastion {ADDRESS}: ")
    return found or ""


def settings(server: Server, key: bytes = HOST_KEY) -> BastionSettings:
    public = asyncssh.import_private_key(key).export_public_key().decode().strip()
    return BastionSettings(host=ADDRESS, port=server.access.port, user="jump", host_key=public)


def test_a_bastion_that_reaches_the_host_has_no_problem(server: Server):
    server.start(reach)
    assert problem(server) == ""


def test_a_host_that_does_not_answer_is_not_the_bastion_s_problem(server: Server):
    server.start(no_answer)
    assert problem(server) == ""


def test_a_bastion_that_is_down_is_named(server: Server):
    assert f"does not answer on port {server.access.port} (" in problem(server)
    assert problem(server).endswith("Connection refused); start it, or correct bastionHost or bastionPort")


def test_a_bastion_with_another_host_key_is_named(server: Server):
    server.start(reach)
    found = problem(server, key=OTHER_KEY)
    assert "its host key is not bastionHostKey (" in found
    assert f"ssh-keyscan -p {server.access.port} {ADDRESS}" in found


def test_a_bastion_that_refuses_the_login_is_named(server: Server):
    server.start(reach)
    assert "refuses jump with sshPrivateKey (jump@127.0.0.1: Permission denied" in problem(server, login=OTHER_KEY)


def test_a_bastion_that_forwards_nothing_is_named(server: Server):
    server.start(forbid)
    found = problem(server)
    assert "does not forward connections for jump (" in found
    assert "AllowTcpForwarding" in found


ED25519, ECDSA = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize(
    ("key", "form"),
    [
        (ED25519, PrivateFormat.OpenSSH),
        (ED25519, PrivateFormat.PKCS8),
        (ECDSA, PrivateFormat.PKCS8),
        (RSA, PrivateFormat.TraditionalOpenSSL),
    ],
    ids=["ed25519", "ed25519-pkcs8", "ecdsa-pkcs8", "rsa-traditional"],
)
def test_ssh_can_read_every_key_that_the_settings_accept(
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    form: PrivateFormat,
    line_end: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """In ssh's place, the real ssh-keygen reads the file that `ssh -F none -i FILE` gets."""
    private = key.private_bytes(Encoding.PEM, form, NoEncryption()).decode().replace("\n", line_end)
    Settings.parse(example_values(sshPrivateKey=private, publicKey=public_line(key)))
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nexec ssh-keygen -y -f "$4"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = run_script("debian@host", None, private, "", "")
    assert done.stdout.strip() == public_line(key), done.stderr


def public_line(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


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
