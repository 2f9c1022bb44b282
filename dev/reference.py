"""Makes the README's table of configuration from the schema in Pulumi.yaml: `make readme-table`."""

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from operate.stack.files import ROOT, project_schema

README = ROOT / "README.md"
BEGIN = "<!-- configuration: begin; made by `make readme-table` from Pulumi.yaml -->"
END = "<!-- configuration: end -->"


def table(schema: Mapping[str, Mapping[str, Any]]) -> str:
    """The schema as a Markdown table, one row a key in the schema's order, ending with a newline."""
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, entry in schema.items():
        kind = f"{entry['type']} of {entry['items']['type']}s" if entry["type"] == "array" else entry["type"]
        if entry.get("secret"):
            kind += ", secret"
        meaning = entry["description"].replace("|", "\\|")
        lines.append(f"| `{key}` | {kind} | {_default(entry)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(entry: Mapping[str, Any]) -> str:
    if "default" not in entry:
        return "**required**"
    value = entry["default"]
    if value in ("", []):
        return "empty"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def with_table(readme: str, schema: Mapping[str, Mapping[str, Any]]) -> str:
    """The README's text with the table between its two marks.

    Raises `ValueError` if it does not have each mark once.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise ValueError(f"the README needs these two lines, each once and in this order:\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n{table(schema)}{END}{after}"


def main(
    *,
    write: Annotated[bool, typer.Option("--write/--check", help="Put the table in, or see whether it is current.")],
) -> None:
    """Put the table of configuration into the README, or check the one that is there."""
    old = README.read_text()
    try:
        new = with_table(old, project_schema())
    except ValueError as error:
        sys.exit(str(error))
    if new == old:
        return
    if not write:
        sys.exit("README.md: the table of configuration is not what Pulumi.yaml says; run `make readme-table`")
    staged = README.with_name(f"{README.name}.new")
    staged.write_text(new)
    staged.rename(README)


if __name__ == "__main__":
    typer.run(main)
