"""Options shared by several commands."""

from typing import Annotated

import typer

StackName = Annotated[
    str | None, typer.Option("--stack", "-s", help="The stack; by default, the one selected in Pulumi.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything that was found, as JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
LoadBalancer = Annotated[str, typer.Argument(metavar="NAME", help="The load balancer's name, as in `./ha status`.")]
