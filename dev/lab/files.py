"""Writes files that contain secrets."""

import os
from contextlib import suppress
from pathlib import Path


def write_private(path: Path, content: str) -> None:
    """Writes a file atomically, readable only by its owner."""
    _beside(path, content).rename(path)


def create_private(path: Path, content: str) -> None:
    """The same, unless it exists: of processes that create it at the same time, the first one does."""
    new = _beside(path, content)
    with suppress(FileExistsError):
        path.hardlink_to(new)
    new.unlink()


def _beside(path: Path, content: str) -> Path:
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.touch(mode=0o600)
    new.write_text(content)
    return new
