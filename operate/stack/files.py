"""Reads Pulumi.yaml and a stack's file as Pulumi does, without Pulumi."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def as_file_name(stack: str) -> str:
    """A stack's name as a part of a file's name: `org/project/dev` becomes `org-project-dev`."""
    return stack.replace("/", "-")


def project_schema() -> dict[str, dict[str, Any]]:
    """The configuration's schema by key, in the order of Pulumi.yaml."""
    return yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]


def stack_values(stack: str) -> dict[str, Any]:
    """Raw configuration values of a stack: the schema's defaults, then the stack's own.

    Encrypted values stay as they are (`{"secure": ...}`). Raises `FileNotFoundError` if the stack has no file.
    """
    project = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["name"]
    content = yaml.safe_load((ROOT / f"Pulumi.{stack.rpartition('/')[2]}.yaml").read_text())
    values = {key: entry["default"] for key, entry in project_schema().items() if "default" in entry}
    config: dict[str, Any] = content.get("config") or {}
    for key, value in config.items():
        namespace, _, name = key.partition(":")
        if namespace == project:
            values[name] = value
    return values
