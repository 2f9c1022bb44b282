"""`ha preflight`: what would make the first `pulumi up` fail?"""

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
    """Show what was found, as a table."""
    table = Table(
        "check", "", "found, and what to do", title=f"Before `pulumi up` of {preflight.stack}", title_justify="left"
    )
    for group in preflight.groups:
        table.add_section()
        for finding in group.findings:
            mark = "-" if finding.result is Outcome.NOT_CHECKED else finding.result
            text = Text(finding.found)
            if finding.to_do:
                text.append(f"\nTo do: {finding.to_do}", style="bold")
            table.add_row(Text(finding.looked_at), Text(mark, style=_STYLES[finding.result]), text)
    console.print(table)
    counts = ", ".join(f"{count} {result}" for result in Outcome if (count := preflight.count(result)))
    console.print(f"{counts}.", highlight=False)


def preflight(
    stack: StackName = None,
    *,
    as_json: AsJson = False,
    boot: Annotated[
        bool,
        typer.Option("--boot", help="Also boot a temporary instance, try SSH, sudo and packages on it, and delete it."),
    ] = False,
) -> None:
    """Check the cloud and this machine before `pulumi up`. Without --boot nothing is created.

    Exit status: 0 without problems, 1 with problems, 2 if it cannot check: no such stack, or invalid configuration.
    """
    configuration = read_stack_configuration(stack)
    stderr = Console(stderr=True)
    with stderr.status("checking") as status:
        found = run_checks(
            configuration,
            configuration.cloud,
            with_instance=boot,
            progress=lambda name: status.update(f"checking {name}"),
        )
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        render_findings(found, Console(width=None if sys.stdout.isatty() else 100))
    if found.count(Outcome.PROBLEM):
        raise typer.Exit(1)
