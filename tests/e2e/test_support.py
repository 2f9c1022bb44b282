"""`./ha status` and `./ha support-bundle` on a real pair: what they report, and that no secret is in it.

The tests are one story and run in the order of the file; each leaves the pair whole.
"""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dev.lab_stack import environment, ssh_key
from dev.standin.certificate import self_signed
from dev.standin.hosts import FOLDER, UNIT
from operate.hosts.lock import hold
from operate.hosts.pair import wait_for
from operate.stack.files import ROOT
from operate.support.redaction import SHORTEST_LINE
from tests.e2e.harness import Ended, System, ha

VRRP_PASSWORD = "s3cr8t-x"  # noqa: S105
CLIENT = self_signed("support-client", [])
CLIENT_PEM = (CLIENT.certificate + CLIENT.key).decode()
CONTROL_PLANE = "watched-cp-0"


@pytest.fixture(scope="module")
def system(watched: System) -> Generator[System]:
    """The pair, now with secrets in its configuration."""
    watched.up(vrrpPassword=VRRP_PASSWORD, apiClientCertificate=CLIENT_PEM)
    watched.wait_until_whole()
    yield watched
    assert watched.problems() == []


def status(system: System) -> Ended:
    """`./ha status`, whatever it finds."""
    return ha("status", stack=system.name)


def status_json(system: System) -> Any:
    return json.loads(system.ha("status", "--json").stdout)


def test_status_reports_the_pair_within_seconds(system: System):
    # So that the API server is among the last changes.
    system.stand_ins().stop()
    wait_for("the load balancers notice", lambda: bool(system.problems()), 30)
    system.stand_ins().start()
    system.wait_until_whole()
    began = time.monotonic()
    done = status(system)
    assert time.monotonic() - began < 10, "on a busy machine; some two seconds else"
    assert done.returncode == 0
    holder = system.pair.holder()
    assert done.stdout.startswith(f"{holder} has held the VIP since ")
    assert "\x1b" not in done.stdout, "no colours for a pipe"
    for expected in ("L7OK", "Debian GNU/Linux 13", "VI_1 is now MASTER", f"{CONTROL_PLANE} is UP"):
        assert expected in done.words
    found = status_json(system)
    assert found["healthy"]
    assert found["holders"].keys() == {holder}
    assert found["certificates"].keys() == {CONTROL_PLANE}
    for host in found["hosts"].values():
        assert host["state"]["versions"]["keepalived"].startswith("2.")
        assert host["notes"] == []

    def codes() -> set[int | None]:
        hosts = status_json(system)["hosts"].values()
        return {host["state"]["haproxy"]["api_servers"][CONTROL_PLANE]["code"] for host in hosts}

    # HAProxy forgets the last answer's code when it asks again.
    wait_for("no look falls into a health check", lambda: codes() == {200}, 30)


def test_status_notes_another_operator_and_a_reboot_that_is_due(system: System):
    first, second = system.outputs.load_balancers
    system.do(second, "echo libc6 | sudo tee /run/reboot-required.pkgs && sudo touch /run/reboot-required")

    async def look_while_locked() -> Ended:
        async with hold(system.access, first, system.outputs.load_balancers[first], "a test"):
            return await asyncio.to_thread(status, system)

    try:
        done = asyncio.run(look_while_locked())
    finally:
        system.run(second, "sudo rm /run/reboot-required /run/reboot-required.pkgs")
    assert done.returncode == 0, "neither is a problem"
    assert f"{first}: in use by " in done.words
    assert f"{second}: reboot required (libc6)" in done.words
    assert "note" not in status(system).words


@pytest.mark.extended
def test_status_reports_a_certificate_that_expires_soon(system: System):
    address = system.outputs.control_plane[CONTROL_PLANE]
    short = self_signed(CONTROL_PLANE, [address, system.outputs.vip], timedelta(days=5))
    old = {name: str(system.run(CONTROL_PLANE, f"sudo cat {FOLDER}/{name}").stdout) for name in ("tls.crt", "tls.key")}

    def install(crt: str, key: str) -> None:
        for name, text in (("tls.crt", crt), ("tls.key", key)):
            system.write(CONTROL_PLANE, f"{FOLDER}/{name}", text)
        system.do(CONTROL_PLANE, f"sudo systemctl restart {UNIT}")

    install(short.certificate.decode(), short.key.decode())
    try:
        done = status(system)
    finally:
        install(old["tls.crt"], old["tls.key"])
    assert done.returncode == 1
    assert done.words.count(f"the certificate of API server {CONTROL_PLANE} expires in 4 days") == 1
    assert "sudo kubeadm certs renew all" in done.words
    system.wait_until_whole()


def secret_parts() -> list[str]:
    """Every secret of the stack's configuration, line by line."""
    texts = (VRRP_PASSWORD, CLIENT.key.decode(), ssh_key().private)
    lines = [line for text in texts for line in text.splitlines() if len(line) >= SHORTEST_LINE]
    return [line for line in lines if not line.startswith("-----")]


def plant(system: System, host: str) -> None:
    """Every secret into the journal of a host, and into files beside HAProxy's own."""
    everything = "\n".join(
        (
            f"the password is {VRRP_PASSWORD}!",
            CLIENT_PEM,
            ssh_key().private,
            "https://u:hunter2@proxy/",
            'http-request set-header Authorization "Basic dTpodW50ZXIy"',
            "Environment=AWS_SECRET_ACCESS_KEY=hunter2 SMTP_PASS=hunter2 LANG=C",
        )
    )
    system.run(host, "logger --tag vrrp", everything)
    # HAProxy does not read them, and a bundle has their paths only.
    system.run(host, "sudo tee /etc/haproxy/notes.cfg /etc/haproxy/notes.txt >/dev/null", everything)
    passwords = "Set the following 'random' passwords\nroot:hunter2\ndebian:hunter2\n"
    system.run(host, "sudo tee /dev/console >/dev/null", passwords)


def test_a_bundle_has_what_is_needed_and_no_secret(system: System, tmp_path: Path):
    first, second = system.outputs.load_balancers
    plant(system, first)
    try:
        done, texts = system.bundle(tmp_path / "bundle.tar.gz")
    finally:
        system.run(first, "sudo rm /etc/haproxy/notes.cfg /etc/haproxy/notes.txt")
    assert done.stdout.strip() == str(tmp_path / "bundle.tar.gz")
    for name in (first, second):
        assert b"auth_pass [redacted]" in texts[f"{name}/files/etc/keepalived/keepalived.conf"]
        assert b"VI_1 is now" in texts[f"{name}/journal/vrrp.log"]
        assert b"haproxy_server_status" in texts[f"{name}/haproxy/metrics.txt"]
        assert b"table inet firewalld" in texts[f"{name}/commands/nft-ruleset.txt"]
        assert b"net.ipv4.ip_nonlocal_bind = 1" in texts[f"{name}/commands/sysctl.txt"]
        assert b"Id=keepalived.service" in texts[f"{name}/commands/systemctl-show.txt"]
        assert f"{name}/files/etc/haproxy/haproxy.cfg" in texts
        assert f"{name}/files/etc/haproxy/ha-api/client.pem" not in texts
    for other in ("/etc/haproxy/notes.cfg", "/etc/haproxy/notes.txt"):
        assert f"{first}/files{other}" not in texts
        assert other.encode() in texts[f"{first}/commands/paths.txt"].splitlines()
    assert b"the password is [redacted]!" in texts[f"{first}/journal/vrrp.log"]
    for kept in (b"[redacted]@proxy", b"set-header Authorization [redacted]", b"AWS_SECRET_ACCESS_KEY=[redacted]"):
        assert kept in texts[f"{first}/journal/vrrp.log"]
    assert b"debian:[redacted]" in texts[f"cloud/console-{first}.log"]
    assert all(isinstance(it, str) for update in json.loads(texts["stack/history.json"]) for it in update["config"])
    assert json.loads(texts["stack/configuration.json"])["openstack-ha-api:vrrpPassword"] == {"secret": True}
    assert {port["name"] for port in json.loads(texts["cloud/ports.json"])} >= {first, second, "watched-vip"}
    assert json.loads(texts["status/status.json"])["healthy"]
    everything = b"\0".join([*map(str.encode, texts), *texts.values()])
    assert [part for part in secret_parts() if part.encode() in everything] == []
    assert b"PRIVATE KEY" not in everything
    assert b"hunter2" not in everything
    assert b"dTpodW50ZXIy" not in everything


@contextmanager
def full_disk(system: System, host: str) -> Generator[None]:
    fill = "dd if=/dev/zero of=/fill bs=64k oflag=append conv=notrunc status=none; sync"
    system.run(host, f"sudo sh -c 'for turn in 1 2 3; do {fill}; done' 2>/dev/null; true")
    try:
        yield
    finally:
        system.run(host, "sudo rm /fill")


@pytest.mark.extended
def test_a_full_disk_on_a_host_is_reported_and_a_bundle_still_works(system: System, tmp_path: Path):
    first, _ = system.outputs.load_balancers
    with full_disk(system, first):
        assert str(system.run(first, "df --output=avail / | tail -n 1").stdout).strip() == "0"
        done = status(system)
        _, texts = system.bundle(tmp_path / "bundle.tar.gz")
    assert done.returncode == 1
    assert f"{first}: / is nearly full" in done.words
    assert b"100% /" in texts[f"{first}/commands/disks.txt"]
    assert b"VI_1 is now" in texts[f"{first}/journal/vrrp.log"]


def test_a_full_disk_here_leaves_no_partial_archive(system: System, tmp_path: Path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path], check=True)
    try:
        done = system.ha("support-bundle", "--output", tmp_path / "bundle.tar.gz", status=2)
        left = [*tmp_path.iterdir()]
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert "cannot be written: No space left on device" in done.words
    assert left == []


def test_an_instance_that_is_down_is_reported_and_watched_until_it_is_back(system: System, tmp_path: Path):
    holder = system.pair.holder()
    standby = system.pair.peer_of(holder)
    seen = tmp_path / "watch.txt"

    def latest() -> str:
        return " ".join(seen.read_text().rpartition(f"{holder} has held the VIP since")[2].split())

    with seen.open("w") as file:
        watching = subprocess.Popen(
            [ROOT / "ha", "status", "--stack", system.name, "--watch"],
            env=os.environ | environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for("the pair is seen whole", lambda: "BACKUP for" in latest(), 20)
        system.pair.stop(standby)
        wait_for("it is seen down", lambda: f"{standby}: not reachable" in latest(), 30)
        down = status(system)
        no_cloud = {"OS_CLIENT_CONFIG_FILE": str(tmp_path / "none.yaml"), "OS_CLOUD": ""}
        blind = ha("status", stack=system.name, env=no_cloud)
        _, texts = system.bundle(tmp_path / "bundle.tar.gz", env=no_cloud)
        system.pair.start(standby)
        system.pair.wait_until_whole()
        wait_for("it is seen again", lambda: "BACKUP for" in latest(), 60)
    finally:
        system.pair.start(standby)
        system.pair.wait_until_whole()
        os.killpg(watching.pid, signal.SIGINT)
        assert watching.wait(20) == 0
    assert "Traceback" not in seen.read_text()
    assert down.returncode == blind.returncode == 1
    assert f"{standby}: its instance is SHUTOFF: `openstack server start " in down.words
    assert f"{standby}: not reachable" in down.words
    assert "the cloud could not be queried for its instance" in blind.words
    assert texts[f"{standby}/unavailable.txt"]
    assert texts["cloud/unavailable.txt"]
    assert b"VI_1 is now" in texts[f"{holder}/journal/vrrp.log"]
    system.wait_until_whole()


@pytest.mark.parametrize("command", ["status", "support-bundle"])
def test_an_unreadable_stack_is_reported_with_status_2(system: System, command: str):
    wrong = ha(command, stack="lab-nonsense")
    assert wrong.returncode == 2
    assert "no stack named 'lab-nonsense' found" in wrong.words
    other = {"PULUMI_CONFIG_PASSPHRASE_FILE": "", "PULUMI_CONFIG_PASSPHRASE": "not this one"}
    locked = ha(command, stack=system.name, env=other)
    assert locked.returncode == 2
    assert "incorrect passphrase" in locked.words
    assert "Traceback" not in wrong.words + locked.words
