"""Options shared by several commands."""

import sys
from typing import Annotated

import typer

from operate.stack.engine import StackError

StackName = Annotated[
    str | None, typer.Option("--stack", "-s", help="The stack; by default, the one selected in Pulumi.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything that was found, as JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
LoadBalancer = Annotated[str, typer.Argument(metavar="NAME", help="The load balancer's name, as in `./ha status`.")]


def insist_on_answer(*, yes: bool) -> None:
    """StackError, before anything is done, if Pulumi will ask for confirmation where nobody can answer."""
    if not yes and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise StackError(
            "Pulumi asks for confirmation, and this is no terminal, so nothing was done: run this in a terminal, "
            "or with --yes"
        )
