"""Reads Pulumi.yaml and a stack's file as Pulumi does, without Pulumi."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from model.settings.stack_file import own_values

ROOT = Path(__file__).parents[2]


def as_file_name(stack: str) -> str:
    """A stack's name as a part of a file's name: `org/project/dev` becomes `org-project-dev`."""
    return stack.replace("/", "-")


def stack_file(stack: str) -> Path:
    """The file with a stack's configuration, which need not exist."""
    return ROOT / f"Pulumi.{stack.rpartition('/')[2]}.yaml"


@cache
def project_schema() -> dict[str, dict[str, Any]]:
    """The configuration's schema by key, in the order of Pulumi.yaml."""
    return yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]


def stack_values(stack: str) -> dict[str, Any]:
    """Raw configuration values of a stack: the schema's defaults, then the stack's own.

    Encrypted values stay as they are (`{"secure": ...}`). Raises `FileNotFoundError` if the stack has no file.
    """
    project = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["name"]
    defaults = {key: entry["default"] for key, entry in project_schema().items() if "default" in entry}
    return defaults | own_values(stack_file(stack).read_text(), project)
