"""Puts the STAND-IN API server on control-plane instances, and switches it there.

It stands where kubeadm puts kube-apiserver later: port 6443, a certificate for the VIP and the instance. It is a
systemd unit, `standin-apiserver.service`, that runs as the login user and starts again with the instance.
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
    """What a stand-in does with requests; a unit that is started anew is healthy."""

    HEALTHY = apiserver.HEALTHY
    FAILING = apiserver.FAILING
    HANGING = apiserver.HANGING


def unit_file(user: str, backend: str, address: str) -> str:
    """The systemd unit, run by `user`, listening on `address`; `backend` is the name that its answers carry."""
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

    All methods work on all of them in parallel, or on those whose names are given, and raise HostError when some fail.
    """

    def __init__(self, access: Access, control_plane: Mapping[str, str], vip: str) -> None:
        self._access = access
        self._hosts = dict(control_plane)
        self._vip = vip

    def install(self, names: Iterable[str] | None = None) -> None:
        """Install and start what is not there already; healthy, or as healthy as it was set to be."""
        backends = {self._hosts[name]: name for name in names or self._hosts}
        program = PROGRAM.read_bytes()

        async def install(address: str) -> None:
            backend = backends[address]
            unit = unit_file(self._access.user, backend, address)
            # The certificate is new at each making, so what it is made from decides whether anything has changed.
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
                    # Written last, so that an installation that was cut off is made again.
                    await output(host, f"sudo install -m 0644 /dev/stdin {FOLDER}/digest", digest.encode())
                await output(host, f"sudo systemctl enable --quiet --now {UNIT}")

        on_all(backends, install)

    def set_health(self, health: Health, names: Iterable[str] | None = None) -> None:
        """Switch what stand-ins that run do with requests."""
        # Renamed into place, so that no request finds half a word.
        self._on(f"printf %s {health} > {HEALTH_FILE}.new && mv {HEALTH_FILE}.new {HEALTH_FILE}", names)

    def start(self, names: Iterable[str] | None = None) -> None:
        """Start what was stopped or killed; it is healthy."""
        self._on(f"sudo systemctl start {UNIT}", names)

    def stop(self, names: Iterable[str] | None = None) -> None:
        """Stop until `start`, or until the instance boots."""
        self._on(f"sudo systemctl stop {UNIT}", names)

    def kill(self, names: Iterable[str] | None = None) -> None:
        """End with SIGKILL; nothing starts it again."""
        self._on(f"sudo systemctl kill --kill-whom=main --signal=SIGKILL {UNIT}", names)

    def _on(self, command: str, names: Iterable[str] | None) -> None:
        addresses = [self._hosts[name] for name in names or self._hosts]
        on_all(addresses, lambda address: self._access.run(address, f"sh -c {shlex.quote(command)}"))
