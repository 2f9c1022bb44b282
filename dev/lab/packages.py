"""The Debian packages that the lab needs on the host."""

import os
import shutil

from dev.lab.progress import phase
from dev.lab.shell import run

# program: its package
_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "systemd-sysusers": "systemd",
    "iptables": "iptables",
    "ps": "procps",
    "mkfs.ext4": "e2fsprogs",
    "ip": "iproute2",
    "ethtool": "ethtool",
    "losetup": "mount",
    "modprobe": "kmod",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
}


def ensure() -> None:
    """Installs the packages whose programs are missing on the host."""
    missing = sorted({package for program, package in _PROGRAMS.items() if not _has(program)})
    if missing:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        with phase(f"installing on this host: {', '.join(missing)}", expected=30):
            run(["apt-get", "update", "-qq"], env=environment)
            run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], env=environment)


def _has(program: str) -> bool:
    # A login shell's PATH may lack the administrator's folders.
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None
