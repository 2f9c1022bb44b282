"""Writes what the other make targets found as Markdown: a comment for the pull request, and a longer summary."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from operate.guard_rails import Rail, check_preview
from operate.stack.engine import StackError

# GitHub's limits for a comment (in characters) and a summary (in bytes). Both are counted in bytes here.
COMMENT, SUMMARY = 65_536, 1024 * 1024


@dataclass(frozen=True)
class Section:
    """A folded text; `language` selects its highlighting."""

    title: str
    text: str
    language: str


def fenced(text: str, language: str = "") -> str:
    """A code block around any text; the fence is longer than any run of backticks in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def cut(text: str, size: int, whole: str) -> str:
    """The first lines of a text, in at most `size` bytes; the last line says how much is missing and where it is."""
    if len(text.encode()) <= size:
        return text
    lines = text.splitlines(keepends=True)
    room = size - len(f"... {len(lines)} more lines: {whole}".encode())
    kept = 0
    while kept < len(lines) and (room := room - len(lines[kept].encode())) >= 0:
        kept += 1
    return f"{''.join(lines[:kept])}... {len(lines) - kept} more lines: {whole}"


def compose(head: str, sections: list[Section], size: int, whole: str) -> str:
    """The Markdown text, in at most `size` bytes: long sections are cut, short ones stay whole."""

    def unfolding(section: Section, text: str) -> str:
        body = fenced(text, section.language) if text.strip() else "No changes."
        return f"<details>\n<summary>{section.title}</summary>\n\n{body}\n\n</details>\n"

    room = size - len(head.encode())
    shown: dict[str, str] = {}
    for left, section in zip(range(len(sections), 0, -1), sorted(sections, key=lambda it: len(it.text)), strict=True):
        # The fence may be longer than three backticks, so it is measured.
        frame = len(unfolding(section, section.text).encode()) - len(section.text.encode())
        text = cut(section.text, max(room // left - frame - 2, 0), whole)
        shown[section.title] = unfolding(section, text)
        room -= len(shown[section.title].encode()) + 1
    return "\n".join([head, *(shown[section.title] for section in sections)])


def verdict(preview: str, allowed: list[Rail]) -> str:
    """What the guard rails found in a preview, as Markdown."""
    try:
        catches = check_preview(preview)
    except StackError as error:
        return f"**The guard rails cannot check this preview.**\n\n{fenced(str(error))}\n"
    if not catches:
        return "The guard rails found nothing.\n"
    lines = [
        f"- **{'Allowed' if catch.rail in allowed else 'Stopped'}: `{catch.rail}`.** {catch.reason}"
        for catch in catches
    ]
    if not {catch.rail for catch in catches} <= set(allowed):
        lines += [
            "",
            "If this is intended, a maintainer can add the label `allow:NAME`. It applies only to the run it triggers.",
        ]
    return "\n".join(lines) + "\n"


def main(
    stack: Annotated[str, typer.Argument(help="The stack's name, for the heading.")],
    folder: Annotated[Path, typer.Argument(help="Folder with the other targets' files; the texts go there too.")],
    allow: Annotated[list[Rail] | None, typer.Option("--allow", help="As for `ha guard`.")] = None,
) -> None:
    """Write `comment.md` and `summary.md` from a preview (`preview.json`, `preview.txt`) or a preview against mocks."""

    def read(name: str) -> str | None:
        file = folder / name
        return file.read_text() if file.is_file() else None

    preview = read("preview.json")
    if preview is not None:
        found = verdict(preview, allow or [])
        cloud = Section("What changes in the cloud: <code>pulumi preview --diff</code>", read("preview.txt") or "", "")
    else:
        found = "No credentials: a preview against mocks, compared with the base branch and not with the cloud.\n"
        resources = read("resources.diff")
        text = "`make preview-against-mocks` did not run." if resources is None else resources
        cloud = Section("What changes in the resources that the program creates", text, "diff")
    files = read("files.diff")
    text = "`make render-diff` did not run." if files is None else files
    hosts = Section("What changes in the files on the load balancers", text, "diff")
    head = f"## Preview of `{stack}`\n\n{found}"
    comment = compose(head, [cloud, hosts], COMMENT, "see the summary of the workflow run")
    (folder / "comment.md").write_text(comment)
    summary = compose(head, [cloud, hosts], SUMMARY, "run the make targets of .github/workflows/preview.yml")
    (folder / "summary.md").write_text(summary)


if __name__ == "__main__":
    typer.run(main)
