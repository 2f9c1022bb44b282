"""Uploads a downloaded cloud image."""

import tempfile
from pathlib import Path

from dev.lab.cloud import EMULATED_PROPERTIES, Cloud
from dev.lab.progress import phase
from dev.lab.settings import LabSettings
from dev.lab.shell import run

_EXTRACT = Path(__file__).parent / "host" / "extract-root.sh"
_QCOW2_MAGIC = b"QFI\xfb"


def add(cloud: Cloud, settings: LabSettings, rootfs: Path, name: str, file: Path) -> None:
    """Uploads the qcow2 or raw image `file` as `name`, and replaces an image of that name.

    For LXC, it is first converted to a bare file system. Raises LabError if the root is not ext4 or has no cloud-init.
    """
    with phase(f"adding the image {name}", expected=15):
        if settings.virt_type != "lxc":
            with file.open("rb") as content:
                disk_format = "qcow2" if content.read(4) == _QCOW2_MAGIC else "raw"
            cloud.upload(name, file, disk_format, **EMULATED_PROPERTIES)
            return
        with tempfile.TemporaryDirectory(dir=settings.state) as folder:
            run(["unshare", "--mount", "--propagation=private", _EXTRACT, rootfs, file.resolve(), folder])
            cloud.upload(name, Path(folder) / "root.raw", "raw")
