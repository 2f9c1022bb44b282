"""Uploading a cloud image that was not made by the lab."""

from pathlib import Path

from lab.cloud import Cloud
from lab.container import Container


def add(cloud: Cloud, container: Container, name: str, file: Path) -> None:
    """Uploads `file` as a public image `name`."""
    raise NotImplementedError
