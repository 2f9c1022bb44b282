"""Prints a load balancer's logs, files and command outputs as JSON: texts by path.

Runs there, as root, through `python3 -`. Python's standard library only, 3.10 or newer. The argument is JSON: `since`,
in journalctl's format, `metrics_port`, and `units`, the services. It writes nothing on the host, so it works on a full
disk, and every step is limited in time and size. Secrets are removed by `operate/support`, which knows them. Files that
nobody needs are left out: any file of an administrator may have one.
"""

import importlib
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

TAGS = ("vrrp", "check_haproxy")
JOURNAL_LINES = 20_000
MOST_BYTES = 4 * 2**20
"""Limit of one text; a longer one is cut at its start."""
COMMAND_SECONDS = 15
# Not HAProxy's certificates, maps and lists, nor files of any name: a file may have nothing in it but a secret.
FILES = (
    "/etc/haproxy/**/*.cfg",
    "/etc/haproxy/ha-api/ca.pem",
    "/etc/keepalived/**/*.conf",
    "/etc/keepalived/*.sh",
    "/usr/local/lib/ha-api/*",
    "/etc/firewalld/**/*.xml",
    "/etc/firewalld/*.conf",
    "/etc/sysctl.d/*",
    "/etc/systemd/system/ha-api-*",
    "/etc/systemd/system/prometheus-node-exporter.service.d/ha-api.conf",
    "/etc/os-release",
    "/run/ha-api/*",
    "/var/log/ha-api-install.log",
    "/var/log/cloud-init.log",
    "/var/log/cloud-init-output.log",
    "/var/log/apt/history.log",
    "/proc/loadavg",
    "/proc/pressure/*",
    "/proc/net/nf_conntrack_stat",
)
SYSCTLS = (
    "net.ipv4.ip_nonlocal_bind",
    "net.ipv4.ip_forward",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.conf.all.arp_announce",
    "net.ipv4.conf.all.arp_ignore",
    "net.ipv4.conf.all.rp_filter",
    "net.core.somaxconn",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
    "fs.file-nr",
)
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "ip-address": ("ip", "-statistics", "-details", "address"),
    "ip-route": ("ip", "route", "show", "table", "all"),
    "ip-neighbour": ("ip", "neighbour"),
    "sockets-summary": ("ss", "--summary"),
    "sockets-listening": ("ss", "--listening", "--numeric", "--tcp", "--udp", "--processes"),
    "firewalld-zone": ("firewall-cmd", "--zone=public", "--list-all"),
    "sysctl": ("sysctl", "--ignore", *SYSCTLS),
    "systemctl-failed": ("systemctl", "--no-pager", "--failed"),
    "packages": ("dpkg-query", "--show"),
    "haproxy-version": ("haproxy", "-vv"),
    "time": ("timedatectl", "show", "--all"),
    "disks": ("df", "--human-readable", "--print-type"),
    "inodes": ("df", "--inodes"),
    "memory": ("free", "--mebi"),
    "uptime": ("uptime",),
    "kernel": ("uname", "--all"),
    "processes": ("ps", "-eo", "pid,ppid,user,ni,stat,lstart,time,rss,comm"),
    "cloud-init": ("cloud-init", "status", "--long"),
}


def run(*command: str) -> str:
    """A command's output, and its exit status if it failed."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=COMMAND_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        return end_of(error.stdout or b"") + f"\n(killed after {COMMAND_SECONDS} s)\n"
    text = end_of(done.stdout)
    return text if done.returncode == 0 else f"{text}\n(ended with status {done.returncode})\n"


def end_of(content: bytes) -> str:
    """A text, or its last lines if it is long. Never a part of a line, in which a secret would not be found."""
    if len(content) > MOST_BYTES:
        content = content[-MOST_BYTES:].partition(b"\n")[2]
    return content.decode(errors="replace")


def read(path: str) -> str:
    """A file."""
    file = Path(path)
    with file.open("rb") as content:
        size = file.stat().st_size
        if size > MOST_BYTES:
            content.seek(size - MOST_BYTES - 1)
        return end_of(content.read(MOST_BYTES + 1))


def packet_filter() -> str:
    """The kernel's rules, through the library that firewalld uses; `nft` may not be installed."""
    _, rules, error = importlib.import_module("nftables").Nftables().cmd("list ruleset")
    return rules + error


def metrics(port: int) -> str:
    """HAProxy's metrics."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
    with direct.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return end_of(answer.read(MOST_BYTES))


def query_socket(path: str) -> str:
    """HAProxy's answers on an admin socket, which the image or an administrator may have added."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(path)
        client.sendall(b"show info;show stat;show errors\n")
        with client.makefile("rb") as answer:
            return end_of(answer.read(MOST_BYTES))


def sources(since: str, metrics_port: int, units: Sequence[str]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each text's path, and how to get it."""
    journal = ("journalctl", "--no-pager", "--output=short-iso-precise", f"--since={since}", f"--lines={JOURNAL_LINES}")
    for unit in units:
        yield f"journal/{unit}.log", partial(run, *journal, f"--unit={unit}")
    for tag in TAGS:
        yield f"journal/{tag}.log", partial(run, *journal, f"--identifier={tag}")
    yield "journal/cloud-init.log", partial(run, *journal, "--unit=cloud-*")
    yield "journal/kernel.log", partial(run, *journal, "--dmesg")
    yield "journal/warnings.log", partial(run, *journal, "--priority=warning")
    for name, command in COMMANDS.items():
        yield f"commands/{name}.txt", partial(run, *command)
    status = ("systemctl", "status", "--no-pager", "--full", "--lines=0")
    yield "commands/systemctl-status.txt", partial(run, *status, *units)
    yield "commands/systemctl-show.txt", partial(run, "systemctl", "show", *units)
    yield "commands/nft-ruleset.txt", packet_filter
    yield "haproxy/metrics.txt", partial(metrics, metrics_port)
    for path in Path("/run/haproxy").glob("*.sock"):
        yield f"haproxy/{path.name}.txt", partial(query_socket, str(path))
    of_units = [f"/etc/systemd/system/{unit}.service{more}" for unit in units for more in ("", ".d/*")]
    for pattern in (*FILES, *of_units):
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            if path.is_file():
                yield f"files{path}", partial(read, str(path))


def attempt(how: Callable[[], str]) -> str:
    """A text, or why it is unavailable: a failure does not affect the other texts."""
    try:
        return how()
    except (OSError, ImportError) as error:
        return f"(unavailable: {error})\n"


def main() -> None:
    """Print all texts."""
    arguments = json.loads(sys.argv[1])
    # Few at once: the host may be in trouble already.
    with ThreadPoolExecutor(max_workers=4) as together:
        found = {path: together.submit(attempt, how) for path, how in sources(**arguments)}
    print(json.dumps({name: text.result() for name, text in found.items()}))  # noqa: T201 - the output


if __name__ == "__main__":
    main()
