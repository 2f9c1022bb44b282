"""HAProxy 3.0 and keepalived 2.3 of Debian 13, unpacked and not installed: run by `make golden`.

The load balancers run what their image's Debian has, and this machine has the programs of one Debian only.
"""

import shutil
import subprocess
import sys

from dev.lab.apt import HostApt
from dev.lab.errors import LabError
from operate.stack.files import ROOT

FOLDER = ROOT / "build/debian-13"
SUITE = "trixie"


def program(name: str) -> list[str]:
    """The command that runs a program of Debian 13 here: its own loader finds its own libraries."""
    usr = FOLDER / "usr"
    loader, libraries = usr / "lib64/ld-linux-x86-64.so.2", usr / "lib/x86_64-linux-gnu"
    return [str(loader), "--library-path", str(libraries), str(usr / "sbin" / name)]


def unpack() -> None:
    """Download and unpack both programs and their libraries, as any user."""
    try:
        apt = HostApt.read()
        sources, options = apt.sources_of(SUITE), [f"--aptopt={option.rstrip(';')}" for option in apt.options]
    except LabError:  # not a Debian 12 host: Debian's own mirror
        sources, options = (), []
    unfinished = FOLDER.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    FOLDER.parent.mkdir(exist_ok=True)
    # `extract` and `chrootless` run none of the packages' scripts, and need no root.
    command = ["mmdebstrap", "--quiet", "--variant=extract", "--mode=chrootless", "--format=directory", *options]
    command += ['--aptopt=APT::Install-Recommends "false"', "--include=haproxy,keepalived", SUITE, str(unfinished)]
    subprocess.run([*command, *sources], check=True)
    unfinished.rename(FOLDER)


if __name__ == "__main__":
    try:
        unpack()
    except subprocess.CalledProcessError as error:
        sys.exit(f"the programs of Debian 13 cannot be downloaded: mmdebstrap ended with status {error.returncode}")
