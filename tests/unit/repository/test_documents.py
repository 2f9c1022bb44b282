"""What the README and docs/ name exists."""

import ast
import re
from pathlib import Path

import pytest

from dev.reference import README, with_table
from operate.stack.files import ROOT, project_schema
from tests.unit.repository.make_targets import make_targets, targets_named

ALL_PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
# What is said of the program itself; the lab's and the toolchain's pages have words of their own.
PROGRAM_PAGES = [page for page in ALL_PAGES if page.name not in {"lab.md", "toolchain.md"}]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

by_page = pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
by_program_page = pytest.mark.parametrize("page", PROGRAM_PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def spans(page: Path) -> list[str]:
    """What stands between single backquotes."""
    return re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text()))


def scripts(page: Path) -> list[str]:
    """What a reader would type: the shell blocks, and the spans."""
    return [body for language, body in FENCE.findall(page.read_text()) if language in {"sh", "bash", ""}] + spans(page)


def exports() -> set[str]:
    """The names that program/outputs.py exports."""
    calls = [
        node for node in ast.walk(ast.parse((ROOT / "program/outputs.py").read_text())) if isinstance(node, ast.Call)
    ]
    return {ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "pulumi.export"}


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_table_of_configuration_is_what_the_schema_says():
    text = README.read_text()
    assert with_table(text, project_schema()) == text, "run `make readme-table`"


def test_a_readme_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="each once"):
        with_table("# no marks", project_schema())


def test_the_outputs_described_are_those_exported():
    section = README.read_text().partition("## Outputs\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(exports())


@by_page
def test_the_make_targets_exist(page: Path):
    assert targets_named("\n".join(scripts(page))) <= make_targets()


@by_page
def test_the_links_lead_somewhere(page: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in headings(target), link


@by_page
def test_the_paths_of_the_project_exist(page: Path):
    folders = "|".join(
        re.escape(entry.name)
        for entry in ROOT.iterdir()
        if entry.is_dir() and entry.name not in {".git", ".venv", "build"}
    )
    path = re.compile(rf"((?:{folders})/[\w./-]*|[A-Z][\w-]*(?:\.\w+)*\.(?:yaml|md|toml)|Makefile|__main__\.py)")
    named = [span for span in spans(page) if path.fullmatch(span)]
    assert [name for name in named if not (ROOT / name).exists()] == []


@by_program_page
def test_the_keys_and_outputs_named_exist(page: Path):
    """Every word in camel case is a configuration key, or an output, or a part of an output."""
    known = project_schema().keys() | exports() | {"loadBalancers", "controlPlane", "workers"}
    named = {span for span in spans(page) if re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", span)}
    for script in scripts(page):
        named |= set(re.findall(r"pulumi stack output (\w+)", script))
        named |= set(re.findall(r"pulumi config set (?:--secret )?([a-z]\w*)", script))
    assert named <= known
