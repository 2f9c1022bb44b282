#!/usr/bin/python3
"""A load balancer's own state as metrics, in files that node exporter's textfile collector reads.

Python's standard library only, 3.10 or newer. ha-api-metrics.timer runs it every 15 s. It looks at this host only, and
every ten minutes at the API servers' certificates. Each file is written under another name and renamed, so a reader
never sees half of one.

operate/hosts/on_host.py looks at some of the same facts, but over SSH, for a comparison with what was applied. The two
share no code: this program is installed and must run whatever version of `./ha` looks at the host.
"""

import argparse
import filecmp
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RUNNING = ("MASTER", "BACKUP", "FAULT")
STATES = (*RUNNING, "STOP")
UNITS = ("firewalld", "haproxy", "ha-api-watchdog", "ha-api-held-connections", "keepalived")
CA = "etc/haproxy/ha-api/ca.pem"
CERTIFICATES_SECONDS = 600
ANSWER_SECONDS = 5


def metric(name: str, kind: str, meaning: str, samples: Mapping[str, float | None]) -> str:
    """A metric in Prometheus's text format; samples by labels (`{state="MASTER"}`), without those that are None."""
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
    lines += [f"{name}{labels} {value}" for labels, value in samples.items() if value is not None]
    return "\n".join(lines) + "\n"


def number(path: Path) -> int | None:
    """The number in a file; None without such a file, or while it is being written."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def holds(vip: str) -> bool:
    """Whether an interface of this host has the VIP, whatever keepalived believes."""
    command = ["ip", "-oneline", "-4", "address", "show", "to", f"{vip}/32"]
    return bool(subprocess.run(command, capture_output=True, check=True, timeout=ANSWER_SECONDS).stdout)


def units() -> dict[str, Mapping[str, str]]:
    """What systemd says of each unit that the pair needs; nothing if it does not answer."""
    command = ["systemctl", "show", "--property=ActiveState,NRestarts", *UNITS]
    try:
        shown = subprocess.run(command, capture_output=True, check=True, text=True, timeout=ANSWER_SECONDS).stdout
    except (OSError, subprocess.SubprocessError) as error:
        # The other metrics do not need it.
        print(f"the units' states are unknown: {error}", file=sys.stderr)  # noqa: T201 to the journal
        return {}
    found = [dict(line.split("=", 1) for line in unit.splitlines()) for unit in shown.strip().split("\n\n")]
    return dict(zip((f'{{unit="{name}"}}' for name in UNITS), found, strict=True))


def vrrp(folder: Path) -> tuple[str, int | None]:
    """The state that keepalived last passed to its notify script, and since when (seconds since the epoch)."""
    try:
        state, since = (folder / "vrrp_state").read_text().split()
    except FileNotFoundError:
        return "", None
    return state, int(since)


def differing(proven: Path, root: Path) -> int:
    """How many files under `root` differ from their copies in `proven`, in content, mode or owner."""

    def same(copy: Path) -> bool:
        place = root / copy.relative_to(proven)
        try:
            ours, theirs = copy.stat(), place.stat()
            attributes = [(it.st_mode, it.st_uid, it.st_gid) for it in (ours, theirs)]
            return attributes[0] == attributes[1] and filecmp.cmp(copy, place, shallow=False)
        except FileNotFoundError:
            return False

    return sum(not same(copy) for copy in proven.rglob("*") if copy.is_file())


def drained_since(vrrp_state: str, root: Path) -> float:
    """When an operator drained this host; 0 if none did, or keepalived has run since."""
    if vrrp_state in RUNNING:
        return 0
    try:
        return (root / "var/lib/ha-api/drained").stat().st_mtime
    except FileNotFoundError:
        return 0


def state(vip: str, folder: Path, proven: Path, root: Path) -> str:
    """The metrics of this host."""
    vrrp_state, since = vrrp(folder)
    states = dict.fromkeys((*STATES, vrrp_state) if vrrp_state else STATES, 0) | {vrrp_state: 1}
    services = units()
    changes = [it for name in ("api_servers", "default_route") if (it := number(folder / name)) is not None]
    return "".join(
        [
            metric(
                "ha_api_holds_vip", "gauge", "1 if an interface of this host has the VIP, else 0.", {"": +holds(vip)}
            ),
            metric(
                "ha_api_vrrp_state",
                "gauge",
                "1 for the state that keepalived is in, 0 for the others.",
                {f'{{state="{name}"}}': value for name, value in states.items() if name},
            ),
            metric(
                "ha_api_vrrp_state_since_timestamp_seconds",
                "gauge",
                "When keepalived went into its state.",
                {"": since},
            ),
            metric(
                "ha_api_vrrp_transitions_total",
                "counter",
                "How often keepalived has gone into a state since the host booted.",
                {f'{{state="{name}"}}': number(folder / f"transitions_to_{name}") or 0 for name in STATES},
            ),
            metric(
                "ha_api_watchdog_haproxy_dead",
                "gauge",
                "1 if the watchdog considers HAProxy dead or hung, else 0.",
                {"": number(folder / "haproxy")},
            ),
            metric(
                "ha_api_watchdog_priority_change",
                "gauge",
                "What the watchdog adds to the VRRP priority: -50 where HAProxy reaches no API server, -25 without a "
                "default route, else 0.",
                {"": sum(changes) if changes else None},
            ),
            metric(
                "ha_api_unit_active",
                "gauge",
                "1 if a unit that the pair needs is active, else 0.",
                {unit: +(it["ActiveState"] in ("active", "reloading")) for unit, it in services.items()},
            ),
            metric(
                "ha_api_unit_restarts_total",
                "counter",
                "How often systemd has restarted a unit by itself since somebody started it.",
                {unit: int(it["NRestarts"]) for unit, it in services.items()},
            ),
            metric(
                "ha_api_configuration_files_differing",
                "gauge",
                "Files that differ from those last proven to serve.",
                {"": differing(proven, root)},
            ),
            metric(
                "ha_api_reboot_required",
                "gauge",
                "1 if an installed package waits for a reboot, else 0.",
                {"": +(root / "run/reboot-required").exists()},
            ),
            metric(
                "ha_api_drained_timestamp_seconds",
                "gauge",
                "When an operator drained this host (`./ha drain`); 0 if it is not drained.",
                {"": drained_since(vrrp_state, root)},
            ),
        ]
    )


def expiry(name: str, address: str) -> int | None:
    """When the certificate of the API server at `address` (`HOST:PORT`) expires; None if it cannot be read."""
    host, port = address.rsplit(":", 1)
    try:
        certificate = ssl.get_server_certificate((host, int(port)), timeout=ANSWER_SECONDS)
        command = ["openssl", "x509", "-noout", "-enddate"]
        end = subprocess.run(
            command, input=certificate, capture_output=True, check=True, text=True, timeout=ANSWER_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        print(f"{name} ({address}) certificate cannot be read: {error}", file=sys.stderr)  # noqa: T201 for the journal
        return None
    return ssl.cert_time_to_seconds(end.stdout.strip().removeprefix("notAfter="))


def ca_expiry(file: Path) -> int | None:
    """When the CA that HAProxy's checks trust expires, the last one of several; None if the checks have none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(file)
    except OSError:  # no file, or nothing in it that is a certificate
        return None
    return max((ssl.cert_time_to_seconds(str(it["notAfter"])) for it in context.get_ca_certs()), default=None)


def certificates(servers: Mapping[str, str], ca: Path) -> str:
    """When the API servers' certificates expire; all are read at the same time."""
    with ThreadPoolExecutor() as pool:
        ends = dict(zip(servers, pool.map(expiry, servers.keys(), servers.values()), strict=True))
    # kubeadm issues certificates that outlive their CA.
    if limit := ca_expiry(ca):
        ends = {name: min(end, limit) if end else None for name, end in ends.items()}
    return metric(
        "ha_api_certificate_expiry_timestamp_seconds",
        "gauge",
        "When an API server's certificate expires, or its CA if that comes first.",
        {f'{{server="{name}"}}': end for name, end in ends.items()},
    )


def publish(path: Path, text: str) -> None:
    """Replace a file at once, so that nobody reads half of it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def main() -> None:
    """Write both files once; the one about certificates only if it is old."""
    parser = argparse.ArgumentParser(description="Writes this load balancer's state for node exporter.")
    parser.add_argument("--vip", required=True, help="the failover VIP")
    parser.add_argument("--api-server", action="append", required=True, metavar="NAME=HOST:PORT", help="any number")
    parser.add_argument("--folder", type=Path, required=True, help="read and written: /run/ha-api")
    parser.add_argument("--proven", type=Path, default="/var/lib/ha-api/proven", help="files as they should be")
    parser.add_argument("--root", type=Path, default="/", help="where they are installed")
    arguments = parser.parse_args()
    publish(arguments.folder / "ha-api.prom", state(arguments.vip, arguments.folder, arguments.proven, arguments.root))
    file = arguments.folder / "ha-api-certificates.prom"
    if not file.exists() or time.time() - file.stat().st_mtime > CERTIFICATES_SECONDS:
        servers = dict(server.split("=", 1) for server in arguments.api_server)
        publish(file, certificates(servers, arguments.root / CA))


if __name__ == "__main__":
    main()
