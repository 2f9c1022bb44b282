"""The Debian packages that the lab needs on the host."""

import os
import shutil
from pathlib import Path

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
    # Kubernetes' packages and images
    "apt-ftparchive": "apt-utils",
    "dpkg-deb": "dpkg",
    "gcc": "gcc",
    "gpg": "gpg",
    "gpg-agent": "gpg-agent",
}
# file: its package, which has no program
_FILES = {"/usr/include/stdio.h": "libc6-dev"}


def ensure() -> None:
    """Installs the packages whose programs or files are missing on the host."""
    missing = {package for program, package in _PROGRAMS.items() if not _has(program)}
    missing |= {package for file, package in _FILES.items() if not Path(file).exists()}
    if missing:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        with phase(f"installing on this host: {', '.join(sorted(missing))}", expected=30):
            run(["apt-get", "update", "-qq"], env=environment)
            run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *sorted(missing)], env=environment)


def _has(program: str) -> bool:
    # A login shell's PATH may lack the administrator's folders.
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None
