"""`ha guard`: would this change take the API or its address away?"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from operate.commands.options import StackName
from operate.guard_rails import Rail, check_preview
from operate.stack import engine
from operate.stack.engine import StackError

Allow = Annotated[
    list[Rail] | None, typer.Option("--allow", help="A rail that may be crossed in this run; repeatable.")
]


def guard(
    preview: Annotated[
        Path | None,
        typer.Argument(
            help="What `pulumi preview --json --show-sames` has written; without it, the stack is previewed now."
        ),
    ] = None,
    stack: StackName = None,
    allow: Allow = None,
) -> None:
    """Look at what a preview would do, and stop the changes that nobody should make in passing. Nothing is changed.

    Ends with status 0 when no rail catches anything, or what is caught is allowed by name; 1 when something else is,
    with the reason; 2 when there is no preview to look at, or it failed.
    """
    if preview and not preview.is_file():
        raise StackError(f"there is no preview {preview}: `make preview` writes one")
    catches = check_preview(preview.read_text() if preview else engine.preview(stack))
    console = Console(soft_wrap=True, highlight=False)
    stopped = False
    for catch in catches:
        allowed = catch.rail in (allow or [])
        stopped |= not allowed
        console.print("[yellow]allowed[/]" if allowed else "[red]stopped[/]", f"{catch.rail}: {catch.reason}")
    if stopped:
        names = dict.fromkeys(catch.rail for catch in catches if catch.rail not in (allow or []))
        console.print("If it is meant, for this run:", " ".join(f"--allow {name}" for name in names))
        raise typer.Exit(1)
    if not catches:
        console.print("No rail catches anything.")
