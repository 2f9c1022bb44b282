"""What faults cost clients, measured with the real keepalived and HAProxy in network namespaces: `make bench`, as root.

    python -m dev.bench --list                                          configurations and faults
    python -m dev.bench --quick                                         a few faults, in three minutes
    python -m dev.bench --only node-death --configuration default       one of each; both options can be repeated
    python -m dev.bench --repeats 5 --out build/bench                   everything, five times
    python -m dev.bench --timers --out build/bench-timers               compare advertisement timers

Prints a line for each run and then writes OUT/results.json (dev/bench/results.py), so a bench that is interrupted keeps
its results. The journals of the load balancers are in OUT/logs/CONFIGURATION/, with times of the monotonic clock. A run
that fails is tried again; if it fails twice, the bench goes on with the other runs and exits with status 1.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from dev.bench import faults, results
from dev.bench.configurations import CONFIGURATIONS, TIMERS, Configuration
from dev.bench.faults import FAULTS, OF_TIMERS, Fault
from dev.bench.run import measure
from dev.bench.summary import print_summary
from dev.bench.world import TOP_PRIORITY, World, WorldError, remove_left_overs

T = TypeVar("T")
QUICK_CONFIGURATIONS = ("seed", "default")


def _version(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else "unknown"


class Bench:
    """Runs the faults, prints a line for each run, and writes the results."""

    def __init__(self, console: Console, out: Path, progress: Progress, *, quick: bool) -> None:
        self._console, self._out, self._progress, self._quick = console, out, progress, quick
        self._lock = threading.Lock()
        self._runs: list[results.Run] = []
        self._begin, self._load_before = time.monotonic(), os.getloadavg()[0]
        self.results: results.Results | None = None
        self.failed: list[str] = []

    def run(self, configurations: list[Configuration], chosen: list[Fault], repeats: int, worlds: int) -> None:
        """Run the chosen faults with all configurations, `worlds` of them at the same time."""
        todo = [(fault, repeat, False) for fault in chosen for repeat in range(1 if fault.once else repeats)]
        with ThreadPoolExecutor(worlds) as pool:
            tasks = [(entry, self._progress.add_task(entry.name, total=len(todo))) for entry in configurations]
            futures = [pool.submit(self._work, entry, list(todo), task) for entry, task in tasks]
            try:
                for future in futures:
                    future.result()
            except KeyboardInterrupt:
                # Do not wait for the threads, which are in the middle of a run: their processes end with this one.
                self._progress.stop()
                remove_left_overs()
                os._exit(130)

    def _work(self, configuration: Configuration, todo: list[tuple[Fault, int, bool]], task: TaskID) -> None:
        """All runs of one configuration, in one world as long as it can be repaired."""
        total = len(todo)
        while todo:
            fault, repeat, again = todo.pop(0)
            log = self._out / "logs" / configuration.name
            try:
                with World(configuration.files, log) as world:
                    while True:
                        self._add(measure(world, configuration.name, fault, repeat))
                        self._progress.update(task, completed=total - len(todo))
                        if not todo:
                            break
                        fault, repeat, again = todo.pop(0)
            except (WorldError, OSError, EOFError, subprocess.SubprocessError) as error:
                # Try again in a new world: a machine that stalls for a second spoils a run.
                if not again:
                    todo.insert(0, (fault, repeat, True))
                self._failure(f"{configuration.name}, {fault.name}: {error} (journals: {log})", final=again)
                self._progress.update(task, completed=total - len(todo))

    def _failure(self, text: str, *, final: bool) -> None:
        with self._lock:
            if final:
                self.failed.append(text)
            self._console.print(f"[red]{text}" if final else f"{text}; trying again", highlight=False, soft_wrap=True)

    def _add(self, run: results.Run) -> None:
        with self._lock:
            self._runs.append(run)
            self._console.print(
                f"{run.configuration:14} {run.fault:24} interruption {run.quick.longest_gap:6.2f} s"
                f"  failed {run.quick.failed:5} of {run.quick.count:5}  held lost {run.held_lost} of {len(run.held)}"
                f"  VIP taken {run.changes}x  two holders {run.two_holders:5.2f} s  (stall {run.longest_stall:.2f} s,"
                f" a request every {1000 * run.pace:.0f} ms)",
                highlight=False,
                soft_wrap=True,
            )
            self._write()

    def _write(self) -> None:
        machine = results.Machine(
            date=datetime.now(UTC).isoformat(timespec="minutes"),
            cores=os.cpu_count() or 1,
            memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            kernel=os.uname().release,
            keepalived=_version("keepalived", "--version"),
            haproxy=_version("haproxy", "-v"),
            load_before=self._load_before,
            load_after=os.getloadavg()[0],
            seconds=time.monotonic() - self._begin,
        )
        self.results = results.Results(machine=machine, runs=tuple(self._runs), quick=self._quick)
        self.results.write(self._out / "results.json")


def _list(console: Console, configurations: Mapping[str, Configuration], known_faults: Mapping[str, Fault]) -> None:
    for title, entries in (
        ("configurations", [(c.name, c.title) for c in configurations.values()]),
        ("faults", [(f.name, f"{f.title}. {f.why}") for f in known_faults.values()]),
    ):
        table = Table("name", "description", title=title, box=None, title_justify="left")
        for entry in entries:
            table.add_row(*entry)
        console.print(table)


def _chosen(names: list[str], known: Mapping[str, T], what: str) -> list[T]:
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"unknown {what} {', '.join(unknown)}; choose from {', '.join(known)}")
    return [known[name] for name in names]


def main(  # noqa: PLR0917 typer passes them by name
    only: Annotated[list[str] | None, typer.Option(help="only this fault; can be repeated")] = None,
    configuration: Annotated[list[str] | None, typer.Option(help="only this configuration; can be repeated")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="runs of each fault")] = 3,
    out: Annotated[Path, typer.Option(help="folder for results.json and journals")] = Path("build/bench"),
    quick: Annotated[bool, typer.Option("--quick", help="a few faults, once, with two configurations")] = False,
    timers: Annotated[bool, typer.Option("--timers", help="compare advertisement timers")] = False,
    parallel: Annotated[
        int, typer.Option(min=1, help="configurations at the same time; each needs a fifth of a CPU")
    ] = 4,
    show: Annotated[bool, typer.Option("--list", help="list the configurations and faults, and exit")] = False,
) -> None:
    """Measure what faults cost clients."""
    console = Console()
    known_configurations, known_faults = (TIMERS, OF_TIMERS) if timers else (CONFIGURATIONS, FAULTS)
    if show:
        _list(console, known_configurations, known_faults)
        return
    if os.geteuid() != 0:
        sys.exit("the bench creates network namespaces; run it as root")
    configurations = _chosen(
        configuration or list(QUICK_CONFIGURATIONS if quick else known_configurations),
        known_configurations,
        "configuration",
    )
    chosen = _chosen(only or list(faults.QUICK if quick else known_faults), known_faults, "fault")
    if quick:
        chosen = [faults.shortened(fault) for fault in chosen]
    repeats = 1 if quick else repeats
    out.mkdir(parents=True, exist_ok=True)
    remove_left_overs()
    # The probe must be on time even when the CPUs are busy. Threads and processes inherit the priority.
    os.setpriority(os.PRIO_PROCESS, 0, TOP_PRIORITY)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bench = Bench(console, out, progress, quick=quick)
        # Faults of several minutes get so few requests that all configurations can run in the same minutes.
        short, long = [fault for fault in chosen if not fault.long], [fault for fault in chosen if fault.long]
        for some, worlds in ((short, parallel), (long, len(configurations))):
            if some:
                bench.run(configurations, some, repeats, worlds)
    if bench.results and not timers:
        print_summary(bench.results, console)
    if bench.failed:
        sys.exit(f"{len(bench.failed)} runs failed twice; see above")


if __name__ == "__main__":
    typer.run(main)
