"""`ha support-bundle`: logs, configuration and state of a stack in one archive, without secrets."""

import io
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from operate.commands.options import StackName, insist_on_writable
from operate.commands.status import render_report
from operate.hosts.report import PairReport
from operate.stack.applied import read_stack
from operate.stack.files import as_file_name
from operate.support.bundle import build, write


def _text(report: PairReport) -> str:
    text = io.StringIO()
    # Never wrapped: a secret that is split over two lines would not be found.
    Console(file=text, width=10_000).print(render_report(report))
    return text.getvalue()


def since_of(value: str) -> str:
    """How far back journals go; typer.BadParameter for anything but minutes, hours and days."""
    if not re.fullmatch(r"[1-9]\d{0,4}(min|h|d)", value):
        raise typer.BadParameter("write 90min, 24h or 7d")
    return value


def support_bundle(
    stack: StackName = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The archive; by default support-STACK-DATE.tar.gz here.")
    ] = None,
    since: Annotated[str, typer.Option(callback=since_of, help="How far back journals go: 90min, 24h, 7d.")] = "24h",
) -> None:
    """Collect logs, configuration and state of a stack into one archive, with all secrets removed.

    Nothing is changed, and nothing is written on the hosts. The archive says what was unavailable, and why.
    Exit status: 0 if the archive was written, 2 if not.
    """
    began = time.monotonic()
    console = Console(stderr=True)

    def progress(text: str) -> None:
        console.print(f"{time.monotonic() - began:5.1f} s  {text}", markup=False, highlight=False, soft_wrap=True)

    applied = read_stack(stack)
    path = output or Path(f"support-{as_file_name(applied.name)}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz")
    insist_on_writable(path, options="--output")
    nodes = "the cluster's nodes, " if applied.outputs.kubernetes_version else ""
    progress(f"collecting from {', '.join(applied.outputs.load_balancers)}, {nodes}the cloud and Pulumi")
    archive = build(applied, f"-{since}", _text, progress)
    try:
        write(archive, path)
    except OSError as error:
        progress(f"{path} cannot be written: {error.strerror}; nothing was kept: name another path with --output")
        raise typer.Exit(2) from None
    progress(f"{len(archive) / 2**20:.1f} MiB")
    typer.echo(path)
