"""Prints a load balancer's state as JSON. Runs there, as root, through `python3 -`.

Python's standard library only, 3.10 or newer. The argument is JSON: `vip`, `address` (the host's own), `api_port`,
`health_port`, `metrics_port`, `lock` (the operators' lock file), and `paths`, the files to check, without the leading
slash. The output is `HostState` in operate/hosts/state.py. It changes nothing and prints digests of files, never their
content. Every step has a time-out, because it runs when something is wrong.

It shares no code with `ha-api-metrics` (templates/), which reads some of the same files: that program is installed with
the configuration, and this one must work where the installed files are old, edited or missing. Nor with
operate/support/on_host.py, which collects raw text: each is sent alone, as one file on standard input.
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

SERVICES = ("firewalld", "haproxy", "ha-api-watchdog", "ha-api-held-connections", "keepalived")
PROVEN = Path("/var/lib/ha-api/proven")
STAGE = Path("/var/lib/ha-api/stage")
"""The files of the last run of `configure`, if it failed or was cut off; otherwise they are the proven ones."""
DRAINED = Path("/var/lib/ha-api/drained")
"""Who drained this load balancer, why and since when (operate/maintenance/moves.py)."""
HANDOVER = Path("/run/ha-api-held-connections/handover.json")
"""What goes on through a load balancer that has given the VIP up on purpose; missing if nothing does."""
VRRP_STATE = Path("/run/ha-api/vrrp_state")
DEFAULT_ROUTE = Path("/run/ha-api/default_route")
"""What the watchdog adds to the priority: 0 if this host has a default route. keepalived ignores a missing file."""
CA = Path("/etc/haproxy/ha-api/ca.pem")
HAPROXY_CONFIGURATION = Path("/etc/haproxy/haproxy.cfg")
KEEPALIVED_CONFIGURATION = Path("/etc/keepalived/keepalived.conf")
# Never through a proxy, even if the host's environment names one for everything.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
REBOOT_REQUIRED = Path("/run/reboot-required")
NOT_THERE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
CHANGES = 5
"""How many changes of state to report."""


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=5)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def _answer(port: int, path: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers (names in lower case) of the local HAProxy's answer; status 0 without an answer."""
    try:
        with _DIRECT.open(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, answer.read().decode(), headers
    except urllib.error.HTTPError as error:
        return error.code, "", {}
    except (OSError, http.client.HTTPException):  # HTTPException: the answer was cut off
        return 0, "", {}


def _content(file: Path) -> bytes | None:
    """A file's content; None if there is no such file, or no longer."""
    try:
        return file.read_bytes()
    except NOT_THERE:
        return None


def _haproxy_configuration() -> str:
    return (_content(HAPROXY_CONFIGURATION) or b"").decode(errors="replace")


def drained_by() -> str | None:
    """Who drained this host; None if it is not drained."""
    content = _content(DRAINED)
    return None if content is None else content.decode(errors="replace").strip()


def handover() -> dict[str, int] | None:
    """How many connections go on through this host although it has given the VIP up, and for how long; None if none."""
    content = _content(HANDOVER)
    return None if content is None else json.loads(content)


def service(name: str) -> dict[str, Any]:
    """A unit's state, whether it starts at boot, and when it entered the state (seconds since the epoch)."""
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
    """The state keepalived last reported to its notify script, and when; None before the first report."""
    try:
        state, since = VRRP_STATE.read_text().split()
    except FileNotFoundError:
        return None
    return {"state": state, "since": int(since)}


def default_route() -> bool:
    """Whether this host has a default route, according to the watchdog."""
    return (_content(DEFAULT_ROUTE) or b"0").strip() == b"0"


def haproxy(health_port: int, metrics_port: int) -> dict[str, Any]:
    """What HAProxy reports about itself, the API servers, and the servers of each frontend."""
    status, _, headers = _answer(health_port, "/healthz")
    _, metrics, _ = _answer(metrics_port, "/metrics")
    version = re.search(r'^haproxy_process_build_info\{version="([^"]+)"\}', metrics, re.MULTILINE)
    configured = re.search(r" X-Configuration-Id (\w+) ", _haproxy_configuration())
    backends = _servers(metrics)
    backends.pop("last-resort", None)  # the API servers again
    return {
        "alive": status == 200,
        "ready": _answer(health_port, "/readyz")[0] == 200,
        "version": version[1] if version else None,
        "configuration_id": headers.get("x-configuration-id"),
        "configured_id": configured[1] if configured else None,
        "api_servers": backends.pop("apiserver", {}),
        "frontends": backends,
    }


def _servers(metrics: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The state of each server, by backend and name."""

    def states(metric: str) -> dict[tuple[str, str], str]:
        line = rf'^haproxy_server_{metric}\{{proxy="([^"]+)",server="([^"]+)",state="([^"]+)"\}} 1$'
        return {(backend, name): state for backend, name, state in re.findall(line, metrics, re.MULTILINE)}

    def numbers(metric: str) -> dict[tuple[str, str], float]:
        line = rf'^haproxy_server_{metric}\{{proxy="([^"]+)",server="([^"]+)"\}} ([\d.e+-]+)$'
        return {(backend, name): float(value) for backend, name, value in re.findall(line, metrics, re.MULTILINE)}

    checks = states("check_status")
    changed, codes, durations = (
        numbers(metric) for metric in ("check_last_change_seconds", "check_code", "check_duration_seconds")
    )
    now = int(time.time())
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for server, state in states("status").items():
        backend, name = server
        found.setdefault(backend, {})[name] = {
            "state": state,
            "check": checks.get(server),
            # 0 during a check, although HAProxy still shows the last one's status, and if it got no answer.
            "code": int(codes.get(server, 0)) or None,
            "duration_ms": round(1000 * durations[server]) if server in durations else None,
            "since": now - int(changed.get(server, 0)),
        }
    return found


def file(path: str) -> dict[str, Any] | None:
    """Attributes of a file, with digests of its proven copy and of a failed run's; None if there is no such file."""
    try:
        with Path("/", path).open("rb") as place:
            digest, found = hashlib.sha256(place.read()), os.fstat(place.fileno())
    except NOT_THERE:
        return None
    return {
        "digest": digest.hexdigest(),
        "mode": found.st_mode & 0o7777,
        "owner": f"{pwd.getpwuid(found.st_uid).pw_name}:{grp.getgrgid(found.st_gid).gr_name}",
        "changed": int(found.st_ctime),
        "proven_digest": _digest(PROVEN / path),
        "staged_digest": _digest(STAGE / path),
    }


def _digest(file: Path) -> str | None:
    content = _content(file)
    return None if content is None else hashlib.sha256(content).hexdigest()


def interface(shown: str) -> dict[str, str | None]:
    """Which interface has the host's address, by `ip -oneline`, and which one keepalived is configured for."""
    configured = re.search(
        r"^ *interface (\S+)", (_content(KEEPALIVED_CONFIGURATION) or b"").decode(errors="replace"), re.MULTILINE
    )
    words = shown.split()
    return {"name": words[1] if len(words) > 1 else None, "configured": configured[1] if configured else None}


def certificate(address: str, port: str) -> dict[str, str]:
    """The certificate (PEM) that an API server presents, or why there is none."""
    # Only to read its dates; HAProxy's health checks verify it.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((address, port), timeout=2) as plain, context.wrap_socket(plain) as wrapped:
            return {"pem": ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"")}
    except OSError as error:
        return {"error": str(error) or type(error).__name__}


def ca_expires(file: Path = CA) -> int | None:
    """When the CA that HAProxy's checks trust expires, the last one of several; None if the checks have none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(file)
    except OSError:
        return None
    return max((ssl.cert_time_to_seconds(str(it["notAfter"])) for it in context.get_ca_certs()), default=None)


def changes() -> list[dict[str, Any]]:
    """The last changes of keepalived's state and of API servers' states in HAProxy, oldest first."""
    sources = [
        # The notify script's own line, and nothing else that was logged under its name.
        ("keepalived", r"^(\S+ is now [A-Z]+ with priority \d+)$", ("SYSLOG_IDENTIFIER=vrrp",)),
        # HAProxy logs servers to a facility of its own (haproxy.cfg): every check and every change.
        (
            "haproxy",
            # The rest of the line counts the servers that are left.
            # A frontend's server is shown with the frontend's name.
            r"Server (?:apiserver/)?((?!last-resort/)[^\s,]+ is (?:UP|DOWN)\b.*?)(?:\. \d+ active|$)",
            ("SYSLOG_IDENTIFIER=haproxy", "SYSLOG_FACILITY=17"),
        ),
    ]
    found: list[dict[str, Any]] = []
    for source, pattern, matches in sources:
        journal = _output("journalctl", "--quiet", "--output=json", "--lines=100", *matches)
        of_source: list[dict[str, Any]] = []
        before: dict[str, str] = {}
        for line in journal.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # a message of journalctl itself
            match = re.search(pattern, str(entry.get("MESSAGE")))
            if not match:
                continue
            # HAProxy logs that a server is up a second time, when slow start has ended.
            who, _, change = match[1].strip()[:300].partition(" ")
            if before.get(who) != change:
                before[who] = change
                at = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
                of_source.append({"time": at, "source": source, "text": f"{who} {change}"})
        found += of_source[-CHANGES:]
    return sorted(found, key=lambda change: change["time"])[-CHANGES:]


def reboot(running: str, installed: list[str]) -> dict[str, Any]:
    """Whether packages require a reboot, and the newest installed kernel if it is newer than the running one."""

    def age(release: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", release)]

    newest = max(installed, key=age, default=running)
    packages = REBOOT_REQUIRED.with_name("reboot-required.pkgs")
    return {
        "required": REBOOT_REQUIRED.exists(),
        "packages": sorted(set(packages.read_text().split())) if packages.is_file() else [],
        # In a container the kernel is the host's, so installed ones mean nothing.
        "newer_kernel": newest if running in installed and age(newest) > age(running) else None,
    }


def disks() -> dict[str, dict[str, Any]]:
    """Size and free bytes of the file systems of `/` and of the logs, by mount point."""
    root, logs = (Path(path).stat().st_dev for path in ("/", "/var/log"))
    found: dict[str, dict[str, Any]] = {}
    for path in ("/",) if root == logs else ("/", "/var/log"):
        usage, system = shutil.disk_usage(path), os.statvfs(path)
        inodes = system.f_favail / system.f_files if system.f_files else 1.0
        found[path] = {"size": usage.used + usage.free, "free": usage.free, "free_inodes": inodes}
    return found


def locked_by(path: str) -> str | None:
    """The text of the operator who holds this load balancer's lock; None if it is free."""
    # Trying the lock would hold it for a moment, in which an operator would be refused. In a container /proc/locks does
    # not show it, because the process that took it has ended.
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # processes come and go
            if any(os.readlink(opened) == path for opened in (process / "fd").iterdir()):  # noqa: PTH115 - some are not paths
                with Path(path).open(errors="replace") as text:
                    return text.readline(300).strip()
    return None


def main() -> None:
    """Print the state."""
    arguments = json.loads(sys.argv[1])
    kernel = os.uname().release
    # In parallel: on a host in trouble each step takes up to its time-out.
    with ThreadPoolExecutor(max_workers=32) as together:
        addresses = together.submit(_output, "ip", "-oneline", "-4", "address", "show", "to", f"{arguments['vip']}/32")
        own = together.submit(_output, "ip", "-oneline", "-4", "address", "show", "to", f"{arguments['address']}/32")
        package = ("dpkg-query", "--show", "--showformat=${source:Upstream-Version}", "keepalived")
        keepalived = together.submit(_output, *package)
        services = {name: together.submit(service, name) for name in SERVICES}
        balancer = together.submit(haproxy, arguments["health_port"], arguments["metrics_port"])
        changed = together.submit(changes)
        # Each is in two backends; hosts behind a frontend have other ports.
        servers = dict(
            re.findall(rf"^ *server (\S+) (\S+:{arguments['api_port']})$", _haproxy_configuration(), re.MULTILINE)
        )
        certificates = {name: together.submit(certificate, *place.split(":")) for name, place in servers.items()}
        state: dict[str, Any] = {
            "booted": int(time.time() - float(Path("/proc/uptime").read_text().split()[0])),
            "versions": {
                "keepalived": keepalived.result(),
                "kernel": kernel,
                "distribution": platform.freedesktop_os_release()["PRETTY_NAME"],
            },
            "services": {name: found.result() for name, found in services.items()},
            "interface": interface(own.result()),
            "vrrp": vrrp(),
            "default_route": default_route(),
            "holds_vip": bool(addresses.result().strip()),
            "haproxy": balancer.result(),
            "files": {path: file(path) for path in arguments["paths"]},
            "changes": changed.result(),
            "reboot": reboot(kernel, [path.name[len("vmlinuz-") :] for path in Path("/boot").glob("vmlinuz-*")]),
            "disks": disks(),
            "locked_by": locked_by(arguments["lock"]),
            "drained_by": drained_by(),
            "handover": handover(),
            "certificates": {name: found.result() for name, found in certificates.items()},
            "ca_expires": ca_expires(),
        }
    print(json.dumps(state | {"time": time.time()}))  # noqa: T201 - the output


if __name__ == "__main__":
    main()
