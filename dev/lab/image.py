"""Debian guest images with cloud-init: a bare ext4 file system, with kernel and initrd for emulated instances."""

import shlex
import shutil
from pathlib import Path

from dev.lab import build
from dev.lab.apt import HOST_SUITE, HostApt
from dev.lab.settings import LabSettings
from dev.lab.shell import run

SUITES = {"debian-12": HOST_SUITE, "debian-13": "trixie"}
"""Debian's names of the releases, by image."""

_SOURCE = Path(__file__).parent / "guest"

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Space for what the first boot writes; Nova enlarges the file system to the flavor's disk.
_SLACK_MIB = 256


def ensure(name: str, settings: LabSettings, apt: HostApt) -> Path:
    """The folder of an image, with disk.raw, vmlinuz and initrd.img; builds it (80 s) if it is missing."""
    suite = SUITES[name]
    # With the keyring named, as in Debian's own cloud images: otherwise APT starts thirty processes for each source
    # to merge all the keys that it trusts.
    sources_list = [f"deb [signed-by={_KEYRING}] {line.removeprefix('deb ')}" for line in apt.sources_of(suite)]
    # The host's proxy may not reach the lab's own server of packages.
    apt_options = (*apt.options, f'Acquire::http::Proxy::{settings.api_address} "DIRECT";')
    folder = f"image-{build.digest(_files(), extra=(*sources_list, *apt_options))}"

    def make(target: Path, log: Path) -> None:
        root = target / "rootfs"
        root.mkdir()
        sources, options = target / "sources.list", target / "apt.conf"
        sources.write_text("\n".join(sources_list) + "\n")
        options.write_text("\n".join(apt_options) + "\n")
        hooks = (
            f"--customize-hook=upload {shlex.quote(str(sources))} /etc/apt/sources.list",
            f"--customize-hook=upload {shlex.quote(str(options))} /etc/apt/apt.conf.d/90host",
            f'--customize-hook={shlex.quote(str(_SOURCE / "customize.sh"))} "$1"',
        )
        build.bootstrap(root, _SOURCE / "packages", apt, hooks, log, suite=suite)
        _pack(root, target)

    return build.cached(settings.cache, folder, make, title=f"building the image {name}, once", expected=100)


def _files() -> list[Path]:
    return [path for path in _SOURCE.rglob("*") if path.is_file()]


def _pack(root: Path, target: Path) -> None:
    for kind in ("vmlinuz", "initrd.img"):
        (kernel_file,) = (root / "boot").glob(f"{kind}-*")
        shutil.copyfile(kernel_file, target / kind)
    used_mib = int(run(["du", "--summarize", "--block-size=1M", root]).split()[0])
    disk = target / "disk.raw"
    with disk.open("wb") as file:
        file.truncate((used_mib + _SLACK_MIB) * 1024 * 1024)
    # Without two features that older kernels and tools refuse; e2fsprogs 1.47 turned them on by default.
    features = "^metadata_csum_seed,^orphan_file"
    run(["mkfs.ext4", "-q", "-F", "-L", "cloudimg-root", "-O", features, "-d", root, disk])
    shutil.rmtree(root)
