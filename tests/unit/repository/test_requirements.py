"""`./ha` installs what it imports and no development tools, and the compiled requirements agree on each version."""

import ast
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions

import pytest

from operate.stack.files import ROOT

EXAMPLE = "examples/workload/requirements.txt"
COMPILED = ("requirements.txt", "requirements-ha.txt", "requirements-dev.txt")


def versions(compiled: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+)", (ROOT / compiled).read_text(), re.MULTILINE))


@cache
def distributions() -> Mapping[str, list[str]]:
    """The installed distributions by the top-level names of their packages."""
    return packages_distributions()


def imported(*folders: str) -> set[str]:
    """The top-level names of other projects' packages that the folders' modules import."""
    names: set[str] = set()
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    # A program on a load balancer imports its neighbours.
    neighbours = {file.stem for file in files if file.is_relative_to(ROOT / "templates")}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return {name for name in names - sys.stdlib_module_names - neighbours if not (ROOT / name).exists()}


@pytest.mark.parametrize(
    ("compiled", "folders"),
    [
        ("requirements.txt", ("model", "components", "program", "templates")),
        ("requirements-ha.txt", ("operate",)),
        ("requirements-dev.txt", ("dev", "tests")),
        (EXAMPLE, ("examples/workload",)),
    ],
)
def test_everything_imported_is_required(compiled: str, folders: tuple[str, ...]):
    required = {re.sub(r"[-_.]+", "-", name).lower() for name in versions(compiled)}
    for name in imported(*folders):
        names = {re.sub(r"[-_.]+", "-", distribution).lower() for distribution in distributions()[name]}
        assert names & required, f"{name} is not in {compiled}"


def test_the_operators_tool_installs_no_development_tools():
    assert not {"pytest", "pyright", "ruff", "matplotlib", "numpy"} & versions("requirements-ha.txt").keys()


def test_the_requirements_agree_on_each_version():
    program, ha, development = map(versions, COMPILED)
    assert program.items() <= ha.items() <= development.items()
    assert versions(EXAMPLE).items() <= development.items()
