"""`ha drill`: inject faults into a live stack, and measure what clients notice."""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from operate.commands.options import StackName, Yes, insist_on_writable
from operate.drill.faults import DRILL_FAULTS, FaultName
from operate.drill.page import page
from operate.drill.result import Answers, DrillResult, Planned
from operate.drill.run import Drill, undo_leftovers
from operate.stack.applied import read_stack
from operate.stack.files import ROOT, as_file_name

INTERRUPTED = 130


def seconds(text: str) -> float:
    """A duration such as `1s` or `500ms`, in seconds; typer.BadParameter for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is not a duration; write 1s, 1.5s or 500ms")
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


def show_plan(stack: str, profile: str, plan: list[Planned], console: Console) -> None:
    """Show what will be done."""
    columns = ("fault", "where", "longest interruption", "clients notice", "undone by")
    table = Table(*columns, title=f"Drill on {stack}", title_justify="left", show_lines=True)
    for it in plan:
        notice = Text(f"skipped: {it.left_out}", "yellow") if it.left_out else it.notice
        table.add_row(f"[bold]{it.fault}[/]\n{it.title}", it.where, it.longest, notice, it.way_back)
    console.print(table)
    console.print(
        "The table names the current holder. Faults move the VIP; each strikes the load balancer that holds it then. "
        f"Longest interruption: the worst measured with the failover profile {profile} (docs/failover.md). Ctrl-C ends "
        "the drill and undoes everything."
    )


def longest(answers: Answers) -> str:
    """The longest interruption, and how far that may be the probe's own."""
    found = f"{answers.longest_interruption:.2f} s"
    if answers.failed == answers.requests:
        return f"{found}: not one answer to this machine"
    if answers.longest_stall > 0.1:
        found += f" (the probe itself was late by {answers.longest_stall:.2f} s)"
    return found


def show_result(result: DrillResult, console: Console) -> None:
    """Show what was measured."""
    columns = ("fault", "holder before", "after", "longest interruption", "failed requests", "taken over", "recovered")
    table = Table(*columns, title="What clients noticed", title_justify="left")
    for it in result.measured:
        table.add_row(
            f"{it.fault} on {it.host}",
            it.before,
            it.after or "?",
            Text(longest(it), "red" if it.fault in result.over else "green"),
            f"{it.failed} of {it.requests}",
            "-" if it.taken_over is None else f"after {it.taken_over:.1f} s",
            "?" if it.whole_after is None else f"after {it.whole_after:.1f} s",
        )
    console.print(table)
    if any(it.frontends for it in result.measured):
        columns = ("fault", "frontend", "longest interruption", "failed requests")
        table = Table(*columns, title="What clients of frontends noticed", title_justify="left")
        for it in result.measured:
            for name, answers in it.frontends.items():
                table.add_row(it.fault, name, longest(answers), f"{answers.failed} of {answers.requests}")
        console.print(table)
    console.print(Text(result.verdict, "bold green" if result.status == 0 else "bold red"), soft_wrap=True)


def drill(
    faults: Annotated[
        list[FaultName] | None, typer.Argument(help="Faults to inject, in this order; by default, all.")
    ] = None,
    stack: StackName = None,
    *,
    max_outage: Annotated[
        str, typer.Option(metavar="DURATION", help="The longest interruption allowed: 1s, 500ms.")
    ] = "1s",
    report: Annotated[
        Path | None, typer.Option(help="HTML report; by default build/drills/STACK-DATE.html in the project.")
    ] = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", help="Also write all numbers to this file, as JSON.")
    ] = None,
    yes: Yes = False,
    undo: Annotated[bool, typer.Option("--undo", help="Only undo what a killed drill has left behind.")] = False,
) -> None:
    """Inject faults into a live stack one after the other, measure what clients notice, and undo each.

    Exit status: 0 if no interruption was longer than --max-outage; 1 if one was, or if a fault could not be undone;
    2 if the drill could not start (for example, the pair is not healthy) or not finish; 130 after Ctrl-C.
    """
    console = Console(width=None if sys.stdout.isatty() else 120)
    objective = seconds(max_outage)
    applied = read_stack(stack)
    if undo:
        done = False
        for line in undo_leftovers(applied):
            done = True
            console.print(line, markup=False)
        if not done:
            console.print("Nothing to undo.")
        return
    file = (
        report or ROOT / "build" / "drills" / f"{as_file_name(applied.name)}-{datetime.now(UTC):%Y-%m-%d-%H%M%S}.html"
    )
    insist_on_writable(file, as_json, options="--report or --json")
    chosen = [DRILL_FAULTS[name] for name in faults or FaultName]
    it = Drill(applied, chosen, lambda line: console.print(line, markup=False))
    with it.alone():
        plan = it.plan()
        show_plan(applied.name, applied.settings.failover_profile, plan, console)
        if not yes and not typer.confirm("Start?"):
            raise typer.Exit(2)
        try:
            result = it.run(plan, objective)
        except KeyboardInterrupt:
            if it.in_place:
                console.print(
                    f"Given up. Still in place: {it.in_place}. Undo it with `{it.undo_command}`.", markup=False
                )
            raise typer.Exit(INTERRUPTED) from None
    # Shown before the reports are written: a full disk must not hide a fault that is still in place.
    show_result(result, console)
    status = result.status
    reports = {file: page(result)} | ({as_json: result.model_dump_json(indent=2)} if as_json else {})
    for path, text in reports.items():
        try:
            path.write_text(text)
        except OSError as error:
            console.print(f"Cannot write the report {path}: {error}", soft_wrap=True, markup=False)
            status = status or 2
        else:
            console.print(f"Report: {path}", soft_wrap=True, highlight=False)
    if status:
        raise typer.Exit(status)
