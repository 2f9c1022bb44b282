"""What a load balancer writes of itself for node exporter, and what keepalived's notify script counts for it."""

import os
import shlex
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import create_server

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from dev.standin.certificate import self_signed
from model.rendering import LOAD_BALANCER_TEMPLATES
from operate.hosts.on_host import DRAINED, SERVICES
from tests.unit.hosts.programs import FOLDER, load

PROGRAM = FOLDER / "metrics.py"
NOTIFY = LOAD_BALANCER_TEMPLATES / "etc/keepalived/notify.sh"
KEEPALIVED_UNIT = LOAD_BALANCER_TEMPLATES / "etc/systemd/system/keepalived.service.d/ha-api.conf.j2"


metrics = load("metrics")

# One block for each unit, in the order of the command line, and properties in an order of its own.
SYSTEMCTL = """#!/bin/sh
[ "$1 $2" = "show --property=ActiveState,NRestarts" ] || exit 1
shift 2
for unit; do
    [ -z "$next" ] || echo
    next=yes
    cat "$0.$unit" 2>/dev/null || printf 'NRestarts=0\\nActiveState=active\\n'
done
"""


class Host:
    """A host's files, and what the program makes of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder, self.proven = root / "root", root / "root/run/ha-api", root / "proven"
        self.folder.mkdir(parents=True)
        # As `configure` keeps it.
        self.proven.symlink_to("proven.2")
        for tree in (root / "proven.2", self.root):
            (tree / "etc").mkdir(exist_ok=True, parents=True)
            for name in ("one", "two"):
                (tree / "etc" / name).write_text("as it was proven\n")
        self.systemctl = root / "bin/systemctl"
        self.systemctl.parent.mkdir()
        self.systemctl.write_text(SYSTEMCTL)
        self.systemctl.chmod(0o755)

    def unit(self, name: str, state: str, restarts: int) -> None:
        self.systemctl.with_suffix(f".{name}").write_text(f"NRestarts={restarts}\nActiveState={state}\n")

    def arguments(self, vip: str = "127.0.0.1", api_server: str = "k8s-cp-0=127.0.0.1:9") -> list[str]:
        arguments = {
            "vip": vip,
            "api-server": api_server,
            "folder": self.folder,
            "proven": self.proven,
            "root": self.root,
        }
        return [f"--{name}={value}" for name, value in arguments.items()]

    def run(self, **changes: str) -> dict[str, float]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(PROGRAM), *self.arguments(**changes)])
            metrics.main()
        return self.published()

    def published(self) -> dict[str, float]:
        assert not list(self.folder.glob("*.new"))
        lines = [line for file in self.folder.glob("*.prom") for line in file.read_text().splitlines()]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setenv("PATH", str(host.systemctl.parent), prepend=os.pathsep)
    return host


def test_the_program_needs_only_the_standard_library(host: Host):
    subprocess.run(["python3", "-S", str(PROGRAM), *host.arguments()], check=True, capture_output=True)
    assert host.published() == host.run()


@pytest.mark.parametrize(("vip", "held"), [("127.0.0.1", 1), ("198.51.100.200", 0)])
def test_a_host_holds_the_vip_if_an_interface_has_it(host: Host, vip: str, held: int):
    assert host.run(vip=vip)["ha_api_holds_vip"] == held


def test_a_new_host_reports_no_state_and_no_transitions(host: Host):
    found = host.run()
    assert {found[f'ha_api_vrrp_state{{state="{state}"}}'] for state in metrics.STATES} == {0}
    assert {found[f'ha_api_vrrp_transitions_total{{state="{state}"}}'] for state in metrics.STATES} == {0}
    assert "ha_api_vrrp_state_since_timestamp_seconds" not in found
    assert not any(name.startswith("ha_api_watchdog_") for name in found)


def test_the_other_metrics_do_not_need_systemd(host: Host, capsys: pytest.CaptureFixture[str]):
    host.systemctl.write_text("#!/bin/sh\nexit 1\n")
    found = host.run()
    assert found["ha_api_holds_vip"] == 1
    assert not [name for name in found if name.startswith("ha_api_unit_")]
    assert "the units' states are unknown" in capsys.readouterr().err


def test_exactly_one_state_is_reported(host: Host):
    (host.folder / "vrrp_state").write_text("FAULT 1795582949\n")
    found = host.run()
    states = {state: found[f'ha_api_vrrp_state{{state="{state}"}}'] for state in metrics.STATES}
    assert states == {"MASTER": 0, "BACKUP": 0, "FAULT": 1, "STOP": 0}
    assert found["ha_api_vrrp_state_since_timestamp_seconds"] == 1795582949


def test_the_watchdog_s_values_are_exported(host: Host):
    (host.folder / "haproxy").write_text("1\n")
    for api_servers, default_route, change in (
        ("-50", "0", -50),
        ("0", "-25", -25),
        ("-50", "-25", -75),
        ("0", "0", 0),
    ):
        (host.folder / "api_servers").write_text(f"{api_servers}\n")
        (host.folder / "default_route").write_text(f"{default_route}\n")
        found = host.run()
        assert (found["ha_api_watchdog_haproxy_dead"], found["ha_api_watchdog_priority_change"]) == (1, change)


def test_the_services_that_ha_status_shows_are_exported(host: Host):
    found = host.run()
    for name in SERVICES:
        assert (
            found[f'ha_api_unit_active{{unit="{name}"}}'],
            found[f'ha_api_unit_restarts_total{{unit="{name}"}}'],
        ) == (1, 0)
    assert sum("ha_api_unit_active" in name for name in found) == len(SERVICES)


@pytest.mark.parametrize(
    ("state", "active"), [("active", 1), ("reloading", 1), ("activating", 0), ("inactive", 0), ("failed", 0)]
)
def test_a_unit_that_is_down_or_was_restarted_is_reported(host: Host, state: str, active: int):
    host.unit("ha-api-held-connections", state, 7)
    found = host.run()
    assert found['ha_api_unit_active{unit="ha-api-held-connections"}'] == active
    assert found['ha_api_unit_restarts_total{unit="ha-api-held-connections"}'] == 7
    assert found['ha_api_unit_active{unit="keepalived"}'] == 1
    assert found['ha_api_unit_restarts_total{unit="keepalived"}'] == 0


CHANGES: dict[str, tuple[Callable[[Path], object], int]] = {
    "none": (Path.stat, 0),
    "edited": (lambda file: file.write_text("by hand\n"), 1),
    "removed": (Path.unlink, 1),
    "another mode": (lambda file: file.chmod(0o666), 1),
    "a file of somebody else": (lambda file: file.with_name("three").touch(), 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_differ_from_the_proven_configuration_are_counted(host: Host, change: str):
    apply, files = CHANGES[change]
    apply(host.root / "etc/one")
    assert host.run()["ha_api_configuration_files_differing"] == files


def test_a_required_reboot_is_reported(host: Host):
    assert host.run()["ha_api_reboot_required"] == 0
    (host.root / "run/reboot-required").touch()
    assert host.run()["ha_api_reboot_required"] == 1


def test_a_drained_host_reports_since_when(host: Host):
    assert host.run()["ha_api_drained_timestamp_seconds"] == 0
    # Where `./ha drain` writes it.
    drained = host.root / DRAINED.relative_to("/")
    drained.parent.mkdir(parents=True)
    drained.write_text("somebody: new kernel\n")
    os.utime(drained, (1795582949, 1795582949))
    assert host.run()["ha_api_drained_timestamp_seconds"] == 1795582949
    # A `pulumi up` that changed it has brought it back.
    (host.folder / "vrrp_state").write_text("BACKUP 1795586549\n")
    assert host.run()["ha_api_drained_timestamp_seconds"] == 0


@contextmanager
def serving(folder: Path, lifetime: timedelta, *, silent: bool = False) -> Generator[str]:
    """A TLS server on a port of its own; a silent one takes connections and says nothing."""
    pair = self_signed("k8s-cp-0", ["127.0.0.1"], lifetime)
    (folder / "tls.pem").write_bytes(pair.certificate + pair.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "tls.pem")
    with create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                if silent:
                    connection.recv(1 << 16)
                    connection.recv(1)
                else:
                    tls.wrap_socket(connection, server_side=True).close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"k8s-cp-0=127.0.0.1:{server.getsockname()[1]}"


def authority(lifetime: timedelta) -> str:
    """The certificate of a CA (PEM)."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


EXPIRY = 'ha_api_certificate_expiry_timestamp_seconds{server="k8s-cp-0"}'


def test_a_certificate_s_expiry_is_reported_whoever_signed_it(host: Host, tmp_path: Path):
    with serving(tmp_path, timedelta(days=5)) as server:
        end = host.run(api_server=server)[EXPIRY]
    assert abs(datetime.fromtimestamp(end, UTC) - datetime.now(UTC) - timedelta(days=5)) < timedelta(minutes=1)


@pytest.mark.parametrize(("authorities", "days"), [([3], 3), ([9], 5), ([1, 3], 3)])
def test_the_authority_s_expiry_is_reported_if_it_comes_first(
    host: Host, tmp_path: Path, authorities: list[int], days: int
):
    """Of two, as while one replaces the other, the last one counts."""
    ca = host.root / "etc/haproxy/ha-api/ca.pem"
    ca.parent.mkdir(parents=True)
    ca.write_text("".join(authority(timedelta(days=it)) for it in authorities))
    with serving(tmp_path, timedelta(days=5)) as server:
        end = host.run(api_server=server)[EXPIRY]
    assert abs(datetime.fromtimestamp(end, UTC) - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=1)


def test_an_unreadable_authority_does_not_keep_other_metrics_back(host: Host, tmp_path: Path):
    ca = host.root / "etc/haproxy/ha-api/ca.pem"
    ca.parent.mkdir(parents=True)
    ca.write_text("no certificate")
    with serving(tmp_path, timedelta(days=5)) as server:
        assert EXPIRY in host.run(api_server=server)


def test_a_server_s_certificate_is_read_every_ten_minutes(host: Host, tmp_path: Path):
    assert EXPIRY not in host.run()
    with serving(tmp_path, timedelta(days=5)) as server:
        assert EXPIRY not in host.run(api_server=server)
        eleven_minutes_ago = time.time() - 660
        os.utime(host.folder / "ha-api-certificates.prom", (eleven_minutes_ago, eleven_minutes_ago))
        assert EXPIRY in host.run(api_server=server)


def test_a_silent_server_delays_the_metrics_only_until_its_timeout(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert metrics.ANSWER_SECONDS == 5
    patience = 1
    monkeypatch.setattr(metrics, "ANSWER_SECONDS", patience)
    with serving(tmp_path, timedelta(days=5), silent=True) as server:
        began = time.monotonic()
        found = host.run(api_server=server)
    assert patience <= time.monotonic() - began < 5
    assert EXPIRY not in found
    assert found["ha_api_holds_vip"] == 1


def test_every_state_change_is_counted_even_if_it_arrives_late(tmp_path: Path):
    # keepalived's calls may overtake one another: what comes late is no news of the state, but a change all the same.
    script = NOTIFY.read_text().replace("/run/ha-api", str(tmp_path))
    for state in ("FAULT", "BACKUP", "MASTER", "BACKUP"):
        subprocess.run(["sh", "-s", "INSTANCE", "VI_1", state, "250"], input=script, text=True, check=True)
    late = (tmp_path / "vrrp_state").read_text()
    overtaken = f'echo "$(($$ + 100)) $(date +%s)" >{tmp_path}/vrrp_state.last\n{script}'
    subprocess.run(["sh", "-s", "INSTANCE", "VI_1", "FAULT", "250"], input=overtaken, text=True, check=True)
    assert (tmp_path / "vrrp_state").read_text() == late
    counted = {path.name: int(path.read_text()) for path in tmp_path.glob("transitions_to_*")}
    assert counted == {"transitions_to_FAULT": 2, "transitions_to_BACKUP": 2, "transitions_to_MASTER": 1}


@pytest.mark.parametrize(
    ("before", "kept"), [("BACKUP 1\n", False), ("MASTER 1\n", False), ("", False), ("STOP 1\n", True)]
)
def test_a_keepalived_that_has_ended_is_in_state_stop_whatever_it_reported_last(
    tmp_path: Path, before: str, kept: bool
):
    # As systemd reads it: %% is %.
    command = KEEPALIVED_UNIT.read_text().partition("ExecStopPost=-")[2].splitlines()[0].replace("%%", "%")
    (tmp_path / "vrrp_state").write_text(before)
    subprocess.run(shlex.split(command.replace("/run/ha-api", str(tmp_path))), check=False)
    state, since = (tmp_path / "vrrp_state").read_text().split()
    assert state == "STOP"
    assert (since == "1") is kept
