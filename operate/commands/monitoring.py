"""`ha monitoring`: a stack's configuration files for Prometheus and Grafana."""

from pathlib import Path
from typing import Annotated

import typer

from operate.commands.options import StackName
from operate.monitoring.files import Monitored, monitoring_files
from operate.stack.applied import read_stack
from operate.stack.engine import StackError


def monitoring(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to; existing files are overwritten.")],
    stack: StackName = None,
) -> None:
    """Write Prometheus configuration, alert rules and a Grafana dashboard for a stack. The stack is not changed.

    docs/monitoring.md says where to install the files, and what to do about each alert.
    """
    applied = read_stack(stack)
    files = monitoring_files(
        Monitored(
            stack=applied.name,
            vip=applied.outputs.reachable_vip,
            load_balancers=applied.outputs.load_balancers,
            api_servers=(*applied.outputs.control_plane, *map(str, applied.settings.api_servers)),
            timers=applied.settings.timers,
            frontends=tuple(frontend.name for frontend in applied.settings.frontends),
        )
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (output / name).write_text(text)
            typer.echo(output / name)
    except OSError as error:
        raise StackError(f"cannot write to {output}: {error.strerror}; name another folder with --output") from None
