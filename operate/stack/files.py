"""Reads Pulumi.yaml and a stack's file as Pulumi does, without Pulumi."""

from pathlib import Path
from typing import Any

import yaml

from model.settings.stack_file import own_values

ROOT = Path(__file__).parents[2]


def project_schema() -> dict[str, dict[str, Any]]:
    """The configuration's schema by key, in the order of Pulumi.yaml."""
    return yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]


def stack_values(stack: str) -> dict[str, Any]:
    """Raw configuration values of a stack: the schema's defaults, then the stack's own.

    Encrypted values stay as they are (`{"secure": ...}`). Raises `FileNotFoundError` if the stack has no file.
    """
    project = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["name"]
    defaults = {key: entry["default"] for key, entry in project_schema().items() if "default" in entry}
    return defaults | own_values((ROOT / f"Pulumi.{stack}.yaml").read_text(), project)
