"""Options shared by several commands."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from operate.stack.engine import StackError

StackName = Annotated[
    str | None, typer.Option("--stack", "-s", help="The stack; by default, the one selected in Pulumi.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything that was found, as JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Grace = Annotated[
    int,
    typer.Option(
        min=0,
        max=3600,
        metavar="SECONDS",
        help="How long open connections may continue through a load balancer that gives the VIP up; 0 cuts them.",
    ),
]
LoadBalancer = Annotated[str, typer.Argument(metavar="NAME", help="The load balancer's name, as in `./ha status`.")]
HostName = Annotated[str, typer.Argument(metavar="NAME", help="A load balancer, or a node, as in `./ha status`.")]


def insist_on_answer(*, yes: bool) -> None:
    """StackError, before anything is done, if a question will be asked where nobody can answer."""
    if not yes and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise StackError(
            "this needs a confirmation, and stdin or stdout is not a terminal, so nothing was done: run it in a "
            "terminal, or use --yes"
        )


def insist_on_writable(*files: Path | None, options: str) -> None:
    """StackError, before anything is done, if a file for the results, named with `options`, cannot be written."""
    for file in filter(None, files):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            was_there = file.exists()
            file.touch()
            if not was_there:  # a command that is refused leaves no file
                file.unlink()
        except OSError as error:
            raise StackError(
                f"{file} cannot be written, so nothing was done: {error}; name another with {options}"
            ) from None
