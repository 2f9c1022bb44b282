"""A stack's file: its values as they are written there, which the engine does not pass on."""

from collections.abc import Mapping
from typing import Any

import yaml


def own_values(stack_file: str, project: str) -> dict[str, Any]:
    """A project's values in the text of a stack's file, by key.

    Encrypted values stay as they are (`{"secure": ...}`). Raises `yaml.YAMLError` or `ValueError` for what is not YAML.
    """
    content: dict[str, Any] = yaml.safe_load(stack_file) or {}
    config: dict[str, Any] = content.get("config") or {}
    return {
        key.removeprefix(f"{project}:"): "" if value is None else value  # the engine reads nothing as an empty text too
        for key, value in config.items()
        if key.startswith(f"{project}:")
    }


def with_numbers(values: Mapping[str, Any], stack_file: str, project: str) -> dict[str, Any]:
    """The engine's values, with those that are fractional numbers in the text of the stack's file as numbers again.

    The engine passes on 3.10, if it is not in quotes, as "3.1", which is another branch of HAProxy; `Settings` refuses
    a number where text is needed. After a `pulumi config set` nobody can see it any more: the file then has "3.1".
    """
    try:
        written = own_values(stack_file, project)
    except (yaml.YAMLError, ValueError):
        return {**values}  # the engine reads YAML that PyYAML does not, such as 2024-99-99
    return {**values} | {
        key: value
        for key, value in written.items()
        # Otherwise the engine has its values from another file (`pulumi --config-file`).
        if isinstance(value, float) and values.get(key) in (str(value), str(value).removesuffix(".0"))
    }
