"""Thousands of connections at once, as after a failover: as root, `make bench-storm`.

All clients arrive at the same instant, each with a watch that stays open; then the holder dies, and all of them arrive
anew at that instant. Beside it the same arrival at the API servers themselves, with nothing between: the stand-ins are
slower than real servers, and what they take has to be told from what HAProxy adds.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.configurations import CONFIGURATIONS
from bench.world import ADDRESSES, API_SERVERS, HAPROXY, TOP_PRIORITY, VIP, Machine, World, remove_left_overs
from model.timers import Profile


def resident_mib(machine: Machine) -> float:
    """Memory of a machine's HAProxy, all of its processes, in MiB."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in machine.processes(HAPROXY))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _row(what: str, answered: Sequence[float | None], more: str = "") -> tuple[str, ...]:
    times = sorted(seconds for seconds in answered if seconds is not None)
    return (
        what,
        f"{len(times)} of {len(answered)}",
        *(f"{value:.2f} s" for value in (median(times), times[len(times) * 99 // 100], times[-1])),
        more,
    )


def main(
    connections: Annotated[int, typer.Option(min=1, max=15_000, help="arriving at once")] = 5000,
    configuration: Annotated[str, typer.Option(help="one of `python -m bench --list`")] = Profile.DEFAULT.value,
    out: Annotated[Path, typer.Option(help="folder for journals")] = Path("build/bench-storm"),
) -> None:
    """Measure how long thousands of clients wait that arrive at once."""
    if os.geteuid() != 0:
        sys.exit("the bench makes namespaces and needs root")
    console = Console()
    remove_left_overs()
    os.setpriority(os.PRIO_PROCESS, 0, TOP_PRIORITY)
    table = Table("arriving", "answered", "median", "99 of 100", "last", "HAProxy's memory", box=None)
    chosen = CONFIGURATIONS[configuration]
    with World(chosen.files, out / "logs" / chosen.name) as world, console.status("a pair of load balancers"):
        world.make_whole()
        with world.clients.storm(str(ADDRESSES[API_SERVERS[0]]), connections // len(API_SERVERS)) as arrive:
            table.add_row(*_row("a third of them at one API server", arrive()))
        with world.clients.storm(str(VIP), connections) as arrive:
            holder, peer, idle = world.holder, world.peer, resident_mib(world.holder)
            table.add_row(*_row("at the VIP", arrive(), f"{idle:.0f} -> {resident_mib(holder):.0f} MiB"))
            world.segment.isolate(holder.name)
            holder.power_off(world.holders)
            table.add_row(*_row("at the VIP, whose holder died", arrive(), f"{resident_mib(peer):.0f} MiB"))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
