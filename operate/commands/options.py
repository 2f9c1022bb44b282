"""Options that several commands have."""

from typing import Annotated

import typer

StackName = Annotated[
    str | None, typer.Option("--stack", "-s", help="The stack; without it the one that Pulumi has selected.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: everything that was found.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
LoadBalancer = Annotated[str, typer.Argument(metavar="NAME", help="The load balancer, as `./ha status` names it.")]
