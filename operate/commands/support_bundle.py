"""`ha support-bundle`: what somebody far away needs to understand a pair, without secrets."""

import io
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from operate.commands.options import StackName
from operate.commands.status import render_report
from operate.hosts.report import PairReport
from operate.stack.applied import read_stack
from operate.support.bundle import make, write


def _text(report: PairReport) -> str:
    text = io.StringIO()
    # As wide as it likes: in half a secret in each of two lines none would be found.
    Console(file=text, width=10_000).print(render_report(report))
    return text.getvalue()


def since_of(value: str) -> str:
    """How far back journals go; typer.BadParameter for what journalctl would take otherwise, or not at all."""
    if not re.fullmatch(r"[1-9]\d{0,4}(min|h|d)", value):
        raise typer.BadParameter("write it as 90min, 24h or 7d")
    return value


def support_bundle(
    stack: StackName = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The archive; without it support-STACK-DATE.tar.gz here.")
    ] = None,
    since: Annotated[str, typer.Option(callback=since_of, help="How far back journals go: 90min, 24h, 7d.")] = "24h",
) -> None:
    """Put logs, configurations and states of a stack into one archive, with every secret taken out.

    Nothing is changed, and nothing is written on the hosts. The archive says what could not be had, and why.
    Ends with status 0 when there is an archive, 2 when there is none.
    """
    began = time.monotonic()
    console = Console(stderr=True)

    def progress(text: str) -> None:
        console.print(f"{time.monotonic() - began:5.1f} s  {text}", markup=False, highlight=False, soft_wrap=True)

    applied = read_stack(stack)
    path = output or Path(f"support-{applied.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz")
    progress(f"collecting from {', '.join(applied.outputs.load_balancers)}, the cloud and the engine")
    archive = make(applied, f"-{since}", _text, progress)
    try:
        write(archive, path)
    except OSError as error:
        progress(f"{path} cannot be written: {error.strerror}; nothing is left of it: name another place with --output")
        raise typer.Exit(2) from None
    progress(f"{len(archive) / 2**20:.1f} MiB")
    typer.echo(path)
