"""What a load balancer knows of itself, as JSON on standard output. Runs there, as root, through `python3 -`.

Python's standard library only, 3.10 or newer. The argument is JSON: `vip`, `health_port`, `metrics_port`, `lock` (the
operators' lock file), and `paths`, the files to look at, without the leading slash. What it prints is `HostState` in
operate/hosts/state.py. Nothing is changed, and no content of a file is told, only digests. Nothing is waited for
without a bound: it is asked when something is wrong.
"""

import grp
import hashlib
import http.client
import json
import os
import platform
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

SERVICES = ("firewalld", "haproxy", "ha-api-watchdog", "keepalived")
PROVEN = Path("/var/lib/ha-api/proven")
DRAINED = Path("/var/lib/ha-api/drained")
"""Who has taken this load balancer out, why and since when (operate/maintenance/moves.py)."""
VRRP_STATE = Path("/run/ha-api/vrrp_state")
HAPROXY_CONFIGURATION = Path("/etc/haproxy/haproxy.cfg")
# Proxies are for what is far away, and a host's environment may name one for everything.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
REBOOT_REQUIRED = Path("/run/reboot-required")
NOT_THERE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
CHANGES = 5
"""Changes of state that are told of keepalived, and as many of HAProxy."""


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=5)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def _answer(port: int, path: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers (names in lower case) of this HAProxy's answer; status 0 if there is none."""
    try:
        with _DIRECT.open(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, answer.read().decode(), headers
    except urllib.error.HTTPError as error:
        return error.code, "", {}
    except (OSError, http.client.HTTPException):  # also one that ends in the middle of its answer
        return 0, "", {}


def _content(file: Path) -> bytes | None:
    """What is in a file; None where there is none, which may be so from one moment to the next."""
    try:
        return file.read_bytes()
    except NOT_THERE:
        return None


def _haproxy_configuration() -> str:
    return (_content(HAPROXY_CONFIGURATION) or b"").decode(errors="replace")


def drained_by() -> str | None:
    """Who has taken this host out; None when nobody has."""
    content = _content(DRAINED)
    return None if content is None else content.decode(errors="replace").strip()


def service(name: str) -> dict[str, Any]:
    """Whether a unit runs and is started at boot, and since when it is in its state (seconds since the epoch)."""
    shown = _output(
        "systemctl", "show", "--timestamp=unix", "--property=ActiveState,UnitFileState,StateChangeTimestamp", name
    )
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    since = values.get("StateChangeTimestamp", "").lstrip("@")
    return {
        "state": values.get("ActiveState", "unknown"),
        "enabled": values.get("UnitFileState") == "enabled",
        "since": int(since) if since.isdigit() else None,
    }


def vrrp() -> dict[str, Any] | None:
    """What keepalived told its notify script last, and when; None before the first time."""
    try:
        state, since = VRRP_STATE.read_text().split()
    except FileNotFoundError:
        return None
    return {"state": state, "since": int(since)}


def haproxy(health_port: int, metrics_port: int) -> dict[str, Any]:
    """What HAProxy says of itself and its API servers."""
    status, _, headers = _answer(health_port, "/healthz")
    _, metrics, _ = _answer(metrics_port, "/metrics")
    version = re.search(r'^haproxy_process_build_info\{version="([^"]+)"\}', metrics, re.MULTILINE)
    server = r'_{name}\{{proxy="apiserver",server="([^"]+)",state="([^"]+)"\}} 1$'
    states = dict(re.findall("^haproxy_server" + server.format(name="status"), metrics, re.MULTILINE))
    checks = dict(re.findall("^haproxy_server" + server.format(name="check_status"), metrics, re.MULTILINE))

    def number(metric: str) -> dict[str, float]:
        line = rf'^haproxy_server_{metric}\{{proxy="apiserver",server="([^"]+)"\}} ([\d.e+-]+)$'
        return {name: float(value) for name, value in re.findall(line, metrics, re.MULTILINE)}

    changed, codes, durations = (
        number(metric) for metric in ("check_last_change_seconds", "check_code", "check_duration_seconds")
    )
    configured = re.search(r" X-Configuration-Id (\w+) ", _haproxy_configuration())
    now = int(time.time())
    return {
        "alive": status == 200,
        "ready": _answer(health_port, "/readyz")[0] == 200,
        "version": version[1] if version else None,
        "configuration_id": headers.get("x-configuration-id"),
        "configured_id": configured[1] if configured else None,
        "api_servers": {
            name: {
                "state": state,
                "check": checks.get(name),
                # 0 while a check is under way, be the last one's status still told, and where it got no answer.
                "code": int(codes.get(name, 0)) or None,
                "duration_ms": round(1000 * durations[name]) if name in durations else None,
                "since": now - int(changed.get(name, 0)),
            }
            for name, state in states.items()
        },
    }


def file(path: str) -> dict[str, Any] | None:
    """What a file is like, and the copy of it that was last proven to serve; None if it is not there."""
    try:
        with Path("/", path).open("rb") as place:
            digest, found = hashlib.sha256(place.read()), os.fstat(place.fileno())
    except NOT_THERE:
        return None
    proven = _content(PROVEN / path)
    return {
        "digest": digest.hexdigest(),
        "mode": found.st_mode & 0o7777,
        "owner": f"{pwd.getpwuid(found.st_uid).pw_name}:{grp.getgrgid(found.st_gid).gr_name}",
        "changed": int(found.st_ctime),
        "proven_digest": None if proven is None else hashlib.sha256(proven).hexdigest(),
    }


def certificate(address: str, port: str) -> dict[str, str]:
    """The certificate (PEM) that an API server shows to whoever connects, or why there is none."""
    # Looked at, not trusted: HAProxy's checks say whether it is the right one.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((address, port), timeout=2) as plain, context.wrap_socket(plain) as wrapped:
            return {"pem": ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"")}
    except OSError as error:
        return {"error": str(error) or type(error).__name__}


def changes() -> list[dict[str, Any]]:
    """The last changes of keepalived's state and of what HAProxy thinks of its API servers, in the order of time."""
    told = [
        # As the notify script puts it, and nothing that others may have logged under its name.
        ("keepalived", r"^(\S+ is now [A-Z]+ with priority \d+)$", ("SYSLOG_IDENTIFIER=vrrp",)),
        # HAProxy logs what concerns servers to a facility of its own (haproxy.cfg), each check beside each change.
        (
            "haproxy",
            # What follows are the numbers of servers left.
            r"Server apiserver/([^\s,]+ is (?:UP|DOWN)\b.*?)(?:\. \d+ active|$)",
            ("SYSLOG_IDENTIFIER=haproxy", "SYSLOG_FACILITY=17"),
        ),
    ]
    found: list[dict[str, Any]] = []
    for source, pattern, matches in told:
        journal = _output("journalctl", "--quiet", "--output=json", "--lines=100", *matches)
        of_source: list[dict[str, Any]] = []
        before: dict[str, str] = {}
        for line in journal.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # what journalctl itself has to say
            match = re.search(pattern, str(entry.get("MESSAGE")))
            if not match:
                continue
            # HAProxy tells a second time that a server is up: when it gets its whole share.
            who, _, change = match[1].strip()[:300].partition(" ")
            if before.get(who) != change:
                before[who] = change
                at = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
                of_source.append({"time": at, "source": source, "text": f"{who} {change}"})
        found += of_source[-CHANGES:]
    return sorted(found, key=lambda change: change["time"])[-CHANGES:]


def reboot(running: str, installed: list[str]) -> dict[str, Any]:
    """Whether packages ask for a reboot, and a kernel that is newer than the one that runs."""

    def age(release: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", release)]

    newest = max(installed, key=age, default=running)
    packages = REBOOT_REQUIRED.with_name("reboot-required.pkgs")
    return {
        "required": REBOOT_REQUIRED.exists(),
        "packages": sorted(set(packages.read_text().split())) if packages.is_file() else [],
        # In a container, whose kernel is its host's, what is installed says nothing.
        "newer_kernel": newest if running in installed and age(newest) > age(running) else None,
    }


def disks() -> dict[str, dict[str, Any]]:
    """Size and free bytes of the file systems that a change, and a log, are written to, by mount point."""
    root, logs = (Path(path).stat().st_dev for path in ("/", "/var/log"))
    found: dict[str, dict[str, Any]] = {}
    for path in ("/",) if root == logs else ("/", "/var/log"):
        usage, system = shutil.disk_usage(path), os.statvfs(path)
        inodes = system.f_favail / system.f_files if system.f_files else 1.0
        found[path] = {"size": usage.used + usage.free, "free": usage.free, "free_inodes": inodes}
    return found


def locked_by(path: str) -> str | None:
    """What an operator who has this load balancer's lock wrote into it; None when nobody has it."""
    # Looked for and not tried: whoever tries holds it for a moment, and would refuse an operator just then. The
    # kernel's own list does not show it in a container: the process that took it has handed it on, and ended.
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # processes come and go
            if any(os.readlink(opened) == path for opened in (process / "fd").iterdir()):  # noqa: PTH115 - some are no paths
                with Path(path).open(errors="replace") as text:
                    return text.readline(300).strip()
    return None


def main() -> None:
    """Print all of it."""
    asked = json.loads(sys.argv[1])
    kernel = os.uname().release
    # At once, for on a host in distress each takes as long as it may, and whoever asks does not wait for the sum of it.
    with ThreadPoolExecutor(max_workers=32) as together:
        addresses = together.submit(_output, "ip", "-oneline", "-4", "address", "show", "to", f"{asked['vip']}/32")
        package = ("dpkg-query", "--show", "--showformat=${source:Upstream-Version}", "keepalived")
        keepalived = together.submit(_output, *package)
        services = {name: together.submit(service, name) for name in SERVICES}
        balancer = together.submit(haproxy, asked["health_port"], asked["metrics_port"])
        told = together.submit(changes)
        # Each stands in two backends.
        servers = dict(re.findall(r"^ *server (\S+) (\S+:\d+)", _haproxy_configuration(), re.MULTILINE))
        certificates = {name: together.submit(certificate, *place.split(":")) for name, place in servers.items()}
        state: dict[str, Any] = {
            "booted": int(time.time() - float(Path("/proc/uptime").read_text().split()[0])),
            "versions": {
                "keepalived": keepalived.result(),
                "kernel": kernel,
                "distribution": platform.freedesktop_os_release()["PRETTY_NAME"],
            },
            "services": {name: found.result() for name, found in services.items()},
            "vrrp": vrrp(),
            "holds_vip": bool(addresses.result().strip()),
            "haproxy": balancer.result(),
            "files": {path: file(path) for path in asked["paths"]},
            "changes": told.result(),
            "reboot": reboot(kernel, [path.name[len("vmlinuz-") :] for path in Path("/boot").glob("vmlinuz-*")]),
            "disks": disks(),
            "locked_by": locked_by(asked["lock"]),
            "drained_by": drained_by(),
            "certificates": {name: found.result() for name, found in certificates.items()},
        }
    print(json.dumps(state | {"time": time.time()}))  # noqa: T201 - read by the one who asked


if __name__ == "__main__":
    main()
