"""The workflows are sound, safe, and call what is there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.make_targets import make_targets, targets_named
from tools.stack_file import ROOT

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
TOOLS = Path(sys.executable).parent


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]


def run(tool: str, *arguments: str | Path) -> None:
    result = subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_both_workflows_are_there():
    assert [workflow.name for workflow in WORKFLOWS] == ["checks.yml", "preview.yml"]


def test_workflows_follow_the_schema_and_bound_their_time():
    for schema in ("vendor.github-workflows", "custom.github-workflows-require-timeout"):
        run("check-jsonschema", "--builtin-schema", schema, *WORKFLOWS)


def test_workflows_give_nothing_away():
    """Also that every action is pinned by the hash of its commit."""
    run("zizmor", "--offline", "--no-progress", "--persona", "pedantic", "--strict-collection", FOLDER)


@pytest.mark.parametrize("script", [*WORKFLOWS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_every_target_that_is_called_exists(script: Path):
    lines = script.read_text() if script.suffix != ".yml" else "\n".join(step.get("run", "") for step in steps(script))
    called = targets_named(lines)
    assert called
    assert called <= make_targets()


def test_the_pull_request_gets_the_preview_as_a_comment():
    [preview] = [step for step in steps(FOLDER / "preview.yml") if step.get("uses", "").startswith("pulumi/actions@")]
    assert preview["with"]["command"] == "preview"
    assert preview["with"]["comment-on-pr"] is True


def test_secrets_never_meet_the_code_of_a_fork():
    workflow = yaml.safe_load((FOLDER / "preview.yml").read_text())
    assert workflow[True].keys() == {"pull_request"}  # YAML reads the key `on` as true
    for job in workflow["jobs"].values():
        assert "github.event.pull_request.head.repo.full_name == github.repository" in job["if"]
