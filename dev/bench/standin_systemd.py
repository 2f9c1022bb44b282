"""A STAND-IN for systemd: PID 1 of a load balancer in the bench, which is a set of namespaces instead of a machine.

It reads the real unit files and drop-ins, merges them as in systemd.unit(5), and follows systemd.service(5),
systemd.exec(5) and systemd.kill(5) for the directives that the units here use: it starts, stops and reloads units, and
restarts those that failed. It names unknown directives in the journal once, and ignores them. Of sandboxing it knows
only capabilities, of dependencies only the order (`After=`), and it has no cgroups: the processes of a unit are those
that inherited its name in their environment.

It runs with Debian's Python inside the machine, so it uses only the standard library. A request is one line of JSON on
a Unix socket, `["restart", "haproxy.service"]`, and so is the answer: the error, or null.
"""
# The blocking calls here only touch a few files in memory.
# ruff: noqa: ASYNC221, ASYNC230, ASYNC240

import asyncio
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

UNIT_FOLDERS = (Path("/lib/systemd/system"), Path("/etc/systemd/system"))
"""Later folders take precedence, as in systemd.unit(5)."""
CONTROL_SOCKET = Path("/run/standin-systemd.sock")
JOURNAL = Path("/var/log/journal.log")
UNIT_VARIABLE = "STANDIN_UNIT"
"""Set in the environment of all processes of a unit; systemd would find them by their cgroup."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Service = Mapping[str, Sequence[str]]
"""The merged [Service] section: the values of each directive in order, empty after an empty assignment."""

# Directives with no effect on what the bench measures.
WITHOUT_EFFECT = frozenset(
    {"BindReadOnlyPaths", "NoNewPrivileges", "StandardOutput", "StandardError", "SyslogIdentifier"}
)
KNOWN = frozenset(
    {
        "AmbientCapabilities", "CapabilityBoundingSet", "Environment", "EnvironmentFile", "ExecReload", "ExecStart",
        "ExecStartPost", "ExecStartPre", "ExecStop", "ExecStopPost", "KillMode", "KillSignal", "LimitNOFILE", "Nice",
        "OOMScoreAdjust", "RemainAfterExit", "Restart", "RestartSec", "RuntimeDirectory", "RuntimeDirectoryMode",
        "RuntimeDirectoryPreserve", "SuccessExitStatus", "TimeoutStartSec", "TimeoutStopSec", "Type",
    }
)  # fmt: skip


class UnitError(Exception):
    """A unit cannot be read, or a job for it failed; the message says why."""


# ---- unit files ------------------------------------------------------------------------------------------------------


def merge(texts: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """The sections of a unit file and its drop-ins, in order; an empty assignment clears the earlier values."""
    sections: dict[str, dict[str, list[str]]] = {}
    for text in texts:
        section: dict[str, list[str]] = {}
        # A backslash at the end continues a line; comment lines in between are dropped (systemd.syntax(7)).
        lines = (line for line in text.splitlines() if not line.lstrip().startswith(("#", ";")))
        for line in "\n".join(lines).replace("\\\n", " ").splitlines():
            stripped = line.strip()
            if stripped.startswith("["):
                section = sections.setdefault(stripped.strip("[]"), {})
            elif "=" in stripped:
                key, _, value = stripped.partition("=")
                values = section.setdefault(key.strip(), [])
                if value.strip():
                    values.append(value.strip())
                else:
                    values.clear()
    return sections


def read_unit(name: str, folders: Sequence[Path] = UNIT_FOLDERS) -> dict[str, dict[str, list[str]]]:
    """The effective unit: the last of its files, then all drop-ins by name; raises UnitError if there is no file."""
    files = [folder / name for folder in folders if (folder / name).is_file()]
    if not files:
        raise UnitError(f"no unit file {name} in {', '.join(map(str, folders))}")
    dropins = {path.name: path for folder in folders for path in (folder / f"{name}.d").glob("*.conf")}
    return merge(path.read_text() for path in (files[-1], *(dropins[key] for key in sorted(dropins))))


def seconds(text: str) -> float:
    """A time span of systemd.time(7), such as `5`, `1min 30s` or `300ms`."""
    if text == "infinity":
        return float("inf")
    units = {"": 1.0, "ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)\s*([a-z]*)", text))


@dataclass(frozen=True)
class Command:
    """One command line of a unit."""

    words: tuple[str, ...]
    may_fail: bool

    @classmethod
    def parse(cls, line: str) -> "Command":
        """A leading `-` means that it may fail; `+` and `!` add privileges, which all units here have anyway."""
        prefix = line[: len(line) - len(line.lstrip("-+!@:"))]
        return cls(tuple(shlex.split(line[len(prefix) :])), "-" in prefix)

    def expanded(self, environment: Mapping[str, str]) -> list[str]:
        """Expand variables: a word `$NAME` becomes any number of words, `${NAME}` stays within its word."""
        words: list[str] = []
        for word in self.words:
            if whole := re.fullmatch(r"\$(\w+)", word):
                words += environment.get(whole[1], "").split()
            else:
                words.append(re.sub(r"\$\{(\w+)\}", lambda found: environment.get(found[1], ""), word))
        return words


def environment_of(service: Service, base: Mapping[str, str]) -> dict[str, str]:
    """`base`, then Environment=, then the files (systemd.exec(5)); raises UnitError if a mandatory file is missing."""
    environment = dict(base)
    for line in service.get("Environment", ()):
        for assignment in shlex.split(line):
            key, _, value = assignment.partition("=")
            environment[key] = value
    for name in service.get("EnvironmentFile", ()):
        path = Path(name.removeprefix("-"))
        if not path.exists():
            if name.startswith("-"):
                continue
            raise UnitError(f"EnvironmentFile={path}: no such file")
        for line in path.read_text().splitlines():
            if "=" in line and not line.lstrip().startswith(("#", ";")):
                key, _, value = line.partition("=")
                environment[key.strip()] = " ".join(shlex.split(value))
    return environment


# ---- processes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exit:
    """How a process ended."""

    status: int
    """As os.waitstatus_to_exitcode() returns it: negative for a signal."""

    @property
    def variables(self) -> dict[str, str]:
        """The variables for ExecStopPost= (systemd.exec(5)), without $SERVICE_RESULT."""
        if self.status < 0:
            return {"EXIT_CODE": "killed", "EXIT_STATUS": signal.Signals(-self.status).name.removeprefix("SIG")}
        return {"EXIT_CODE": "exited", "EXIT_STATUS": str(self.status)}

    def clean(self, also: Iterable[str] = ()) -> bool:
        """Whether systemd counts it as a success; `also` is SuccessExitStatus=."""
        harmless = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
        names = {str(self.status)} if self.status >= 0 else {signal.Signals(-self.status).name}
        return self.status == 0 or -self.status in harmless or bool(names & {w for line in also for w in line.split()})


@dataclass
class Machine:
    """State shared by all units."""

    journal: IO[str]
    exits: dict[int, "asyncio.Future[Exit]"] = field(default_factory=dict[int, "asyncio.Future[Exit]"])

    def log(self, source: str, text: str) -> None:
        """Write a line to the journal, with the time of the monotonic clock, like the bench."""
        self.journal.write(f"{time.monotonic():.3f} {source}: {text}\n")
        self.journal.flush()

    def reap(self) -> None:
        """Reap all children that ended, including orphans, as PID 1 must."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self.exits:
                self.exits.pop(pid).set_result(Exit(os.waitstatus_to_exitcode(status)))

    def collect(self, source: str, stream: int) -> None:
        """Copy the lines from a pipe or a datagram socket to the journal."""
        loop = asyncio.get_running_loop()

        def ready() -> None:
            data = os.read(stream, 65536)
            if not data:
                loop.remove_reader(stream)
                os.close(stream)
            for line in data.decode(errors="replace").splitlines():
                self.log(source, line)

        loop.add_reader(stream, ready)


def members(unit: str) -> list[int]:
    """The processes of a unit, without zombies, which no longer have an environment."""
    wanted = f"{UNIT_VARIABLE}={unit}".encode()
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:  # it has just ended
            continue
    return found


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes that may already be gone."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _resolve(up: "asyncio.Future[None]") -> None:
    if not up.done():
        up.set_result(None)


# ---- units -----------------------------------------------------------------------------------------------------------


class Unit:
    """A service, with its starts, stops and restarts."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.name = name
        self._machine = machine
        self.sections = read_unit(name)
        self._service: Service = self.sections.get("Service", {})
        for directive in sorted(self._service.keys() - KNOWN - WITHOUT_EFFECT):
            machine.log("systemd", f"{name}: {directive}= is not supported here and ignored")
        if self._one("Type", "simple") not in ("simple", "exec", "notify", "oneshot"):
            raise UnitError(f"{name}: Type={self._one('Type')} is not supported by this stand-in")
        self.state = "inactive"
        self._main: int | None = None
        self._stop = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._starts: list[float] = []

    def _one(self, key: str, default: str = "") -> str:
        values = self._service.get(key, ())
        return values[-1] if values else default

    def _commands(self, key: str) -> list[Command]:
        return [Command.parse(line) for line in self._service.get(key, ())]

    @property
    def _base(self) -> dict[str, str]:
        base = {"PATH": PATH, "LANG": "C.UTF-8", UNIT_VARIABLE: self.name, "NOTIFY_SOCKET": self._notify_path}
        if self._main is not None:
            base["MAINPID"] = str(self._main)
        return base

    @property
    def _notify_path(self) -> str:
        return f"/run/systemd/notify.{self.name}"

    # -- jobs, like those of systemctl

    async def start(self) -> None:
        """Start it, and wait until it is up."""
        if self._life is not None and not self._life.done():
            return
        self._stop = asyncio.Event()
        up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(up))
        await asyncio.wait((up, self._life), return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            await self._life  # raises if this program itself failed
        await up

    async def stop(self) -> None:
        """Stop it, and wait until it is down."""
        self._stop.set()
        if self._life is not None:
            await self._life

    async def restart(self) -> None:
        """Stop it and start it."""
        await self.stop()
        await self.start()

    async def reset_failed(self) -> None:
        """Reset the start limit."""
        self._starts.clear()

    async def reload(self) -> None:
        """Run the ExecReload= commands; stops at the first that fails."""
        if self.state != "active":
            raise UnitError(f"{self.name} is not active and cannot be reloaded")
        for command in self._commands("ExecReload"):
            await self._run("ExecReload", command)

    # -- life

    async def _live(self, up: "asyncio.Future[None]") -> None:
        while True:
            if self._start_limit_hit():
                self.state = "failed"
                self._machine.log("systemd", f"{self.name}: start limit hit, stays down")
                if not up.done():
                    up.set_exception(UnitError(f"{self.name}: start limit hit"))
                return
            self.state = "activating"
            result, exit_ = await self._live_once(up)
            self.state = "inactive" if result == "success" else "failed"
            self._machine.log("systemd", f"{self.name} ended: {result} {exit_.variables}")
            clean = result == "success"
            restarts = {
                "no": False,
                "always": True,
                "on-success": clean,
                "on-failure": not clean,
                "on-abnormal": result in ("signal", "timeout"),
                "on-abort": result == "signal",
            }
            again = restarts[self._one("Restart", "no")]
            if not up.done():
                if again:
                    _resolve(up)  # in systemd the job fails here, and the restarts go on
                else:
                    up.set_exception(UnitError(f"{self.name} did not start: {result} {exit_.variables}"))
            preserve = self._one("RuntimeDirectoryPreserve", "no")
            if preserve == "no" or (preserve == "restart" and (self._stop.is_set() or not again)):
                for folder in self._runtime_folders():
                    subprocess.run(["rm", "-rf", folder], check=True)
            if self._stop.is_set() or not again:
                return
            try:
                await asyncio.wait_for(self._stop.wait(), seconds(self._one("RestartSec", "100ms")))
            except TimeoutError:
                continue
            return

    def _start_limit_hit(self) -> bool:
        """Apply StartLimitIntervalSec= and StartLimitBurst= (systemd.unit(5)); the default is 5 starts in 10 s."""
        limits = self.sections.get("Unit", {})
        interval = seconds((limits.get("StartLimitIntervalSec") or ["10"])[-1])
        now = time.monotonic()
        self._starts = [*(at for at in self._starts if now - at < interval), now]
        return len(self._starts) > int((limits.get("StartLimitBurst") or ["5"])[-1])

    async def _live_once(self, up: "asyncio.Future[None]") -> tuple[str, Exit]:
        """Run from ExecStartPre= to ExecStopPost=; returns the result as systemd names it, and the exit."""
        result, exit_ = "success", Exit(0)
        for folder in self._runtime_folders():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(int(self._one("RuntimeDirectoryMode", "0755"), 8))
        try:
            for command in self._commands("ExecStartPre"):
                await self._run("ExecStartPre", command)
            result, exit_ = await self._main_process(up)
        except UnitError as error:
            self._machine.log("systemd", str(error))
            result, exit_ = "exit-code", Exit(1)
        # End what is left of the unit before ExecStopPost= runs; a live main process has already got its signal.
        await self._end_processes(signal.SIGTERM)
        for command in self._commands("ExecStopPost"):
            try:
                await self._run("ExecStopPost", command, {"SERVICE_RESULT": result, **exit_.variables})
            except UnitError as error:
                self._machine.log("systemd", str(error))
        await self._end_processes(signal.SIGKILL)
        self._main = None
        return result, exit_

    async def _main_process(self, up: "asyncio.Future[None]") -> tuple[str, Exit]:
        type_ = self._one("Type", "simple")
        ended: asyncio.Future[Exit]
        if type_ == "oneshot":
            for command in self._commands("ExecStart"):
                await self._run("ExecStart", command)
            _resolve(up)
            if self._one("RemainAfterExit") in ("yes", "true", "1"):
                self.state = "active"
                await self._stop.wait()
            return "success", Exit(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notify:
            Path(self._notify_path).unlink(missing_ok=True)
            notify.bind(self._notify_path)
            ready = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(notify, self._notified, notify, ready)
            try:
                self._main, ended = self._spawn(self._commands("ExecStart")[-1], {})
                started = asyncio.create_task(ready.wait() if type_ == "notify" else asyncio.sleep(0))
                stopped = asyncio.create_task(self._stop.wait())
                await asyncio.wait(
                    (started, ended, stopped),
                    timeout=seconds(self._one("TimeoutStartSec", "90")),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not started.done() and not ended.done() and not stopped.done():
                    self._machine.log("systemd", f"{self.name} sent no READY=1 in time")
                    return "timeout", Exit(-signal.SIGTERM)
                if not ended.done():
                    for command in self._commands("ExecStartPost"):
                        await self._run("ExecStartPost", command)
                    self.state = "active"
                    _resolve(up)
                    await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    self.state = "deactivating"
                    return await self._stop_main(ended)
                exit_ = await ended
            finally:
                loop.remove_reader(notify)
        if exit_.clean(self._service.get("SuccessExitStatus", ())):
            return "success", exit_
        return ("signal" if exit_.status < 0 else "exit-code"), exit_

    async def _stop_main(self, ended: "asyncio.Future[Exit]") -> tuple[str, Exit]:
        for command in self._commands("ExecStop"):
            try:
                await self._run("ExecStop", command)
            except UnitError as error:
                self._machine.log("systemd", str(error))
        targets = members(self.name) if self._one("KillMode", "control-group") == "control-group" else [self._main or 0]
        send(targets, signal.Signals[self._one("KillSignal", "SIGTERM")])
        send(targets, signal.SIGCONT)  # a stopped process would not handle the signal
        done, _ = await asyncio.wait((ended,), timeout=seconds(self._one("TimeoutStopSec", "90")))
        if not done:
            send(members(self.name), signal.SIGKILL)
            return "timeout", await ended
        return "success", await ended

    async def _end_processes(self, number: signal.Signals) -> None:
        """End the remaining processes as KillMode= says; `mixed` kills those that outlive the main process."""
        mode = self._one("KillMode", "control-group")
        if mode in ("process", "none"):
            return
        deadline = time.monotonic() + seconds(self._one("TimeoutStopSec", "90"))
        if mode == "mixed":
            number = signal.SIGKILL
        sent: set[int] = set()
        while left := members(self.name):
            if time.monotonic() > deadline:
                number, sent = signal.SIGKILL, set()
            send(set(left) - sent, number)
            send(set(left) - sent, signal.SIGCONT)
            sent |= set(left)
            await asyncio.sleep(0.01)

    def _notified(self, notify: socket.socket, ready: asyncio.Event) -> None:
        for line in notify.recv(65536).decode(errors="replace").splitlines():
            if line == "READY=1":
                ready.set()

    def _runtime_folders(self) -> list[Path]:
        return [Path("/run") / name for line in self._service.get("RuntimeDirectory", ()) for name in line.split()]

    async def _run(self, kind: str, command: Command, variables: Mapping[str, str] | None = None) -> None:
        """Run a command to its end; raises UnitError if it fails although it must not."""
        _, ended = self._spawn(command, variables or {})
        exit_ = await ended
        if exit_.status and not command.may_fail:
            raise UnitError(f"{self.name}: {kind}={' '.join(command.words)} failed: {exit_.variables}")

    def _spawn(self, command: Command, variables: Mapping[str, str]) -> tuple[int, "asyncio.Future[Exit]"]:
        environment = environment_of(self._service, {**self._base, **variables, "INVOCATION_ID": uuid.uuid4().hex})
        words = command.expanded(environment)
        if self._one("CapabilityBoundingSet"):
            # Enforced for real: a service that lacks a capability fails here as on a host.
            kept = [name.removeprefix("CAP_").lower() for name in self._one("CapabilityBoundingSet").split()]
            words = ["/usr/bin/setpriv", "--bounding-set", ",".join(("-all", *(f"+{n}" for n in kept))), *words]
        reading, writing = os.pipe()
        try:
            process = subprocess.Popen(
                words,
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
                preexec_fn=self._settings,  # noqa: PLW1509 no threads here
            )
        except OSError as error:
            os.close(reading)
            raise UnitError(f"{self.name}: {words[0]}: {error}") from error
        finally:
            os.close(writing)
        process.returncode = 0  # reaped by Machine.reap(), never by Popen
        self._machine.collect(self.name, reading)
        ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._machine.exits[process.pid] = ended
        return process.pid, ended

    def _settings(self) -> None:
        """Apply the settings of the process, between fork and exec."""
        if limit := self._one("LimitNOFILE"):
            soft, _, hard = limit.partition(":")
            # Capped at what is allowed, as in systemd.
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(int(soft), most), min(int(hard or soft), most)))
        if nice := self._one("Nice"):
            os.setpriority(os.PRIO_PROCESS, 0, int(nice))
        if score := self._one("OOMScoreAdjust"):
            with suppress(PermissionError):  # a container may not lower it
                Path("/proc/self/oom_score_adj").write_text(score)


# ---- PID 1 -----------------------------------------------------------------------------------------------------------


def in_order(units: Sequence[Unit]) -> list[Unit]:
    """Sort the units by `After=`; otherwise keep their order."""
    left, ordered = list(units), list[Unit]()
    while left:
        names = {unit.name for unit in left}
        after = {
            unit.name: {word for line in unit.sections.get("Unit", {}).get("After", ()) for word in line.split()}
            for unit in left
        }
        unit = next((unit for unit in left if not after[unit.name] & names - {unit.name}), left[0])
        left.remove(unit)
        ordered.append(unit)
    return ordered


def apply_sysctl(machine: Machine, folder: Path = Path("/etc/sysctl.d")) -> None:
    """Apply only the network settings: the others are global to the kernel, not per namespace."""
    for path in sorted(folder.glob("*.conf")):
        for line in path.read_text().splitlines():
            key, _, value = line.partition("=")
            if key.lstrip().startswith("net."):
                try:
                    Path("/proc/sys", key.strip().replace(".", "/")).write_text(value.strip())
                except OSError as error:
                    machine.log("systemd", f"{path}: {key.strip()}: {error}")


async def serve(names: Sequence[str]) -> None:
    """Start the units, and serve requests forever."""
    # keepalived sends READY=1 only if its parent is PID 1 and has this name.
    Path("/proc/self/comm").write_text("systemd")
    Path("/run/systemd").mkdir(parents=True, exist_ok=True)
    with JOURNAL.open("a") as journal:
        machine = Machine(journal)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, machine.reap)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as log:
            log.bind("/dev/log")
            Path("/dev/log").chmod(0o666)
            machine.collect("log", log.fileno())
            apply_sysctl(machine)
            units = {unit.name: unit for unit in in_order([Unit(name, machine) for name in names])}
            for unit in units.values():
                await unit.start()

            async def requested(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                verb, name = json.loads(await reader.readline())
                answer: str | None = None
                try:
                    unit = units[name]
                    jobs = {
                        "start": unit.start,
                        "stop": unit.stop,
                        "restart": unit.restart,
                        "reload": unit.reload,
                        "reset-failed": unit.reset_failed,
                    }
                    await jobs[verb]()
                except (UnitError, KeyError) as error:
                    answer = str(error)
                writer.write(json.dumps(answer).encode() + b"\n")
                writer.close()

            # The socket appears when all units are up.
            server = await asyncio.start_unix_server(requested, CONTROL_SOCKET)
            async with server:
                await server.serve_forever()


def main() -> None:
    """Run as PID 1; the arguments are the names of the units."""
    try:
        asyncio.run(serve(sys.argv[1:]))
    except Exception as error:
        with JOURNAL.open("a") as journal:
            journal.write(f"{time.monotonic():.3f} systemd: {error!r}\n")
        raise


if __name__ == "__main__":
    main()
