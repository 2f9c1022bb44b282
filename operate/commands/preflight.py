"""`ha preflight`: what would stop the first `pulumi up`?"""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from operate.commands.options import AsJson, StackName
from operate.preflight.finding import Outcome
from operate.preflight.run import Preflight, run_checks
from operate.stack.applied import read_stack_configuration

_STYLES = {Outcome.OK: "green", Outcome.NOTE: "yellow", Outcome.PROBLEM: "bold red", Outcome.NOT_CHECKED: "dim"}


def render_findings(preflight: Preflight, console: Console) -> None:
    """Show what was found to a reader."""
    table = Table(
        "looked at", "", "found, and what to do", title=f"Before `pulumi up` of {preflight.stack}", title_justify="left"
    )
    for group in preflight.groups:
        table.add_section()
        for finding in group.findings:
            mark = "-" if finding.result is Outcome.NOT_CHECKED else finding.result
            told = Text(finding.found)
            if finding.to_do:
                told.append(f"\nTo do: {finding.to_do}", style="bold")
            table.add_row(Text(finding.looked_at), Text(mark, style=_STYLES[finding.result]), told)
    console.print(table)
    counts = ", ".join(f"{count} {result}" for result in Outcome if (count := preflight.count(result)))
    console.print(f"{counts}.", highlight=False)


def preflight(
    stack: StackName = None,
    *,
    as_json: AsJson = False,
    boot: Annotated[
        bool,
        typer.Option(
            "--boot", help="Also make a throw-away instance, try SSH, sudo and packages on it, and delete it."
        ),
    ] = False,
) -> None:
    """Look at the cloud and at this machine before `pulumi up`. Without --boot nothing is made.

    Ends with status 0 without problems, 1 with some, 2 when there is nothing to look with: no such stack, wrong values.
    """
    configuration = read_stack_configuration(stack)
    stderr = Console(stderr=True)
    with stderr.status("looking") as status:
        found = run_checks(
            configuration,
            configuration.cloud,
            with_instance=boot,
            tell=lambda name: status.update(f"looking at {name}"),
        )
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        render_findings(found, Console(width=None if sys.stdout.isatty() else 100))
    if found.count(Outcome.PROBLEM):
        raise typer.Exit(1)
