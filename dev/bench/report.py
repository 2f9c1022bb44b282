"""Writes the results of a bench into docs/failover.md, and draws a picture for each fault: `make bench-report`.

    python -m dev.bench.report build/bench/results.json
    python -m dev.bench.report build/bench/results.json --out FOLDER --other-pictures FOLDER

Replaces the text between the two marks in docs/failover.md; a document that does not exist yet is created with a title
and the marks. The pictures that the document shows go to docs/failover/, all others to build/failover/.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from dev.bench.figures import Lane, save, style, timeline
from dev.bench.results import Results, Run
from dev.bench.summary import (
    LEGEND,
    STALL_NOTE,
    Headline,
    Summary,
    columns,
    grouped,
    headline,
    median_run,
    summaries,
    title_of_configuration,
    title_of_fault,
    why_of_fault,
)

BEGIN = "<!-- bench: begin; made by `make bench-report` -->"
END = "<!-- bench: end -->"
PICTURES = "failover"
PICTURED = ("node-death", "partition", "stall-2000ms", "haproxy-stopped")
"""The faults whose picture the document shows; the pictures of the others are not kept in git."""


def with_report(document: str, report: str, begin: str = BEGIN, end: str = END) -> str:
    """The document with the report between its two marks; raises ValueError unless it has each mark once."""
    before, found_begin, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end) or begin in rest or end in after:
        raise ValueError(f"the document needs these two lines, each once and in this order:\n{begin}\n{end}")
    return f"{before}{begin}\n{report}{end}{after}"


def markdown(results: Results) -> str:
    """The whole report, with a newline at the end."""
    by_fault = summaries(results)
    parts = [machine(results), overview(by_fault), legend(by_fault.values())]
    parts += [section(fault, of_fault) for fault, of_fault in by_fault.items()]
    return "\n\n".join(parts) + "\n"


def machine(results: Results) -> str:
    """When, where and with which versions it was measured."""
    found = results.machine
    repeats = sorted({len(runs) for of_fault in grouped(results).values() for runs in of_fault.values()})
    each = f"{repeats[0]}" if len(repeats) == 1 else f"{repeats[0]} to {repeats[-1]}"
    return (
        f"Measured on {datetime.fromisoformat(found.date):%Y-%m-%d}, with {each} runs for each fault and "
        f"configuration: {len(results.runs)} runs in {found.seconds / 60:.0f} minutes. keepalived {found.keepalived}, "
        f"HAProxy {found.haproxy}, Linux {found.kernel}, {found.cores} cores, {found.memory_gib:g} GiB; load average "
        f"{found.load_before:.1f} before and {found.load_after:.1f} after."
    )


def overview(by_fault: dict[str, tuple[Summary, ...]]) -> str:
    """A table of the most telling numbers: a row for each fault, a column for each configuration."""
    names = list(dict.fromkeys(summary.configuration for of_fault in by_fault.values() for summary in of_fault))
    rows: list[Sequence[str]] = []
    for fault, of_fault in by_fault.items():
        number = headline(fault)
        best = number.best(of_fault)
        cells = {summary.configuration: _cell(number, summary, best) for summary in of_fault}
        rows.append(
            (f"[{title_of_fault(fault)}](#{fault})", number.name, *(cells.get(name, "") for name in names)),
        )
    return (
        "The most telling number for each fault, as the median of its runs. The best are bold; nothing is bold where "
        "all are equal.\n\n" + table(("fault", "number", *map(title_of_configuration, names)), rows)
    )


def _cell(number: Headline, summary: Summary, best: frozenset[str]) -> str:
    text = number.text(summary)
    return f"**{text}**" if summary.configuration in best else text


def legend(by_fault: Iterable[Sequence[Summary]]) -> str:
    """What the pictures show, and what the columns of the tables mean."""
    used = {heading for of_fault in by_fault for heading in columns(of_fault)}
    lines = [f"- *{heading}*: {text}" for heading, text in LEGEND.items() if heading in used]
    return "\n".join(
        (
            "A picture shows the median run of each configuration: who had the VIP (top) and which requests failed "
            "(bottom). In the tables:",
            "",
            *lines,
            f"- {STALL_NOTE}",
        )
    )


def section(fault: str, of_fault: Sequence[Summary]) -> str:
    """The title, reason, picture and table of a fault."""
    title = title_of_fault(fault)
    texts = columns(of_fault)
    rows = [
        (title_of_configuration(summary.configuration), *(text(summary) for text in texts.values()))
        for summary in of_fault
    ]
    parts = [f"### {fault}", f"**{_capital(title)}.** {why_of_fault(fault)}".strip()]
    if fault in PICTURED:
        parts.append(f"![{title}: who had the VIP, and which requests failed]({PICTURES}/{fault}.svg)")
    parts.append(table(("configuration", *texts), rows))
    return "\n\n".join(parts)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: a column of text, and columns of numbers."""
    lines = (heading, ["---"] + ["---:"] * (len(heading) - 1), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _capital(title: str) -> str:
    return title[0].upper() + title[1:]


def draw(results: Results, shown: Path, others: Path) -> None:
    """A picture for each fault: `shown` is the folder for those that the document shows."""
    for folder in (shown, others):
        folder.mkdir(parents=True, exist_ok=True)
    by_fault = summaries(results)
    with style():
        for fault, configurations in grouped(results).items():
            of_fault, number = by_fault[fault], headline(fault)
            best = number.best(of_fault)
            lanes = [
                _lane(number, summary, runs, best)
                for summary, runs in zip(of_fault, configurations.values(), strict=True)
            ]
            title, why = _capital(title_of_fault(fault)), why_of_fault(fault).replace("`", "")
            folder = shown if fault in PICTURED else others
            save(timeline(title, why, number.name, lanes), folder / f"{fault}.svg")


def _lane(number: Headline, summary: Summary, runs: Sequence[Run], best: frozenset[str]) -> Lane:
    return Lane(
        title=title_of_configuration(summary.configuration),
        run=median_run(runs),
        note=number.text(summary),
        small_note=f"{summary.held_lost} of {summary.held} connections cut" if summary.held else "",
        best=summary.configuration in best,
    )


def main(
    file: Annotated[Path, typer.Argument(help="results.json of `make bench`", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="folder of failover.md and of the pictures in it")] = Path("docs"),
    other_pictures: Annotated[Path, typer.Option(help="folder for all other pictures")] = Path("build/failover"),
) -> None:
    """Write the results of `make bench` into failover.md, and draw a picture for each fault."""
    try:
        results = Results.read(file)
    except ValidationError as error:
        raise typer.BadParameter(f"{file} is not a results.json of this bench; run `make bench`: {error}") from error
    document = out / "failover.md"
    old = document.read_text() if document.exists() else f"# What faults cost clients\n\n{BEGIN}\n{END}\n"
    try:
        new = with_report(old, markdown(results))
    except ValueError as error:
        raise typer.BadParameter(f"{document}: {error}") from error
    draw(results, out / PICTURES, other_pictures)
    document.write_text(new)


if __name__ == "__main__":
    typer.run(main)
