"""Is all as it should be on a stack's load balancers? `make status STACK=dev`; `make reapply STACK=dev` mends drift.

Ends with status 0 when all is whole, 1 when a file is not as Pulumi applied it or anything does not run, 2 when the
stack cannot be read. Nothing is changed by looking.
"""

import os
import shlex
import sys
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from operate.load_balancer import HostState, collect
from operate.report import HostReport, Report, examine
from operate.stack import PROJECT_FOLDER, PULUMI, StackError, read_stack


def render(report: Report, console: Console) -> None:
    """Show a report to a reader."""
    table = Table("", *report.hosts, title=f"Load balancers of {report.stack}", title_justify="left")
    rows = ("address", "services", "VIP", "keepalived", "HAProxy", "API servers", "files")
    columns = [_column(host) for host in report.hosts.values()]
    for index, row in enumerate(rows):
        table.add_row(row, *(column[index] for column in columns))
    console.print(table)
    for trouble in report.troubles:
        console.print(f"[red]trouble[/]  {trouble}")
    for name, host in report.hosts.items():
        for trouble in host.troubles:
            console.print(f"[red]trouble[/]  {name}: {trouble}")
        for drift in host.drift:
            detail = f" ({drift.detail})" if drift.detail else ""
            console.print(f"[yellow]drift[/]    {name}: /{drift.path} is {drift.kind}{detail}")
    if report.remedy:
        console.print("Put right with [bold]make reapply[/] (same STACK), which runs")
        # Never wrapped: it is for copying.
        console.print(f"  {report.remedy}", soft_wrap=True, highlight=False)


def _column(host: HostReport) -> tuple[str, ...]:
    state = host.state
    if state is None:
        return (host.address, *["?"] * 6)
    down = [f"{name} {service.state}" for name, service in state.services.items() if service.state != "active"]
    servers = state.haproxy.api_servers
    up = sum(server.state == "UP" for server in servers.values())
    vrrp = state.vrrp
    return (
        host.address,
        ", ".join(down) or "active",
        "holds it" if state.holds_vip else "-",
        f"{vrrp.state} for {_age(state, vrrp.since)}" if vrrp else "?",
        state.haproxy.version or "does not answer",
        f"{up} of {len(servers)} up",
        f"{len(host.drift)} of {len(state.files)} differ" if host.drift else f"{len(state.files)} as applied",
    )


def _age(state: HostState, since: datetime) -> str:
    seconds = int((state.time - since).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def main(
    stack: Annotated[str, typer.Argument(help="The stack, as in Pulumi.STACK.yaml.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: everything that was found.")] = False,
    reapply: Annotated[bool, typer.Option("--reapply", help="Then run `pulumi up` for the hosts with drift.")] = False,
) -> None:
    """Look at the load balancers of a stack, and compare them with what was applied."""
    try:
        applied = read_stack(stack)
    except StackError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    outputs = applied.outputs
    report = examine(stack, outputs.load_balancers, outputs.configuration_digests, collect(applied))
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        render(report, Console(width=None if sys.stdout.isatty() else 120))
    if reapply and report.remedy:
        _, *arguments = shlex.split(report.remedy)
        os.chdir(PROJECT_FOLDER)
        os.execv(PULUMI, [str(PULUMI), *arguments])  # noqa: S606 - no shell is wanted
    if not report.whole:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
