"""`ha status`: the state of a stack's load balancers, and how it differs from what was applied; its nodes and etcd."""

import asyncio
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from operate.commands.options import AsJson, StackName, Yes, insist_on_answer
from operate.hosts.cluster import ClusterReport, Member
from operate.hosts.look import look
from operate.hosts.report import CERTIFICATE_TIME_LEFT, HostReport, PairReport, compare_with_applied
from operate.hosts.state import HostState, Server, watch
from operate.maintenance.checks import insist_on_nothing_pending
from operate.stack import engine
from operate.stack.applied import AppliedStack, read_stack
from operate.stack.preview import parse_preview

WATCH_SECONDS = 2.0


def render_report(report: PairReport) -> Group:
    """A report as text and tables."""
    cluster = [*_cluster(report.cluster)] if report.cluster else []
    servers = (_api_servers(report), *_frontends(report))
    return Group(_holder(report), _hosts(report), *servers, *cluster, _changes(report), *_findings(report))


def _holder(report: PairReport) -> Text:
    lines = [
        f"{name} has held the VIP since {since:%Y-%m-%d %H:%M:%S} UTC, for {_age(report.hosts[name].state, since)}"
        if since
        else f"{name} holds the VIP"
        for name, since in report.holders.items()
    ]
    unknown = "holder of the VIP unknown: not every load balancer answered"
    nowhere = "no load balancer holds the VIP" if all(host.state for host in report.hosts.values()) else unknown
    return Text("\n".join(lines) or nowhere, style="" if len(lines) == 1 else "red")


def _hosts(report: PairReport) -> Table:
    table = Table("", *report.hosts, title=f"Load balancers of {report.stack}", title_justify="left")
    rows = ("address", "services", "VIP", "keepalived", "HAProxy", "API servers", "system", "kernel", "disk", "files")
    columns = [_column(host) for host in report.hosts.values()]
    for index, row in enumerate(rows):
        table.add_row(row, *(_plain(column[index]) for column in columns))
    return table


def _column(host: HostReport) -> tuple[str, ...]:
    state = host.state
    if state is None:
        return (host.address, *["?"] * 9)
    down = [f"{name} {service.state}" for name, service in state.services.items() if service.state != "active"]
    servers = state.haproxy.api_servers
    up = sum(server.state == "UP" for server in servers.values())
    vrrp = state.vrrp
    return (
        host.address,
        ", ".join(down) or "active",
        "holds it" if state.holds_vip else "-",
        f"{state.versions.keepalived}, {f'{vrrp.state} for {_age(state, vrrp.since)}' if vrrp else 'no state'}",
        state.haproxy.version or "does not answer",
        f"{up} of {len(servers)} up",
        state.versions.distribution,
        f"{state.versions.kernel}, up for {_age(state, state.booted)}",
        ", ".join(
            f"{path} {disk.free / 2**30:.1f} of {disk.size / 2**30:.1f} GiB free" for path, disk in state.disks.items()
        ),
        f"{len(host.drift)} of {len(state.files)} differ" if host.drift else f"{len(state.files)} as applied",
    )


def _api_servers(report: PairReport) -> Table:
    table = Table("API server", *report.hosts, "certificate")
    states = [host.state for host in report.hosts.values()]
    for name in dict.fromkeys(name for state in states if state for name in state.haproxy.api_servers):
        expires = report.certificates.get(name)
        now = max(state.time for state in states if state)
        soon = expires is not None and expires - now < CERTIFICATE_TIME_LEFT
        until = Text(f"{expires:%Y-%m-%d}" if expires else "?", style="red" if soon else "")
        table.add_row(
            _plain(name), *(_check(it, it.haproxy.api_servers.get(name) if it else None) for it in states), until
        )
    return table


def _frontends(report: PairReport) -> Iterator[Table]:
    states = [host.state for host in report.hosts.values()]
    for frontend in dict.fromkeys(name for state in states if state for name in state.haproxy.frontends):
        table = Table(f"frontend {frontend}", *report.hosts)
        servers = [state.haproxy.frontends.get(frontend, {}) if state else {} for state in states]
        for name in dict.fromkeys(name for found in servers for name in found):
            checks = (_check(state, found.get(name)) for state, found in zip(states, servers, strict=True))
            table.add_row(_plain(name), *checks)
        yield table


def _check(state: HostState | None, server: Server | None) -> Text:
    if server is None:
        return Text("?")
    code = f" {server.code}" if server.code else ""
    took = f", {server.duration_ms} ms" if server.duration_ms is not None else ""
    text = f"{server.state} {_age(state, server.since)}, {server.check or 'unchecked'}{code}{took}"
    return _plain(text, style="" if server.state == "UP" else "red")


def _plain(text: str, style: str = "") -> Text:
    """Without markup or terminal control characters, whatever the host sent."""
    return Text("".join(it for it in text if it.isprintable() or it == "\n"), style=style)


def _cluster(cluster: ClusterReport) -> Iterator[Table]:
    nodes = Table("node", "role", "version", "ready", "etcd")
    members = {member.name: member for member in cluster.members}
    for node in cluster.nodes:
        member = members.pop(node.name, None)
        ready = Text("Ready") if node.ready else Text("not Ready", style="red")
        etcd = _plain(f"{member.kind}, {member.health}" if member else "-", style=_of(member))
        nodes.add_row(_plain(node.name), _plain(node.role), _plain(node.version), ready, etcd)
    for member in members.values():
        nodes.add_row(_plain(member.address), "", "", "", _plain(f"{member.kind}, {member.health}", style=_of(member)))
    yield nodes


def _of(member: Member | None) -> str:
    return "red" if member and member.health == "unhealthy" else ""


def _changes(report: PairReport) -> Table:
    table = Table(title="Last changes", title_justify="left", box=None, show_header=False)
    merged = sorted(
        (change.time, name, change.source, change.text)
        for name, host in report.hosts.items()
        for change in (host.state.changes if host.state else ())
    )
    for time, *words in merged:
        table.add_row(f"{time:%Y-%m-%d %H:%M:%S}", *map(_plain, words))
    return table


def _findings(report: PairReport) -> Iterator[RenderableType]:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    for problem in (*report.problems, *(report.cluster.problems if report.cluster else ())):
        table.add_row("[red]problem", _plain(problem))
    for name, host in report.hosts.items():
        for problem in host.problems:
            table.add_row("[red]problem", _plain(f"{name}: {problem}"))
        for drift in host.drift:
            detail = f" ({drift.detail})" if drift.detail else ""
            table.add_row("[yellow]drift", _plain(f"{name}: /{drift.path} is {drift.kind}{detail}"))
        for note in host.notes:
            table.add_row("[yellow]note", _plain(f"{name}: {note}"))
    for note in report.cluster.notes if report.cluster else ():
        table.add_row("[yellow]note", _plain(note))
    if table.row_count:
        yield table


def _age(state: HostState | None, since: datetime) -> str:
    seconds = int(((state.time if state else since) - since) / timedelta(seconds=1))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def follow(applied: AppliedStack, console: Console) -> None:
    """Show the pair until Ctrl-C: in place on a terminal, otherwise one report after the other."""
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:

        def show(states: Mapping[str, HostState | str]) -> None:
            outputs = applied.outputs
            found = render_report(
                compare_with_applied(applied.name, outputs.load_balancers, outputs.configuration_digests, states)
            )
            if console.is_terminal:
                live.update(found, refresh=True)
            else:
                console.print(found)

        with suppress(KeyboardInterrupt):
            asyncio.run(watch(applied, WATCH_SECONDS, show))


def status(
    stack: StackName = None,
    *,
    as_json: AsJson = False,
    reapply: Annotated[
        bool, typer.Option("--reapply", help="Then run `pulumi up` to restore files that differ.")
    ] = False,
    yes: Yes = False,
    watched: Annotated[bool, typer.Option("--watch", "-w", help="Repeat every 2 s, until Ctrl-C.")] = False,
) -> None:
    """Show the state of load balancers, nodes and etcd, and compare files with what was applied. Changes nothing.

    With --reapply, Pulumi shows what it will do, and asks. Refused if other changes wait for a `pulumi up`.

    Exit status: 0 if nothing is wrong, with --reapply afterwards; 1 if a file differs from what Pulumi applied, or
    something does not run; 2 if the stack cannot be read. With --watch, 0 after Ctrl-C.
    """
    if watched and (as_json or reapply):
        raise typer.BadParameter("--watch cannot be combined with --json or --reapply")
    applied = read_stack(stack)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if watched:
        follow(applied, console)
        return
    report = look(applied, with_instances=True)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        console.print(render_report(report))
        if report.remedy:
            if report.left_by_failed_run:
                console.print("A run failed halfway. Fix the error that it showed, then repeat it:")
            else:
                console.print(
                    f"Restore the files with [bold]./ha status --reapply --stack {report.stack}[/], which runs"
                )
            # Never wrapped, so that it can be copied.
            console.print(f"  {report.remedy}", soft_wrap=True, highlight=False, markup=False)
    if reapply and report.remedy:
        # With this variable Pulumi, which is the only one to ask, does not.
        insist_on_answer(yes=yes or os.environ.get("PULUMI_SKIP_CONFIRMATIONS") in ("true", "1"))
        insist_on_nothing_pending(applied.name, parse_preview(engine.preview(applied.name)), with_servers=True)
        _, *arguments = shlex.split(report.remedy)
        engine.run_pulumi(*arguments, *(["--yes"] if yes else []), stack=applied.name, again="./ha status --reapply")
        # No output has changed: nothing else was pending.
        report = look(applied, with_instances=True)
        if not as_json:
            console.print(Group(*_findings(report)))
    if not report.healthy:
        raise typer.Exit(1)
