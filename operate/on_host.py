"""What a load balancer knows of itself, as JSON on standard output. Runs there, as root, through `python3 -`.

Python's standard library only, 3.10 or newer. The argument is JSON: `vip`, `health_port`, `metrics_port`, and `paths`,
the files to look at, without the leading slash. What it prints is `HostState` in operate/load_balancer.py; nothing is
changed, and no content of a file is told, only digests.
"""

import grp
import hashlib
import json
import pwd
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SERVICES = ("firewalld", "haproxy", "ha-api-watchdog", "keepalived")
PROVEN = Path("/var/lib/ha-api/proven")
VRRP_STATE = Path("/run/ha-api/vrrp_state")
HAPROXY_CONFIGURATION = Path("/etc/haproxy/haproxy.cfg")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _answer(port: int, path: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers (names in lower case) of this HAProxy's answer; status 0 if there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, answer.read().decode(), headers
    except urllib.error.HTTPError as error:
        return error.code, "", {}
    except OSError:
        return 0, "", {}


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
    changed = dict(
        re.findall(
            r'^haproxy_server_check_last_change_seconds\{proxy="apiserver",server="([^"]+)"\} (\d+)$',
            metrics,
            re.MULTILINE,
        )
    )
    configured = None
    if HAPROXY_CONFIGURATION.is_file():
        configured = re.search(r" X-Configuration-Id (\w+) ", HAPROXY_CONFIGURATION.read_text())
    now = int(time.time())
    return {
        "alive": status == 200,
        "ready": _answer(health_port, "/readyz")[0] == 200,
        "version": version[1] if version else None,
        "configuration_id": headers.get("x-configuration-id"),
        "configured_id": configured[1] if configured else None,
        "api_servers": {
            name: {"state": state, "check": checks.get(name), "since": now - int(changed.get(name, 0))}
            for name, state in states.items()
        },
    }


def file(path: str) -> dict[str, Any] | None:
    """What a file is like, and the copy of it that was last proven to serve; None if it is not there."""
    place, proven = Path("/", path), PROVEN / path
    if not place.is_file():
        return None
    found = place.stat()
    return {
        "digest": hashlib.sha256(place.read_bytes()).hexdigest(),
        "mode": found.st_mode & 0o7777,
        "owner": f"{pwd.getpwuid(found.st_uid).pw_name}:{grp.getgrgid(found.st_gid).gr_name}",
        "changed": int(found.st_ctime),
        "proven_digest": hashlib.sha256(proven.read_bytes()).hexdigest() if proven.is_file() else None,
    }


def main() -> None:
    """Print all of it."""
    asked = json.loads(sys.argv[1])
    addresses = _output("ip", "-oneline", "-4", "address", "show", "to", f"{asked['vip']}/32")
    state: dict[str, Any] = {
        "time": time.time(),
        "booted": int(time.time() - float(Path("/proc/uptime").read_text().split()[0])),
        "services": {name: service(name) for name in SERVICES},
        "vrrp": vrrp(),
        "holds_vip": bool(addresses.strip()),
        "haproxy": haproxy(asked["health_port"], asked["metrics_port"]),
        "files": {path: file(path) for path in asked["paths"]},
    }
    print(json.dumps(state))  # noqa: T201 - read by the one who asked


if __name__ == "__main__":
    main()
