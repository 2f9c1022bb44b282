"""Runs the rendered steps with the real Bash on a host of a few folders, in namespaces of its own, as any user.

The host's /etc, /run, /usr/local and /var are folders of the test. Programs that change a real host are stand-ins,
which append what they were called with to `calls`.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

FOLDERS = ("etc", "run", "usr/local", "var")

# Units are files in $UNITS. A started or reloaded HAProxy runs the file's configuration, unless the file is `hopeless`.
SYSTEMCTL = r"""
for word in "$@"; do case $word in --*) ;; *) words+=("$word") ;; esac; done
verb=${words[0]} unit=${words[1]:-}
load() {
    case $unit in
    haproxy)
        grep -q hopeless /etc/haproxy/haproxy.cfg ||
            sed -n 's/.* X-Configuration-Id \([0-9a-f]*\) .*/\1/p' /etc/haproxy/haproxy.cfg >"$UNITS/running-id"
        ;;
    keepalived) mkdir -p /run/ha-api && echo "BACKUP 1" >/run/ha-api/vrrp_state ;;
    esac
}
case $verb in
is-active) for unit in "${words[@]:1}"; do [ -e "$UNITS/$unit" ] || exit 3; done ;;
show) [ ! -e "$UNITS/$unit" ] || echo active; cat "$UNITS/restarts-of-$unit" 2>/dev/null || echo 0 ;;
start) [ -e "$UNITS/$unit" ] || load; touch "$UNITS/$unit" ;;
reload) load ;;
restart | reload-or-restart) load; touch "$UNITS/$unit" ;;
stop) rm -f "$UNITS/$unit" ;;
esac
"""
CURL = r"""
case "$*" in
*healthz*) printf 'HTTP/1.1 200 OK\r\nx-configuration-id: %s\r\n' "$(cat "$UNITS/running-id")" ;;
*) [ -e "$UNITS/ready" ] ;;
esac
"""
REFUSES = 'for file; do :; done; ! grep -q refused "$file" || { echo "line 1: refused"; exit 1; }'
# Kills the step, and everything that it started, instead of the call whose number is in $UNITS/kill-at.
KILLED = r"""
count=$(($(cat "$UNITS/count" 2>/dev/null || echo 0) + 1))
echo $count >"$UNITS/count"
[ "$count" != "$(cat "$UNITS/kill-at" 2>/dev/null)" ] || kill -9 0
exec {program} "$@"
"""


# Brings loopback up, and listens at the addresses while Bash runs the script.
SERVE = """
import fcntl, socket, struct, subprocess, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
listeners = [socket.create_server((host, int(port))) for host, port in (it.split(":") for it in sys.argv[2:])]
sys.exit(subprocess.call(["bash", "-c", sys.argv[1]]))
"""


class Sandbox:
    """A host, and the stand-ins for its programs."""

    def __init__(self, folder: Path) -> None:
        self.root, self.units, self.programs = folder / "root", folder / "units", folder / "programs"
        self.mounts: list[str] = []
        """Files of the host that are mounts, so that nothing can be renamed over them."""
        self.listening: list[str] = []
        """Ports that accept connections, as ADDRESS:PORT on loopback."""
        for path in (*(self.root / it for it in FOLDERS), self.root / "usr/local/lib", self.units, self.programs):
            path.mkdir(parents=True)
        # On Debian these are links through /etc.
        (self.programs / "awk").symlink_to(Path("/usr/bin/awk").resolve())
        self.put("systemctl", SYSTEMCTL)
        self.put("curl", CURL)
        self.put("haproxy", REFUSES)
        self.put("keepalived", REFUSES)
        self.put("ip", 'echo "2: ens3    inet 198.51.100.11/24 brd 198.51.100.255 scope global ens3"')
        self.put("sleep", "")
        for name in ("firewall-cmd", "journalctl", "sysctl"):
            self.put(name, "")

    def put(self, name: str, script: str) -> None:
        """A stand-in: Bash's text."""
        program = self.programs / name
        program.unlink(missing_ok=True)
        program.write_text(f'#!/bin/bash\necho "{name} $*" >>"$UNITS/calls"\n{script}\n')
        program.chmod(0o755)

    def kill_at(self, number: int, *programs: str) -> None:
        """Kill the next run at the `number`-th call of one of these programs; 0 for not at all."""
        (self.units / "kill-at").write_text(str(number))
        (self.units / "count").unlink(missing_ok=True)
        for name in programs:
            self.put(name, KILLED.format(program=f"/usr/bin/{name}"))

    def path(self, path: str) -> Path:
        """Where a file of the host is."""
        return self.root / path.lstrip("/")

    def clone(self, folder: Path) -> "Sandbox":
        """Another host in the same state."""
        folder.mkdir()
        sandbox = Sandbox(folder)
        for mine, its in ((self.root, sandbox.root), (self.units, sandbox.units)):
            self.copy(f"{mine}/.", its)
        sandbox.listening = [*self.listening]
        return sandbox

    def copy(self, source: Path | str, target: Path) -> None:
        """Copy a tree with its modes."""
        subprocess.run(["cp", "-a", source, target], check=True)

    def delete(self, path: Path) -> None:
        """Delete a file, a link or a tree."""
        subprocess.run(["rm", "-rf", path], check=True)

    @property
    def calls(self) -> list[str]:
        """What the stand-ins were called with, since the last `run` began."""
        calls = self.units / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a step as the hosts do."""
        (self.units / "calls").unlink(missing_ok=True)
        enter = ["set -e", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        enter += [f"mount --bind {self.root}/{it} /{it}" for it in FOLDERS]
        enter += [f"mount --bind {it} {it}" for it in self.mounts]
        enter += [f"PATH={self.programs}:$PATH exec bash -s"]
        serve = [sys.executable, "-c", SERVE, "; ".join(enter), *self.listening]
        process = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "--net", "--", *serve],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={"UNITS": str(self.units), "PATH": os.environ["PATH"]},
        )
        try:
            output, errors = process.communicate(script, timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return subprocess.CompletedProcess(serve, process.returncode, output, errors)
