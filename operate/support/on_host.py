"""Prints a host's logs, files and command outputs as JSON: texts by path.

Runs there, as root, through `python3 -`. Python's standard library only, 3.10 or newer. The arguments are the host's
role, and JSON with what the function of that role takes: `since`, in journalctl's format, `units`, the services, and
`files`, paths of the files that were applied. It writes nothing on the host, so it works on a full disk, and every step
is limited in time and size. Secrets are removed by `operate/support`, which cannot recognize each one. So nothing is
read that may have others' secrets in it: of other files than the applied ones, only the paths; of the cluster, no
objects but nodes, and the system's pods and events.
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
POD_LOG_BYTES = 2**20
"""Limit of one container's log. kubelet keeps two: the current one, and the one from before the last restart."""
COMMAND_SECONDS = 15
FILES = (
    "/etc/os-release",
    "/var/log/ha-api-install.log",
    "/proc/loadavg",
    "/proc/pressure/*",
    "/proc/net/nf_conntrack_stat",
)
FOLDERS = ("/etc/modules-load.d/*", "/etc/sysctl.d/*", "/usr/local/lib/ha-api/*", "/etc/systemd/system/**/*")
"""Files and folders whose paths are listed. They show what an administrator added."""
LOAD_BALANCER_FOLDERS = ("/etc/haproxy/**/*", "/etc/keepalived/**/*", "/etc/firewalld/**/*")
NODE_FOLDERS = ("/etc/kubernetes/**/*", "/etc/containerd/**/*", "/etc/cni/net.d/*", "/var/lib/ha-api/kubernetes/*")
STATIC_PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
# Not the environment, and not the command lines.
PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,MainPID,ExecMainCode,ExecMainStatus,"
    "ExecMainStartTimestamp,ExecMainExitTimestamp,ActiveEnterTimestamp,InactiveEnterTimestamp,NeedDaemonReload,"
    "FragmentPath,DropInPaths,MemoryCurrent,MemoryPeak,CPUUsageNSec,TasksCurrent,LimitNOFILE,After,Requires,BindsTo"
)
SYSCTLS = (
    "net.ipv4.ip_nonlocal_bind",
    "net.ipv4.ip_forward",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.conf.all.arp_announce",
    "net.ipv4.conf.all.arp_ignore",
    "net.ipv4.conf.all.rp_filter",
    "net.bridge.bridge-nf-call-iptables",
    "net.core.somaxconn",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_timeout_time_wait",
    "fs.file-nr",
)
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "ip-address": ("ip", "-statistics", "-details", "address"),
    "ip-route": ("ip", "route", "show", "table", "all"),
    "ip-neighbour": ("ip", "neighbour"),
    "sockets-summary": ("ss", "--summary"),
    "sockets-listening": ("ss", "--listening", "--numeric", "--tcp", "--udp", "--processes"),
    "sysctl": ("sysctl", "--ignore", *SYSCTLS),
    "systemctl-failed": ("systemctl", "--no-pager", "--failed"),
    "packages": ("dpkg-query", "--show"),
    "time": ("timedatectl", "show", "--all"),
    "disks": ("df", "--human-readable", "--print-type"),
    "inodes": ("df", "--inodes"),
    "memory": ("free", "--mebi"),
    "uptime": ("uptime",),
    "kernel": ("uname", "--all"),
    "processes": ("ps", "-eo", "pid,ppid,user,ni,stat,lstart,time,rss,comm"),
    "cloud-init": ("cloud-init", "status", "--long"),
}
LOAD_BALANCER_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "firewalld-zone": ("firewall-cmd", "--zone=public", "--list-all"),
    "haproxy-version": ("haproxy", "-vv"),
}
# Without a cache it writes nothing below /root.
KUBECTL = (
    "kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "--cache-dir=/dev/null", "--request-timeout=10s", "get",
    "--output=wide",
)  # fmt: skip
BY_AGE = "--sort-by=.metadata.creationTimestamp"
CONTROL_PLANE_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "etcd-members": ("/usr/local/lib/ha-api/etcd.py", "members"),
    "nodes": (*KUBECTL, "nodes"),
    # Events of nodes are in the default namespace, among those of others' pods.
    "events-nodes": (*KUBECTL, "events", "--namespace=default", "--field-selector=involvedObject.kind=Node", BY_AGE),
    **{
        f"{kind}-{namespace}": (*KUBECTL, kind, f"--namespace={namespace}", BY_AGE)
        for kind in ("pods", "events")
        for namespace in ("kube-system", "kube-flannel")
    },
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


def end_of(content: bytes, most: int = MOST_BYTES) -> str:
    """A text, or its last lines if it is long. Never a part of a line, in which a secret would not be found."""
    if len(content) > most:
        content = content[-most:].partition(b"\n")[2]
    return content.decode(errors="replace")


def read(path: str, most: int = MOST_BYTES) -> str:
    """A file, or its last lines."""
    file = Path(path)
    with file.open("rb") as content:
        size = file.stat().st_size
        if size > most:
            content.seek(size - most - 1)
        return end_of(content.read(most + 1), most)


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
        # Not `show errors`: they have the requests in them.
        client.sendall(b"show info;show stat\n")
        with client.makefile("rb") as answer:
            return end_of(answer.read(MOST_BYTES))


def paths_in(patterns: Sequence[str]) -> str:
    """The paths of files and folders, one per line."""
    found = {path for pattern in patterns for path in Path("/").glob(pattern.lstrip("/"))}
    return "".join(f"{path}\n" for path in sorted(found))


Sources = Iterator[tuple[str, Callable[[], str]]]
"""Each text's path, and how to get it."""


def host(since: str, units: Sequence[str], files: Sequence[str], folders: Sequence[str]) -> Sources:
    """What every host has."""
    journal = _journal(since)
    for unit in units:
        yield f"journal/{unit}.log", partial(run, *journal, f"--unit={unit}")
    yield "journal/kernel.log", partial(run, *journal, "--dmesg")
    yield from _outputs(COMMANDS)
    yield "commands/systemctl-show.txt", partial(run, "systemctl", "show", f"--property={PROPERTIES}", *units)
    yield "commands/paths.txt", partial(paths_in, (*FOLDERS, *folders))
    yield from _contents((*FILES, *files))


def load_balancer(since: str, metrics_port: int, units: Sequence[str], files: Sequence[str]) -> Sources:
    """What a load balancer has."""
    yield from host(since, units, ("/run/ha-api/*", *files), LOAD_BALANCER_FOLDERS)
    for tag in TAGS:
        yield f"journal/{tag}.log", partial(run, *_journal(since), f"--identifier={tag}")
    yield from _outputs(LOAD_BALANCER_COMMANDS)
    yield "commands/nft-ruleset.txt", packet_filter
    yield "haproxy/metrics.txt", partial(metrics, metrics_port)
    for path in Path("/run/haproxy").glob("*.sock"):
        yield f"haproxy/{path.name}.txt", partial(query_socket, str(path))


def worker(since: str, units: Sequence[str], files: Sequence[str]) -> Sources:
    """What a node of a cluster has."""
    yield from host(since, units, ("/var/log/ha-api-kubernetes.log", *files), NODE_FOLDERS)
    yield "commands/containers.txt", partial(run, "crictl", "ps", "--all")


def control_plane(since: str, node: str, units: Sequence[str], files: Sequence[str]) -> Sources:
    """What a control-plane host of a cluster has; `node` is its name there."""
    yield from worker(since, units, files)
    yield from _outputs(CONTROL_PLANE_COMMANDS)
    # As kubelet lays them out. From files, because containerd may be what is broken.
    pods = [f"/var/log/pods/kube-system_{part}-{node}_*/{part}/*.log" for part in STATIC_PODS]
    yield from _contents(pods, POD_LOG_BYTES)


ROLES: Mapping[str, Callable[..., Sources]] = {"lb": load_balancer, "cp": control_plane, "worker": worker}


def _journal(since: str) -> tuple[str, ...]:
    return ("journalctl", "--no-pager", "--output=short-iso-precise", f"--since={since}", f"--lines={JOURNAL_LINES}")


def _outputs(commands: Mapping[str, tuple[str, ...]]) -> Sources:
    for name, command in commands.items():
        yield f"commands/{name}.txt", partial(run, *command)


def _contents(patterns: Sequence[str], most: int = MOST_BYTES) -> Sources:
    for pattern in patterns:
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            if path.is_file():
                yield f"files{path}", partial(read, str(path), most)


def attempt(how: Callable[[], str]) -> str:
    """A text, or why it is unavailable: a failure does not affect the other texts."""
    try:
        return how()
    except (OSError, ImportError) as error:
        return f"(unavailable: {error})\n"


def main() -> None:
    """Print all texts."""
    _, role, arguments = sys.argv
    # Few at once: the host may be in trouble already.
    with ThreadPoolExecutor(max_workers=4) as together:
        found = {path: together.submit(attempt, how) for path, how in ROLES[role](**json.loads(arguments))}
    print(json.dumps({name: text.result() for name, text in found.items()}))  # noqa: T201 - the output


if __name__ == "__main__":
    main()
