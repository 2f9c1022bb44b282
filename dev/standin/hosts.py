"""Installs the STAND-IN API server on control-plane instances, and sets its health there.

It takes kube-apiserver's place until kubeadm runs: port 6443, a certificate for the VIP and the instance. It is a
systemd unit, `standin-apiserver.service`, that runs as the login user and starts when the instance boots.
"""

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from textwrap import dedent

from dev.standin import apiserver
from dev.standin.certificate import self_signed
from operate.hosts.ssh import Access, on_all, output

UNIT = "standin-apiserver.service"
FOLDER = "/opt/standin-apiserver"
HEALTH_FILE = "/run/standin-apiserver/health"
PROGRAM = Path(apiserver.__file__)


class Health(StrEnum):
    """What a stand-in does with requests; after a restart of its unit it is healthy."""

    HEALTHY = apiserver.HEALTHY
    FAILING = apiserver.FAILING
    HANGING = apiserver.HANGING


def unit_file(user: str, backend: str, address: str) -> str:
    """The systemd unit: runs as `user`, listens on `address`; `backend` is the name in its answers."""
    return dedent(f"""\
        [Unit]
        Description=STAND-IN API server for demo and tests (no Kubernetes)
        After=network-online.target
        Wants=network-online.target

        [Service]
        ExecStart=/usr/bin/python3 {FOLDER}/{PROGRAM.name} --certificate {FOLDER}/tls.crt --key {FOLDER}/tls.key \\
            --listen {address} --health-file {HEALTH_FILE} --backend {backend}
        User={user}
        RuntimeDirectory=standin-apiserver
        NoNewPrivileges=yes

        [Install]
        WantedBy=multi-user.target
        """)


class StandIns:
    """The stand-ins of a stack; `control_plane` maps names to addresses.

    All methods work in parallel, on all stand-ins or on those named, and raise HostError if any fails.
    """

    def __init__(self, access: Access, control_plane: Mapping[str, str], vip: str) -> None:
        self._access = access
        self._hosts = dict(control_plane)
        self._vip = vip

    def install(self, names: Iterable[str] | None = None) -> None:
        """Install and start stand-ins that are not up to date; an installed one keeps its health."""
        backends = {self._hosts[name]: name for name in names or self._hosts}
        program = PROGRAM.read_bytes()

        async def install(address: str) -> None:
            backend = backends[address]
            unit = unit_file(self._access.user, backend, address)
            # Each certificate generated is different, so its inputs decide whether anything has changed.
            parts = (program, *(text.encode() for text in (unit, address, self._vip)))
            digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
            async with self._access.connect(address) as host:
                installed = await output(host, f"cat {FOLDER}/digest 2>/dev/null || true")
                if installed != digest:
                    pair = self_signed(backend, [address, self._vip])
                    files = {
                        f"{FOLDER}/{PROGRAM.name}": program,
                        f"{FOLDER}/tls.crt": pair.certificate,
                        f"{FOLDER}/tls.key": pair.key,
                        f"/etc/systemd/system/{UNIT}": unit.encode(),
                    }
                    for path, content in files.items():
                        mode, owner = ("0400", self._access.user) if path.endswith(".key") else ("0644", "root")
                        await output(host, f"sudo install -D -m {mode} -o {owner} /dev/stdin {path}", content)
                    await output(host, f"sudo systemctl daemon-reload && sudo systemctl restart {UNIT}")
                    # Written last, so that an interrupted installation is repeated.
                    await output(host, f"sudo install -m 0644 /dev/stdin {FOLDER}/digest", digest.encode())
                await output(host, f"sudo systemctl enable --quiet --now {UNIT}")

        on_all(backends, install)

    def set_health(self, health: Health, names: Iterable[str] | None = None) -> None:
        """Set what running stand-ins do with requests."""
        # Renamed into place, so that no request reads half a word.
        self._on(f"printf %s {health} > {HEALTH_FILE}.new && mv {HEALTH_FILE}.new {HEALTH_FILE}", names)

    def start(self, names: Iterable[str] | None = None) -> None:
        """Start stopped or killed stand-ins; they are healthy."""
        self._on(f"sudo systemctl start {UNIT}", names)

    def stop(self, names: Iterable[str] | None = None) -> None:
        """Stop until `start` or a reboot of the instance."""
        self._on(f"sudo systemctl stop {UNIT}", names)

    def kill(self, names: Iterable[str] | None = None) -> None:
        """Kill with SIGKILL; nothing restarts it."""
        self._on(f"sudo systemctl kill --kill-whom=main --signal=SIGKILL {UNIT}", names)

    def _on(self, command: str, names: Iterable[str] | None) -> None:
        addresses = [self._hosts[name] for name in names or self._hosts]
        on_all(addresses, lambda address: self._access.run(address, f"sh -c {shlex.quote(command)}"))
