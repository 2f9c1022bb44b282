"""What somebody far away needs to understand a load balancer, as JSON on standard output: text by path.

Runs there, as root, through `python3 -`. Python's standard library only, 3.10 or newer. The argument is JSON: `since`,
as journalctl takes it, and `metrics_port`. Nothing is written on the host, so a full disk is no hindrance, and every
step is bounded in time and in size. Secrets are removed by the one who asked, who knows them.
"""

import importlib
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

UNITS = ("keepalived", "haproxy", "ha-api-watchdog", "firewalld")
TAGS = ("vrrp", "check_haproxy")
JOURNAL_LINES = 20_000
MOST_BYTES = 4 * 2**20
"""Of one text; of a longer one the end is kept."""
COMMAND_SECONDS = 15
NEVER = ("/etc/haproxy/ha-api/client.pem",)
"""A private key and its certificate: nobody else needs either."""
FILES = (
    "/etc/haproxy/**/*",
    "/etc/keepalived/**/*",
    "/usr/local/lib/ha-api/*",
    "/etc/firewalld/**/*.xml",
    "/etc/firewalld/*.conf",
    "/etc/sysctl.d/*",
    "/etc/systemd/system/*.service",
    "/etc/systemd/system/*.service.d/*",
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
    "systemctl-status": ("systemctl", "status", "--no-pager", "--full", "--lines=0", *UNITS),
    "systemctl-show": ("systemctl", "show", *UNITS),
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
    """What a command prints, and how it ended where it did not end well."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=COMMAND_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        return end_of(error.stdout or b"") + f"\n(cut off after {COMMAND_SECONDS} s)\n"
    text = end_of(done.stdout)
    return text if done.returncode == 0 else f"{text}\n(ended with status {done.returncode})\n"


def end_of(content: bytes) -> str:
    """A text, or the lines at its end where it is long: never a part of a line, in which no secret would be found."""
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
    """The kernel's rules, through the library with which firewalld sets them; `nft` need not be there."""
    _, rules, error = importlib.import_module("nftables").Nftables().cmd("list ruleset")
    return rules + error


def metrics(port: int) -> str:
    """HAProxy's numbers."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the environment names
    with direct.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return end_of(answer.read(MOST_BYTES))


def ask_socket(path: str) -> str:
    """What HAProxy says on a socket for administrators, which an image or a hand may have added."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(path)
        client.sendall(b"show info;show stat;show errors\n")
        with client.makefile("rb") as answer:
            return end_of(answer.read(MOST_BYTES))


def sources(since: str, metrics_port: int) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each text's name, and how it is had."""
    journal = ("journalctl", "--no-pager", "--output=short-iso-precise", f"--since={since}", f"--lines={JOURNAL_LINES}")
    for unit in UNITS:
        yield f"journal/{unit}.log", partial(run, *journal, f"--unit={unit}")
    for tag in TAGS:
        yield f"journal/{tag}.log", partial(run, *journal, f"--identifier={tag}")
    yield "journal/cloud-init.log", partial(run, *journal, "--unit=cloud-*")
    yield "journal/kernel.log", partial(run, *journal, "--dmesg")
    yield "journal/warnings.log", partial(run, *journal, "--priority=warning")
    for name, command in COMMANDS.items():
        yield f"commands/{name}.txt", partial(run, *command)
    yield "commands/nft-ruleset.txt", packet_filter
    yield "haproxy/metrics.txt", partial(metrics, metrics_port)
    for path in Path("/run/haproxy").glob("*.sock"):
        yield f"haproxy/{path.name}.txt", partial(ask_socket, str(path))
    for pattern in FILES:
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            if path.is_file() and str(path.resolve()) not in NEVER:
                yield f"files{path}", partial(read, str(path))


def attempt(how: Callable[[], str]) -> str:
    """A text, or why it cannot be had: one that fails takes no other with it."""
    try:
        return how()
    except (OSError, ImportError) as error:
        return f"(not to be had: {error})\n"


def main() -> None:
    """Print all of it."""
    asked = json.loads(sys.argv[1])
    # Few at once: the host may be in distress already.
    with ThreadPoolExecutor(max_workers=4) as together:
        found = {name: together.submit(attempt, how) for name, how in sources(asked["since"], asked["metrics_port"])}
    print(json.dumps({name: text.result() for name, text in found.items()}))  # noqa: T201 - read by the one who asked


if __name__ == "__main__":
    main()
