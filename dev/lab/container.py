"""The container in which the cloud runs: starts, stops, enters and measures systemd-nspawn."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dev.lab.errors import LabError
from dev.lab.host_network import API_LINK, PROVIDER_LINK
from dev.lab.settings import LabSettings
from dev.lab.shell import run

_RUN = Path(__file__).parent / "host" / "run-container.sh"
_DEVICES = ("/dev/net/tun", "/dev/fuse", "/dev/loop-control")
# Those that are not loaded automatically; a kernel may have them built in.
_MODULES = ("overlay", "br_netfilter", "loop", "tun", "fuse")
_STOP_SECONDS = 120
_INSTANCES = "/var/lib/nova/instances/"

# nspawn's system call filter blocks nested containers, and its read-only /proc/sys blocks the agents.
_ENVIRONMENT = {"SYSTEMD_SECCOMP": "0", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}


class Container:
    """The lab's only container, found by the process id in the state folder."""

    def __init__(self, settings: LabSettings) -> None:
        self._settings = settings
        self._state = settings.state
        self._pid_file = settings.state / "nspawn.pid"

    @property
    def console(self) -> Path:
        """The output of the container's systemd."""
        return self._state / "console.log"

    def pid(self) -> int | None:
        """The host's process id of systemd-nspawn, or None if it is not running (whatever the pid file says)."""
        try:
            pid = int(self._pid_file.read_text())
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        # After a reboot, or if nspawn was killed, the number may be another process's.
        return pid if f"--directory={self._state / 'root'}".encode() in arguments else None

    def leader(self) -> int | None:
        """The host's process id of the container's init, or None if it is not running."""
        pid = self.pid()
        if pid is None:
            return None
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    def uptime(self) -> float | None:
        """Seconds since the container started, or None."""
        pid = self.pid()
        return None if pid is None else float(run(["ps", "-o", "etimes=", "-p", str(pid)]))

    def start(self, rootfs: Path, kubernetes: Path) -> None:
        """Boots the container and creates its two links. Returns once its init runs. Raises LabError if it exits.

        The container's servers read Kubernetes' packages and images from the folder `kubernetes`.
        """
        for name in ("upper", "work", "root"):
            (self._state / name).mkdir(exist_ok=True)
        run(["modprobe", "--all", "--quiet", *_MODULES], check=False)
        devices = [*_DEVICES, *(["/dev/kvm"] if self._settings.virt_type == "kvm" else [])]
        command = [
            *("unshare", "--mount", "--propagation=private", str(_RUN), str(rootfs), str(self._state)),
            *("--boot", "--machine=lab", "--register=no", "--keep-unit", "--capability=all", "--resolv-conf=off"),
            *("--link-journal=no", f"--network-veth-extra={API_LINK}", f"--network-veth-extra={PROVIDER_LINK}"),
            *(f"--bind={device}" for device in devices),
            f"--bind-ro={kubernetes}:/srv/kubernetes",
        ]
        with self.console.open("wb") as console:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT},
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while self.leader() is None:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(self.console.read_text(errors="replace").splitlines()[-15:])
                raise LabError(f"The lab's container did not start:\n{tail}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Shuts the container down, or kills it after two minutes, and then frees the disks of killed guests."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_SECONDS
            while self.pid() is not None and time.monotonic() < deadline:
                time.sleep(0.2)
            if self.pid() is not None:
                os.kill(pid, signal.SIGKILL)
                while self.pid() is not None:
                    time.sleep(0.2)
        self._end_survivors()
        self._pid_file.unlink(missing_ok=True)
        self._detach_loops()

    def _end_survivors(self) -> None:
        # When nspawn is killed, its processes end a little later, and databases must not have two writers. A process
        # that has the lab's layer mounted is one of them.
        deadline = time.monotonic() + _STOP_SECONDS
        while survivors := self._processes():
            if time.monotonic() > deadline:
                raise LabError(f"These processes of a killed lab do not end: {survivors}. Check them with ps.")
            for pid in survivors:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)

    def _processes(self) -> list[int]:
        layer = f"upperdir={self._state / 'upper'},"
        found: list[int] = []
        for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
            with suppress(OSError):  # the process has ended
                if layer in mounts.read_text():
                    found.append(int(mounts.parent.name))
        return found

    def run(self, *command: str, check: bool = True) -> str:
        """Runs a program in the container and returns its output. With `check`, raises LabError if it fails."""
        leader = self.leader()
        if leader is None:
            raise LabError("The lab is not running: start it with `make lab-up`.")
        return run([*_enter(leader), *command], check=check)

    def memory(self) -> int:
        """Memory of the cloud's services in bytes, without instances."""
        leader = self.leader()
        if leader is None:
            return 0
        namespace = Path(f"/proc/{leader}/ns/pid").readlink()
        total = 0
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                # LXC guests have their own process namespaces; emulated guests are QEMU processes.
                if (process / "ns/pid").readlink() != namespace or "qemu" in (process / "comm").read_text():
                    continue
                total += _proportional_set_size((process / "smaps_rollup").read_text())
            except OSError:
                continue  # the process has ended
        return total

    def _detach_loops(self) -> None:
        # A killed container cannot free its guests' disks, which the kernel lists by their paths in the container. Nova
        # sometimes leaves the disk of a deleted instance attached, too.
        for line in run(["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"]).splitlines():
            device, backing = line.split(maxsplit=1)
            ours = (self._state / "upper" / backing.lstrip("/")).exists() or backing.endswith(" (deleted)")
            if backing.startswith(_INSTANCES) and ours:
                run(["losetup", "--detach", device], check=False)


def _enter(leader: int) -> Sequence[str]:
    enter = ("nsenter", "--target", str(leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--")
    return (*enter, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")


def _proportional_set_size(rollup: str) -> int:
    kib = [line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(kib[0]) * 1024 if kib else 0
