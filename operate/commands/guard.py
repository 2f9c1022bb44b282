"""`ha guard`: check a preview for changes that would take the API or its address down."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from operate.commands.options import StackName
from operate.guard_rails import Rail, check_preview
from operate.stack import engine
from operate.stack.engine import StackError

Allow = Annotated[
    list[Rail] | None, typer.Option("--allow", help="Allow what this guard rail stops, in this run; repeatable.")
]


def guard(
    preview: Annotated[
        Path | None,
        typer.Argument(
            help="Output of `pulumi preview --json --show-sames`; without it, the command runs a preview now."
        ),
    ] = None,
    stack: StackName = None,
    allow: Allow = None,
) -> None:
    """Check a preview, and stop dangerous changes that are not allowed by name. Nothing is changed.

    Exit status: 0 if no guard rail stops the change, or each that does is allowed; 1 if one stops it, with the reason;
    2 if there is no preview, or it failed.
    """
    if preview and not preview.is_file():
        raise StackError(f"{preview}: no such file; `make preview` writes a preview")
    catches = check_preview(preview.read_text() if preview else engine.preview(stack))
    console = Console(soft_wrap=True, highlight=False)
    stopped = False
    for catch in catches:
        allowed = catch.rail in (allow or [])
        stopped |= not allowed
        console.print("[yellow]allowed[/]" if allowed else "[red]stopped[/]", f"{catch.rail}: {catch.reason}")
    if stopped:
        names = dict.fromkeys(catch.rail for catch in catches if catch.rail not in (allow or []))
        console.print("If this is intended, run it again with:", " ".join(f"--allow {name}" for name in names))
        raise typer.Exit(1)
    if not catches:
        console.print("No guard rail stops this.")
