"""The workflows are valid and secure, and call targets that exist."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from operate.guard_rails import Rail
from operate.stack.files import ROOT
from tests.unit.repository.make_targets import make_targets, targets_named

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
TOOLS = Path(sys.executable).parent


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]


def run(tool: str, *arguments: str | Path) -> None:
    result = subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_both_workflows_exist():
    assert [workflow.name for workflow in WORKFLOWS] == ["checks.yml", "preview.yml"]


def test_workflows_follow_the_schema_and_have_timeouts():
    for schema in ("vendor.github-workflows", "custom.github-workflows-require-timeout"):
        run("check-jsonschema", "--builtin-schema", schema, *WORKFLOWS)


def test_workflows_are_secure():
    """Includes that every action is pinned by its commit's hash."""
    run("zizmor", "--offline", "--no-progress", "--persona", "pedantic", "--strict-collection", FOLDER)


@pytest.mark.parametrize("script", [*WORKFLOWS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_every_called_target_exists(script: Path):
    lines = script.read_text() if script.suffix != ".yml" else "\n".join(step.get("run", "") for step in steps(script))
    called = targets_named(lines)
    assert called
    assert called <= make_targets()


def preview_jobs() -> tuple[dict[str, Any], dict[str, Any]]:
    """The job with credentials, and the one without."""
    jobs = yaml.safe_load((FOLDER / "preview.yml").read_text())["jobs"]
    return jobs["preview"], jobs["without-credentials"]


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_pull_request_gets_one_comment_edited_in_place_and_then_the_guard():
    with_credentials, _ = preview_jobs()
    (comment,) = (it for it in commands(with_credentials) if it.startswith("gh "))
    assert comment.startswith('gh pr comment "$NUMBER" ')
    assert comment.endswith(" --edit-last --create-if-none --body-file build/pull-request/comment.md")
    # The comment is written before the guard rails stop the run.
    assert commands(with_credentials)[-2:] == [comment, "make guard"]
    assert with_credentials["steps"][-1]["if"] == with_credentials["steps"][-2]["if"] == "${{ !cancelled() }}"


def test_both_jobs_also_show_the_rendered_files():
    for job in preview_jobs():
        assert "make render-diff BASE=HEAD^1" in commands(job)
        (checkout,) = (step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@"))
        assert checkout["with"]["fetch-depth"] == 2
        assert 'cat build/pull-request/summary.md >>"$GITHUB_STEP_SUMMARY"' in commands(job)


def test_each_guard_rail_has_a_label_and_no_text_of_a_label_reaches_a_shell():
    allow = preview_jobs()[0]["env"]["ALLOW"]
    for rail in Rail:
        assert f"contains(github.event.pull_request.labels.*.name, 'allow:{rail}') && '{rail}' || ''" in allow
    assert allow.count("startsWith(github.event.label.name, 'allow:') && contains(") == len(Rail)
    assert allow.count("${{") == len(Rail)


def test_code_from_a_fork_never_gets_secrets():
    workflow = yaml.safe_load((FOLDER / "preview.yml").read_text())
    assert workflow[True].keys() == {"pull_request"}  # YAML reads the key `on` as true
    own = "github.event.pull_request.head.repo.full_name == github.repository"
    with_credentials, without = preview_jobs()
    assert with_credentials["if"] == f"vars.PULUMI_STACK != '' && {own}"
    assert without["if"] == f"vars.PULUMI_STACK == '' || {own.replace('==', '!=')}"
    assert len(workflow["jobs"]) == 2
    assert "secrets." not in str(without)
    assert "token" not in str(without)
    assert "environment" not in without
    assert without["permissions"] == {"contents": "read"}
