"""The world of the bench: one segment with two load balancers, three stand-in API servers and a client, in namespaces.

The only trace outside the namespaces is a folder, `/run/habench-PID-...`. All processes end with the bench, even if it
is killed: each asks the kernel to be killed with its parent. The next bench removes folders that a killed one left.

A load balancer boots from the files of this host, with those of the configuration on top (overlayfs), so it runs the
keepalived and HAProxy of the host from their real unit files.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from dev.bench.clients import Clients
from dev.bench.holders import Holders
from dev.bench.standin_systemd import UNIT_VARIABLE
from dev.standin.certificate import self_signed
from model.load_balancers import LoadBalancerHost, LoadBalancerPair
from model.rendering import HostFile
from model.timers import PROFILES, Profile
from model.topology import API_PORT

NETWORK = IPv4Address("198.51.100.0")
VIP = NETWORK + 200
GATEWAY = NETWORK + 1
"""Of the load balancers' default route. No such host exists, and nothing is sent to it."""
INTERFACE = "ens3"
LOAD_BALANCERS = ("k8s-lb-0", "k8s-lb-1")
API_SERVERS = ("k8s-cp-0", "k8s-cp-1", "k8s-cp-2")
WORKERS = ("k8s-worker-0", "k8s-worker-1")
"""Hosts that only a test attaches, behind a frontend."""
CLIENT = "client"
ADDRESSES = {
    CLIENT: NETWORK + 5,
    **{name: NETWORK + 11 + index for index, name in enumerate(LOAD_BALANCERS)},
    **{name: NETWORK + 21 + index for index, name in enumerate(API_SERVERS)},
    **{name: NETWORK + 31 + index for index, name in enumerate(WORKERS)},
}
HAPROXY, KEEPALIVED = "haproxy.service", "keepalived.service"
RUN = Path("/run")
PREFIX = "habench-"
PROJECT = Path(__file__).parents[2]

TOP_PRIORITY = -20
"""Of the bench itself, its clients and API servers, so that they are on time."""
DIE_WITH_BENCH = ("setpriv", "--pdeathsig", "KILL", "--")
"""Command prefix: the kernel kills the command when the thread of the bench that started it ends, for any reason."""

# The first process of a machine, before it becomes the stand-in for systemd. It prints its process id on the host, and
# waits for its interface. $1 is the folder of the machine, $2 its name, $3 the stand-in; the units follow.
BOOT = """
set -eu
folder=$1 name=$2 init=$3
shift 3
read -r pid rest </proc/self/stat
echo "$pid"
read -r go
echo "$name" >/proc/sys/kernel/hostname
# As on a real host; a new namespace inherits it from the machine that runs the bench.
echo 0 >/proc/sys/net/ipv4/ip_forward
mount -t tmpfs -o mode=0755 habench "$folder/overlay"
cd "$folder/overlay"
mkdir upper work root
mount -t overlay -o "lowerdir=/,upperdir=upper,workdir=work" habench root
cd root
for place in run tmp dev etc/haproxy etc/keepalived etc/systemd/system etc/sysctl.d var/lib/haproxy var/log; do
    mkdir -p "$place"
    mount -t tmpfs -o mode=0755 habench "$place"
done
chmod 1777 tmp
mount -t proc proc proc
mount -t sysfs sysfs sys
for node in null zero full random urandom tty; do
    : >dev/$node
    mount --bind "/dev/$node" dev/$node
done
ln -s /proc/self/fd dev/fd
[ ! -d /etc/haproxy/errors ] || cp -a /etc/haproxy/errors etc/haproxy/
cp -a "$folder/tree/." .
mount --bind "$folder/log" var/log
cp "$init" run/standin_systemd.py
exec chroot . /usr/bin/python3 -I /run/standin_systemd.py "$@"
"""


def hosts() -> list[LoadBalancerHost]:
    """The two load balancers, with the defaults of Pulumi.yaml."""
    addresses = [ADDRESSES[name] for name in LOAD_BALANCERS]
    pair = LoadBalancerPair(
        vip=VIP,
        api_servers=tuple((server, ADDRESSES[server]) for server in API_SERVERS),
        vrrp_router_id=51,
        timers=PROFILES[Profile.DEFAULT],
    )
    return [
        LoadBalancerHost(
            name=name,
            address=address,
            peer_address=peer_address,
            interface=INTERFACE,
            pair=pair,
        )
        for name, address, peer_address in zip(LOAD_BALANCERS, addresses, reversed(addresses), strict=True)
    ]


class WorldError(Exception):
    """The world itself does not work; the text says what was expected, and where to look."""


def at_plain_priority() -> tuple[str, ...]:
    """Command prefix for what is measured: it has a plain priority, whatever the bench itself has."""
    return "nice", "-n", str(-os.getpriority(os.PRIO_PROCESS, 0))


def wait_for(what: str, condition: Callable[[], bool], seconds: float, interval: float = 0.02) -> None:
    """Return once `condition` is true; raises WorldError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise WorldError(f"{what}: not within {seconds:g} s")
        time.sleep(interval)


def remove_left_overs() -> None:
    """Remove the folders of killed benches and of this one; their processes end by themselves."""
    for folder in RUN.glob(f"{PREFIX}*"):
        pid = folder.name.split("-")[1]
        if pid == str(os.getpid()) or not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class Namespace:
    """A network namespace that exists as long as its first process runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        # `cat` waits without a timer, and ends with the pipe at the latest.
        self._process = subprocess.Popen(
            [*DIE_WITH_BENCH, "unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self.pid = self._process.pid
        _wait_for_namespace(name, self.pid)
        self.run("ip", "link", "set", "lo", "up")

    def enter(self, *words: str) -> list[str]:
        """A command line that runs `words` inside."""
        return ["nsenter", "--target", str(self.pid), "--net", *words]

    def run(self, *words: str, stdin: str = "") -> str:
        """Run a command inside and return its output; raises WorldError if it fails."""
        done = subprocess.run(self.enter(*words), input=stdin, capture_output=True, text=True, check=False, timeout=20)
        if done.returncode:
            raise WorldError(f"in {self.name}: {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def close(self) -> None:
        """End its first process."""
        self._process.kill()
        self._process.communicate()


def _wait_for_namespace(name: str, pid: int) -> None:
    own = Path("/proc/self/ns/net").readlink()

    def entered() -> bool:
        try:
            return Path(f"/proc/{pid}/ns/net").readlink() != own
        except OSError as error:
            raise WorldError(f"{name}: cannot create namespaces; run the bench as root, on Linux") from error

    wait_for(f"{name} has its own namespaces", entered, 10, 0.005)


class Segment(Namespace):
    """The bridge that connects all hosts, and the place where the network is broken.

    No host loses its carrier when it breaks here, as when a hypervisor dies under a peer.
    """

    def __init__(self) -> None:
        super().__init__("segment")
        # No snooping: multicast VRRP must reach all hosts although none has joined the group.
        self.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        self.run("ip", "link", "set", "br0", "up")
        self.restore()

    def attach(self, name: str, pid: int) -> None:
        """Give the namespace of process `pid` the interface of host `name`, always with the same MAC address."""
        address = ADDRESSES[name]
        mac = f"02:00:00:00:00:{int(address) & 0xFF:02x}"
        with suppress(WorldError):  # left by the previous machine while its namespace is still going away
            self.run("ip", "link", "delete", name)
        self.run("ip", "-batch", "-", stdin=(
            f"link add {name} type veth peer name {INTERFACE} address {mac} netns {pid}\n"
            f"link set {name} master br0 up\n"
        ))  # fmt: skip
        inside = ["nsenter", "--target", str(pid), "--net", "ip", "-batch", "-"]
        commands = f"link set lo up\naddress add {address}/24 dev {INTERFACE}\nlink set {INTERFACE} up\n"
        subprocess.run(inside, input=commands, text=True, check=True, timeout=20)

    def restore(self) -> None:
        """Let all packets pass."""
        self.run("nft", "-f", "-", stdin=(
            "table bridge habench {}\ndelete table bridge habench\n"
            "table bridge habench { chain forward { type filter hook forward priority 0; }; }\n"
        ))  # fmt: skip

    def _add(self, rules: Iterable[str]) -> None:
        self.run("nft", "-f", "-", stdin="".join(f"add rule bridge habench forward {rule}\n" for rule in rules))

    def isolate(self, *hosts: str) -> None:
        """Drop all packets to and from hosts, from the same moment on."""
        self._add(f"{side} {host} drop" for host in hosts for side in ("iifname", "oifname"))

    def separate(self, host: str, others: Sequence[str], percent: int = 100) -> None:
        """Drop `percent` of the IP packets between a host and others, in both directions. ARP passes."""
        chance = "" if percent == 100 else f"numgen random mod 100 < {percent} "
        self._add(
            f"iifname {a} oifname {b} ether type ip {chance}drop"
            for other in others
            for a, b in ((host, other), (other, host))
        )

    def deafen(self, host: str, other: str) -> None:
        """Drop the IP packets from another host to this one. Those in the other direction pass, and so does ARP."""
        self._add((f"iifname {other} oifname {host} ether type ip drop",))

    def unplug(self, host: str) -> None:
        """Take the carrier off a host's interface."""
        self.run("ip", "link", "set", host, "down")

    def plug(self, host: str) -> None:
        """Give a host's interface its carrier back."""
        self.run("ip", "link", "set", host, "up")


class ApiServer:
    """A stand-in API server on its own host; the kernel of the host survives when the server is killed."""

    def __init__(self, name: str, segment: Segment, folder: Path, certificate: Path) -> None:
        self.name = name
        self._namespace = Namespace(name)
        segment.attach(name, self._namespace.pid)
        self._certificate = certificate
        self._health = folder / f"{name}.health"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it unless it is running."""
        if self._process is not None and self._process.poll() is None:
            return
        command = (
            sys.executable, "-m", "dev.standin.http2", "--listen", str(ADDRESSES[self.name]),
            "--certificate", str(self._certificate), "--key", str(self._certificate),
            "--health-file", str(self._health), "--backend", self.name,
        )  # fmt: skip
        self.run(command)

    def run(self, command: Sequence[str]) -> None:
        """Replace the running program on this host by another."""
        self.signal(signal.SIGKILL)
        self._process = subprocess.Popen(
            [*DIE_WITH_BENCH, *self._namespace.enter(*command)],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def answer(self, word: str) -> None:
        """Set how it answers from now on; for the words see dev/standin/apiserver.py."""
        new = self._health.with_suffix(".new")
        new.write_text(word)
        new.rename(self._health)

    def stop_listening(self) -> None:
        """Refuse new connections and serve those that are open, as a kube-apiserver does while it stops in order."""
        self._namespace.run("nft", "-f", "-", stdin=(
            "table ip stopping { chain input { type filter hook input priority 0; "
            f"tcp dport {API_PORT} tcp flags & (syn | ack) == syn reject with tcp reset; }}; }}\n"
        ))  # fmt: skip

    def listen(self) -> None:
        """Accept new connections again."""
        self._namespace.run("nft", "-f", "-", stdin="table ip stopping {}\ndelete table ip stopping\n")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process."""
        if self._process is not None:
            self._process.send_signal(number)
            if number == signal.SIGKILL:
                self._process.wait()

    def close(self) -> None:
        """Stop it and its host."""
        self.signal(signal.SIGKILL)
        self._namespace.close()


class Machine:
    """A load balancer: namespaces, a tree of files, and services under a stand-in for systemd."""

    def __init__(self, name: str, files: Sequence[HostFile], folder: Path, log: Path) -> None:
        self.name = name
        self.address = str(ADDRESSES[name])
        self.files = files
        self._folder, self._log = folder / name, log / name
        self._process: subprocess.Popen[str] | None = None
        self.pid = 0
        """The id on the host of the PID 1 of the machine."""

    @property
    def running(self) -> bool:
        """Whether it was booted and not powered off."""
        return self._process is not None

    @property
    def units(self) -> list[str]:
        """The two units of Debian and those of the configuration, in the order in which they are enabled."""
        own = [Path(f.path).name for f in self.files if Path(f.path).match("etc/systemd/system/*.service")]
        return list(dict.fromkeys((HAPROXY, *own, KEEPALIVED)))

    def boot(self, segment: Segment, holders: Holders) -> None:
        """Start it with its original files and all units enabled; returns before the units are up."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._log.mkdir(parents=True, exist_ok=True)
        for place in ("tree", "overlay", "log"):
            (self._folder / place).mkdir(parents=True)
        (self._folder / "log").rmdir()
        (self._folder / "log").symlink_to(self._log.resolve())
        for file in self.files:
            path = self._folder / "tree" / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text)
            path.chmod(file.mode)
        unshare = ("unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL", "--")
        arguments = (str(self._folder), self.name, str(PROJECT / "dev/bench/standin_systemd.py"), *self.units)
        with (self._log / "console.log").open("a") as console:
            self._process = subprocess.Popen(
                [*DIE_WITH_BENCH, *at_plain_priority(), *unshare, "sh", "-c", BOOT, "boot", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=console,
                text=True,
            )
        assert self._process.stdin and self._process.stdout  # noqa: S101 what PIPE means
        self.pid = int(self._process.stdout.readline() or 0)
        if not self.pid:
            raise WorldError(f"{self.name} did not boot: {(self._log / 'console.log').read_text()[-500:]}")
        segment.attach(self.name, self.pid)
        self.get_default_route()
        holders.follow(self.name, self.pid)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    @property
    def booted(self) -> bool:
        """Whether all units have been started; raises WorldError if the machine died instead."""
        if self._process is None or self._process.poll() is not None:
            raise WorldError(f"{self.name} died during boot; see {self._log}")
        return self._control_socket.exists()

    def power_off(self, holders: Holders) -> None:
        """Cut the power: all processes are gone at once, without sending anything."""
        if self._process is None:
            return
        _send([self.pid], signal.SIGKILL)
        self._process.kill()
        self._process.communicate()
        self._process = None
        holders.lost(self.name)

    # ---- processes, by their ids on the host

    def processes(self, unit: str | None = None, command: str | None = None) -> list[int]:
        """The processes of the machine, PID 1 first; optionally only those of a unit, or with this command name."""
        namespace = Path(f"/proc/{self.pid}/ns/pid").readlink()
        wanted = f"{UNIT_VARIABLE}={unit}".encode()
        found: list[int] = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (
                    (process / "ns/pid").readlink() == namespace
                    and (unit is None or wanted in (process / "environ").read_bytes().split(b"\0"))
                    and (command is None or (process / "comm").read_text().strip() == command)
                ):
                    found.append(int(process.name))
            except OSError:  # it has just ended
                continue
        return sorted(found)

    def main_process(self, unit: str) -> int:
        """The main process of a unit, the parent of its others; raises WorldError if it is not running."""
        for pid in self.processes(unit):
            with suppress(OSError):  # it has just ended
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.pid:
                    return pid
        raise WorldError(f"{unit} is not running on {self.name}")

    def signal(self, number: signal.Signals, unit: str | None = None) -> None:
        """Send a signal to all processes of a unit, or of the whole machine."""
        processes = self.processes(unit)
        if number == signal.SIGKILL:
            # keepalived's child sends priority 0 when its parent is gone, and the kernel then continues a stopped child
            # (exit(3)). So kill children first, while the parent is stopped and cannot start another one.
            _send(processes, signal.SIGSTOP)
            processes.reverse()
        _send(processes, number)

    def ip(self, *words: str) -> None:
        """Run `ip` in its network; raises CalledProcessError if it refuses."""
        command = ["nsenter", "--target", str(self.pid), "--net", "ip", *words]
        subprocess.run(command, check=True, capture_output=True, timeout=20)

    def lose_default_route(self) -> None:
        """Delete its default route."""
        self.ip("route", "delete", "default")

    def lose_address(self) -> None:
        """Delete its own address, and with it its default route, as a DHCP client does that gives up."""
        self.ip("address", "delete", f"{self.address}/24", "dev", INTERFACE)

    def get_address(self) -> None:
        """Add its own address and its default route."""
        self.ip("address", "add", f"{self.address}/24", "dev", INTERFACE)
        self.get_default_route()

    def get_default_route(self) -> None:
        """Add its default route, which goes with its address."""
        self.ip("route", "add", "default", "via", str(GATEWAY), "src", self.address)

    # ---- services and files

    @property
    def root(self) -> Path:
        """The root folder of the machine, as seen from the host."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def _control_socket(self) -> Path:
        return self.root / "run/standin-systemd.sock"

    def systemctl(self, verb: str, unit: str, limit: float = 100) -> str | None:
        """Run start, stop, restart, reload or reset-failed for a unit, and wait; returns the error, or None."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(limit)
            control.connect(str(self._control_socket))
            control.sendall(json.dumps([verb, unit]).encode() + b"\n")
            with control.makefile() as answers:
                return json.loads(answers.readline() or '"the machine died"')

    def reload_with(self, path: str, text: str, unit: str) -> str | None:
        """Replace a file, and reload a unit; returns the error, or None."""
        file = self.root / path
        # Not in place: a program that reads the file now must see either the old or the new one.
        new = file.with_name(file.name + ".new")
        new.write_text(text)
        new.chmod(file.stat().st_mode & 0o7777)
        new.rename(file)
        return self.systemctl("reload", unit)

    def vrrp(self) -> Mapping[str, str]:
        """The state that keepalived reports for its first instance and its checks: `State`, `Effective priority` etc.

        It writes a file on SIGUSR1 (keepalived(8)). The first value of a name counts, but any `Status = BAD` wins.
        """
        dump = self.root / "tmp/keepalived.data"
        dump.unlink(missing_ok=True)
        os.kill(self.main_process(KEEPALIVED), signal.SIGUSR1)
        text = ""

        def written() -> bool:
            nonlocal text
            with suppress(FileNotFoundError):
                text = dump.read_text()
            return "------< Interfaces >------" in text  # its last part

        wait_for(f"keepalived on {self.name} writes its state", written, 5, 0.01)
        values: dict[str, str] = {}
        for line in text.partition("------< VRRP Topology >------")[2].splitlines():
            name, _, value = (part.strip() for part in line.partition(" = "))
            if name == "Status" and value == "BAD":
                values[name] = value
            values.setdefault(name, value)
        return values

    def shut_down(self, holders: Holders) -> None:
        """Stop all units in reverse order, as `systemctl poweroff` does, and power off."""
        for unit in reversed(self.units):
            self.systemctl("stop", unit)
        self.power_off(holders)


def _holders_text(names: Sequence[str]) -> str:
    return f"the VIP is on {' and '.join(names) or 'no host'}"


class World:
    """All hosts of one configuration. `log` is the folder for the journals of the machines."""

    def __init__(self, files: Callable[[LoadBalancerHost], Sequence[HostFile]], log: Path) -> None:
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=RUN))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            self.holders = stack.enter_context(closing(Holders(str(VIP))))
            self.segment = stack.enter_context(closing(Segment()))
            pair = self_signed("kubernetes", map(str, ADDRESSES.values()))
            self.certificate = folder / "certificate.pem"
            """The certificate of all API servers, with its key."""
            self.certificate.touch(mode=0o600)
            self.certificate.write_bytes(pair.certificate + pair.key)
            self.api_servers = [
                stack.enter_context(closing(ApiServer(name, self.segment, folder, self.certificate)))
                for name in API_SERVERS
            ]
            client = stack.enter_context(closing(Namespace(CLIENT)))
            self.segment.attach(CLIENT, client.pid)
            self.clients = stack.enter_context(closing(Clients(f"/proc/{client.pid}/ns/net", str(VIP))))
            self.machines = [Machine(host.name, files(host), folder, log) for host in hosts()]
            for machine in self.machines:
                stack.callback(machine.power_off, self.holders)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def holder(self) -> Machine:
        """The load balancer that has the VIP; raises WorldError unless exactly one has."""
        names = self.holders.current()
        if len(names) != 1:
            raise WorldError(_holders_text(names))
        return next(machine for machine in self.machines if machine.name == names[0])

    @property
    def peer(self) -> Machine:
        """The other load balancer."""
        holder = self.holder
        return next(machine for machine in self.machines if machine is not holder)

    def boot(self, machine: Machine, seconds: float = 20) -> None:
        """Boot a machine and wait until its units are up."""
        machine.boot(self.segment, self.holders)
        wait_for(f"all units of {machine.name} are up", lambda: machine.booted, seconds)

    def repair(self, seconds: float = 40) -> None:
        """Repair everything, and wait until nothing changes for 3 s; WorldError says what is still broken."""
        self.segment.restore()
        for server in self.api_servers:
            server.signal(signal.SIGCONT)
            server.answer("healthy")
            server.listen()
            server.start()
        for machine in self.machines:
            if not machine.running:
                machine.boot(self.segment, self.holders)
        for machine in self.machines:
            wait_for(f"all units of {machine.name} are up", lambda m=machine: m.booted, seconds)
            machine.signal(signal.SIGCONT)
            for unit in machine.units:
                machine.systemctl("reset-failed", unit)
                if error := machine.systemctl("start", unit):
                    raise WorldError(f"{machine.name}: {error}")
        self.wait_until_serving(seconds, self.machines)

    def wait_until_serving(self, seconds: float, machines: Sequence[Machine], steady: float = 3.0) -> None:
        """Wait until one machine has the VIP, all `machines` work, and nothing has changed for `steady` seconds."""
        deadline, since, problem = time.monotonic() + seconds, time.monotonic(), ""
        while True:
            problem = next(self._problems(machines), "")
            now = time.monotonic()
            if problem:
                since = now
            if now - max(since, self.holders.last_change) >= steady:
                return
            if now > deadline:
                raise WorldError(f"still broken after {seconds:g} s: {problem or 'the VIP keeps moving'}")
            time.sleep(0.5)

    def _problems(self, machines: Sequence[Machine]) -> Iterator[str]:
        names = self.holders.current()
        if len(names) != 1:
            yield _holders_text(names)
        for machine in machines:
            # Any balancing algorithm reaches all three servers in this many requests, unless one is out.
            seen = {self.clients.ask(machine.address) for _ in range(2 * len(API_SERVERS))}
            if missing := set(API_SERVERS) - seen:
                yield f"{machine.name} does not reach {', '.join(sorted(missing))}"
        try:
            states = {machine.name: machine.vrrp() for machine in machines}
        except WorldError as error:  # it is being restarted
            yield str(error)
            return
        for name, state in states.items():
            # A standby in state FAULT sends nothing, so only its own state shows it.
            if state["State"] != ("MASTER" if name in names else "BACKUP"):
                yield f"keepalived on {name} is in state {state['State']}"
            if state.get("Status") == "BAD":
                yield f"a check of keepalived on {name} fails"
        preempting = [
            state for state in states.values() if state["Preempt"] == "enabled" and state["State"] == "BACKUP"
        ]
        highest = max(int(state["Effective priority"]) for state in states.values() if state["State"] == "MASTER")
        if any(int(state["Effective priority"]) > highest for state in preempting):
            yield "the VIP is about to move to a host with a higher priority"
