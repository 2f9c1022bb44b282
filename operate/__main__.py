"""`./ha`: operate a stack, from the checks before the first `pulumi up` to day-2 operations."""

import sys

import typer
from keystoneauth1.exceptions import ClientException
from openstack.exceptions import SDKException
from rich.console import Console
from rich.text import Text

from operate.commands.drain import drain
from operate.commands.drill import drill
from operate.commands.guard import guard
from operate.commands.monitoring import monitoring
from operate.commands.move import move
from operate.commands.preflight import preflight
from operate.commands.rebuild import rebuild
from operate.commands.resume import resume
from operate.commands.status import status
from operate.commands.support_bundle import support_bundle
from operate.commands.takeover import takeover
from operate.hosts.pair import PairError
from operate.hosts.ssh import HostError
from operate.signals import end_like_ctrl_c
from operate.stack.cloud import explain
from operate.stack.engine import StackError

FAILED = 2
"""Exit status of a command that could not do its work; 1 means that it did, and found something wrong."""

app = typer.Typer(
    rich_markup_mode="markdown",
    add_completion=False,
    help=__doc__,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# In the order of a stack's life.
for command in (preflight, takeover, guard, monitoring, status, drill, move, drain, resume, rebuild, support_bundle):
    app.command()(command)


def main() -> None:
    """Run the command line; errors that the user can fix are shown without a traceback."""
    end_like_ctrl_c()
    try:
        app(prog_name="ha")
    except (StackError, HostError, PairError, SDKException, ClientException) as error:
        text = explain(error) if isinstance(error, SDKException | ClientException) else str(error)
        Console(stderr=True).print(Text.assemble(("Error: ", "red"), text), soft_wrap=True)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
