"""Builds file systems from Debian packages, which takes minutes, once: they are kept in the user's cache folder."""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dev.lab.apt import HOST_SUITE, HostApt
from dev.lab.progress import console, phase
from dev.lab.shell import run

# No documentation and translations: nobody reads them here. Unsafe I/O: a build that a power cut stopped is repeated.
_MMDEBSTRAP = (
    "mmdebstrap",
    "--mode=root",
    "--variant=minbase",
    "--format=directory",
    '--aptopt=APT::Install-Recommends "false"',
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)


def digest(files: Iterable[Path], extra: Iterable[str] = ()) -> str:
    """A short hash of what a build depends on: `files` (names, executable bits and contents) and `extra`."""
    state = hashlib.sha256()
    for path in sorted(files):
        executable = path.stat().st_mode & 0o111 != 0
        state.update(f"{path.name}\0{executable}\0".encode() + path.read_bytes() + b"\0")
    for text in extra:
        state.update(text.encode() + b"\0")
    return state.hexdigest()[:12]


def cached(cache: Path, name: str, build: Callable[[Path, Path], None], *, title: str, expected: float) -> Path:
    """The folder `name` in `cache`; `build(target, log)` builds it if it is missing.

    `build` works in a temporary folder, which is renamed when it is complete, so an interrupted build starts again.
    Two builds of the same folder wait for each other. `expected` is how long the build takes, in seconds.
    """
    cache.mkdir(parents=True, exist_ok=True)
    result = cache / name
    if result.exists():
        return result
    with (cache / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"{title}: another command is doing this already: waiting for it to finish.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            unfinished = cache / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            with phase(title, expected):
                build(unfinished, cache / f"{name}.log")
            unfinished.rename(result)
    return result


def bootstrap(
    target: Path, packages: Path, apt: HostApt, hooks: Sequence[str], log: Path, *, suite: str = HOST_SUITE
) -> None:
    """Installs a Debian release and the packages in the file `packages` into `target`, with mmdebstrap and hooks."""
    lines = [line.strip() for line in packages.read_text().splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    options = [f"--aptopt={option.rstrip(';')}" for option in apt.options]
    run(
        [*_MMDEBSTRAP, *options, f"--include={','.join(names)}", *hooks, suite, target, *apt.sources_of(suite)], log=log
    )
