"""Puts what the other targets found into one comment for a pull request, and into a longer summary: Markdown."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from operate.guard_rails import Rail, check_preview
from operate.stack.engine import StackError

# GitHub refuses a longer comment (in characters), or a longer summary (in bytes). Both are counted in bytes here.
COMMENT, SUMMARY = 65_536, 1024 * 1024


@dataclass(frozen=True)
class Section:
    """One text to unfold; `language` colours it."""

    title: str
    text: str
    language: str


def fenced(text: str, language: str = "") -> str:
    """A code block around any text; its fence is longer than every run of backticks in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def cut(text: str, size: int, whole: str) -> str:
    """The text's first lines, in at most `size` bytes; a last line says how much is missing, and where it is."""
    if len(text.encode()) <= size:
        return text
    lines = text.splitlines(keepends=True)
    room = size - len(f"... {len(lines)} more lines: {whole}".encode())
    kept = 0
    while kept < len(lines) and (room := room - len(lines[kept].encode())) >= 0:
        kept += 1
    return f"{''.join(lines[:kept])}... {len(lines) - kept} more lines: {whole}"


def compose(head: str, sections: list[Section], size: int, whole: str) -> str:
    """The Markdown text, in at most `size` bytes: long sections are cut, and leave the short ones whole."""

    def unfolding(section: Section, text: str) -> str:
        body = fenced(text, section.language) if text.strip() else "Nothing changes."
        return f"<details>\n<summary>{section.title}</summary>\n\n{body}\n\n</details>\n"

    room = size - len(head.encode())
    shown: dict[str, str] = {}
    for left, section in zip(range(len(sections), 0, -1), sorted(sections, key=lambda it: len(it.text)), strict=True):
        # A fence may have to be longer than the longest run of backticks.
        frame = len(unfolding(section, section.text).encode()) - len(section.text.encode())
        text = cut(section.text, max(room // left - frame - 2, 0), whole)
        shown[section.title] = unfolding(section, text)
        room -= len(shown[section.title].encode()) + 1
    return "\n".join([head, *(shown[section.title] for section in sections)])


def verdict(preview: str, allowed: list[Rail]) -> str:
    """What the guard rails say of a preview, as Markdown."""
    try:
        catches = check_preview(preview)
    except StackError as error:
        return f"**The guard rails cannot say anything.**\n\n{fenced(str(error))}\n"
    if not catches:
        return "The guard rails catch nothing.\n"
    lines = [
        f"- **{'Allowed' if catch.rail in allowed else 'Stopped'}: `{catch.rail}`.** {catch.reason}"
        for catch in catches
    ]
    if not {catch.rail for catch in catches} <= set(allowed):
        lines += [
            "",
            "Whoever means it and may triage sets the label `allow:NAME`; it holds for the run that it starts.",
        ]
    return "\n".join(lines) + "\n"


def main(
    stack: Annotated[str, typer.Argument(help="The stack's name, for the heading.")],
    folder: Annotated[Path, typer.Argument(help="Where the other targets have written, and where the texts go.")],
    allow: Annotated[list[Rail] | None, typer.Option("--allow", help="As `ha guard` was told.")] = None,
) -> None:
    """Write `comment.md` and `summary.md`, of a preview (`preview.json`, `preview.txt`) or of one against mocks."""

    def read(name: str) -> str | None:
        file = folder / name
        return file.read_text() if file.is_file() else None

    preview = read("preview.json")
    if preview is not None:
        told = verdict(preview, allow or [])
        cloud = Section("What changes in the cloud: <code>pulumi preview --diff</code>", read("preview.txt") or "", "")
    else:
        told = "Without credentials: a preview against mocks, which compares with the base and not with what runs.\n"
        resources = read("resources.diff")
        text = "`make preview-against-mocks` has not been run." if resources is None else resources
        cloud = Section("What the program asks of the cloud", text, "diff")
    files = read("files.diff")
    text = "`make render-diff` has not been run." if files is None else files
    hosts = Section("What changes in the files on the load balancers", text, "diff")
    head = f"## Preview of `{stack}`\n\n{told}"
    comment = compose(head, [cloud, hosts], COMMENT, "the whole is in the summary of the workflow's run")
    (folder / "comment.md").write_text(comment)
    summary = compose(head, [cloud, hosts], SUMMARY, "run the make targets of .github/workflows/preview.yml")
    (folder / "summary.md").write_text(summary)


if __name__ == "__main__":
    typer.run(main)
