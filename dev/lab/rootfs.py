"""The cloud's root file system: Debian's OpenStack packages and empty databases, without any configuration."""

import shlex
from pathlib import Path

from dev.lab import build
from dev.lab.apt import HostApt
from dev.lab.settings import LabSettings

_SOURCE = Path(__file__).parent / "cloud"
_HOOKS = ("customize.sh", "create-databases.sh")
_PARTS = ("packages", "ovn-packages", "users.conf", *_HOOKS)
# Open vSwitch and OVN run from a second root file system with this release (see ovn-packages).
_OVN_SUITE = "trixie"


def ensure(settings: LabSettings, apt: HostApt) -> Path:
    """The folder with the root file system, which is only read; builds it (6 minutes) if it is missing."""
    name = f"rootfs-{build.digest(_SOURCE / part for part in _PARTS)}"

    def make(target: Path, log: Path) -> None:
        hooks = (
            f'--essential-hook=systemd-sysusers --root="$1" {shlex.quote(str(_SOURCE / "users.conf"))}',
            *(f'--customize-hook={shlex.quote(str(_SOURCE / script))} "$1"' for script in _HOOKS),
        )
        build.bootstrap(target, _SOURCE / "packages", apt, hooks, log)
        second_log = log.with_suffix(".ovn.log")
        build.bootstrap(target / "opt/ovn", _SOURCE / "ovn-packages", apt, (), second_log, suite=_OVN_SUITE)

    return build.cached(settings.cache, name, make, title="building the cloud's root file system, once", expected=340)
