"""Whatever the README and docs/ name exists, and the facts that they repeat are right."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
import yaml

from dev.reference import PAGE, with_table
from model.settings import FrontendSettings, Settings
from model.topology import security_rules
from operate.stack.files import ROOT, project_schema
from tests.unit.example import example_values
from tests.unit.repository.make_targets import make_targets, targets_named

README = ROOT / "README.md"
ALL_PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
# Pages that use the program's own names; the lab's and the toolchain's pages have others.
PROGRAM_PAGES = [page for page in ALL_PAGES if page.name not in {"lab.md", "toolchain.md"}]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

by_page = pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
by_program_page = pytest.mark.parametrize("page", PROGRAM_PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def spans(page: Path) -> list[str]:
    """Every text between single backquotes."""
    return re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text()))


def scripts(page: Path) -> list[str]:
    """Every text that a reader might type: the shell blocks, and the spans."""
    return [body for language, body in FENCE.findall(page.read_text()) if language in {"sh", "bash", ""}] + spans(page)


@cache
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


def section(page: Path, heading: str) -> str:
    """The text below a heading of the second level."""
    return page.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def first_cells(table: str) -> list[str]:
    """Every name between backquotes in the first column of a table."""
    return [
        name for cell in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    ]


def test_the_table_of_settings_matches_the_schema():
    text = PAGE.read_text()
    assert with_table(text, project_schema()) == text, "run `make reference`"


def test_the_readme_names_every_required_setting():
    required = {key for key, entry in project_schema().items() if "default" not in entry}
    assert required <= {*first_cells(section(README, "Settings"))}


def test_the_outputs_described_are_those_exported():
    assert sorted(first_cells(section(PAGE, "Outputs"))) == sorted(exports())


def test_the_readme_counts_the_security_rules_as_the_table_does():
    def rules(admins: int, clients: int, frontends: Sequence[Mapping[str, object]] = ()) -> int:
        admin_cidrs, api_allowed_cidrs = (
            json.dumps([f"198.51.{block + index}.0/24" for index in range(count)])
            for block, count in ((100, admins), (110, clients))
        )
        version = project_schema()["kubernetesVersion"]["default"]
        values = example_values(
            adminCidrs=admin_cidrs,
            apiAllowedCidrs=api_allowed_cidrs,
            frontends=json.dumps(frontends),
            kubernetesVersion=version,
        )
        return len(security_rules(Settings.parse(values)))

    per_admin, per_client = rules(2, 0) - rules(1, 0), rules(1, 1) - rules(1, 0)
    frontend = {"name": "ingress", "port": 443}
    per_frontend = rules(1, 0, [frontend]) - rules(1, 0)
    per_user = rules(1, 0, [frontend | {"allowedCidrs": ["203.0.113.0/24"]}]) - rules(1, 0) - per_frontend
    text = re.sub(r"\(\S+\)", "", " ".join(README.read_text().split()))
    described = re.search(
        r"(\d+) rules\D+(\d+) per entry of `adminCidrs`\D+(\d+) per entry of `apiAllowedCidrs`; a \[frontend\]"
        r"\D+(\d+) more\D+(\d+) per entry of its `allowedCidrs`",
        text,
    )
    assert described
    expected = [rules(1, 0) - per_admin, per_admin, per_client, per_frontend, per_user]
    assert [int(it) for it in described.groups()] == expected


def test_the_architecture_names_every_package():
    packages = {
        f"{init.parent.relative_to(ROOT)}/" for top in ("operate", "dev") for init in ROOT.glob(f"{top}/*/__init__.py")
    }
    assert packages <= {*spans(ROOT / "docs" / "architecture.md")}


def test_the_index_of_decisions_lists_each_with_its_title():
    index = ROOT / "docs" / "adr" / "README.md"
    decisions = {
        f"[{page.read_text().partition(chr(10))[0].removeprefix('# ')}]({page.name})"
        for page in index.parent.glob("[0-9]*.md")
    }
    assert decisions == {*re.findall(r"^- (.*)$", index.read_text(), re.MULTILINE)}


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
    # A module may be named without `.py`, whether it is a file or a package.
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()] == []


@by_program_page
def test_the_keys_and_outputs_named_exist(page: Path):
    """Every word in camel case is a setting, an output, or a part of an output."""
    example = yaml.safe_load((ROOT / "examples" / "workload" / "Pulumi.yaml").read_text())["config"]
    known = project_schema().keys() | exports() | example.keys() | {"loadBalancers", "controlPlane", "workers"}
    known |= {str(field.alias) for field in FrontendSettings.model_fields.values()}
    named = {span for span in spans(page) if re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", span)}
    for script in scripts(page):
        named |= set(re.findall(r"pulumi stack output (\w+)", script))
        named |= set(re.findall(r"pulumi config set (?:--secret )?([a-z]\w*)", script))
    assert named <= known
