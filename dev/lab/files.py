"""Writes files that contain secrets."""

from pathlib import Path


def write_private(path: Path, content: str) -> None:
    """Writes a file atomically, readable only by its owner."""
    temporary = path.with_name(path.name + ".new")
    temporary.touch(mode=0o600)
    temporary.write_text(content)
    temporary.rename(path)
