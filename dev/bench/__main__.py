"""What faults cost clients, measured with the real keepalived and HAProxy in network namespaces: as root, `make bench`.

    python -m dev.bench --list                                          configurations and faults
    python -m dev.bench --quick                                         a few faults, in three minutes
    python -m dev.bench --only node-death --configuration default       one of each; both options may be repeated
    python -m dev.bench --repeats 5 --out build/bench                   all of it, five times
    python -m dev.bench --timers --out build/bench-timers               choices of the advertisements' timers

Prints a line for each run, and writes OUT/results.json (bench/results.py) after each, so that a bench that is ended
early loses nothing. The journals of the load balancers are kept in OUT/logs/CONFIGURATION/; their times are those of
the monotonic clock. A run that cannot be measured, also at a second try, lets the bench end with status 1, after
all others.
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
    """All runs, their lines on the console, and the file of results."""

    def __init__(self, console: Console, out: Path, progress: Progress) -> None:
        self._console, self._out, self._progress = console, out, progress
        self._lock = threading.Lock()
        self._runs: list[results.Run] = []
        self._begin, self._load_before = time.monotonic(), os.getloadavg()[0]
        self.results: results.Results | None = None
        self.failed: list[str] = []

    def run(self, configurations: list[Configuration], chosen: list[Fault], repeats: int, worlds: int) -> None:
        """Work through some faults with all configurations, of which so many at the same time."""
        todo = [(fault, repeat, False) for fault in chosen for repeat in range(1 if fault.once else repeats)]
        with ThreadPoolExecutor(worlds) as pool:
            tasks = [(entry, self._progress.add_task(entry.name, total=len(todo))) for entry in configurations]
            futures = [pool.submit(self._work, entry, list(todo), task) for entry, task in tasks]
            try:
                for future in futures:
                    future.result()
            except KeyboardInterrupt:
                # Not by way of the threads, which are in the middle of a run: what they started ends with this process.
                self._progress.stop()
                remove_left_overs()
                os._exit(130)

    def _work(self, configuration: Configuration, todo: list[tuple[Fault, int, bool]], task: TaskID) -> None:
        """All runs of one configuration, in one world for as long as it can be made whole again."""
        total = len(todo)
        while todo:
            log = self._out / "logs" / configuration.name
            with World(configuration.files, log) as world:
                while todo:
                    fault, repeat, again = todo.pop(0)
                    try:
                        self._add(measure(world, configuration.name, fault, repeat))
                    except (WorldError, OSError, EOFError, subprocess.SubprocessError) as error:
                        # Once more in a world that is new, for a machine that stalls for a second spoils a run.
                        if not again:
                            todo.insert(0, (fault, repeat, True))
                        self._failure(f"{configuration.name}, {fault.name}: {error} (journals: {log})", final=again)
                        break
                    finally:
                        self._progress.update(task, completed=total - len(todo))

    def _failure(self, text: str, *, final: bool) -> None:
        with self._lock:
            if final:
                self.failed.append(text)
            self._console.print(f"[red]{text}" if final else f"{text}; once more", highlight=False, soft_wrap=True)

    def _add(self, run: results.Run) -> None:
        with self._lock:
            self._runs.append(run)
            self._console.print(
                f"{run.configuration:14} {run.fault:24} outage {run.quick.longest_gap:6.2f} s"
                f"  failed {run.quick.failed:5} of {run.quick.count:5}  held lost {run.held_lost} of {len(run.held)}"
                f"  VIP taken {run.changes}x  split-brain {run.split_brain:5.2f} s  (stall {run.longest_stall:.2f} s)",
                highlight=False,
                soft_wrap=True,
            )
            self._write()

    def _write(self) -> None:
        machine = results.Machine(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            cores=os.cpu_count() or 1,
            memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            kernel=os.uname().release,
            keepalived=_version("keepalived", "--version"),
            haproxy=_version("haproxy", "-v"),
            load_before=self._load_before,
            load_after=os.getloadavg()[0],
            seconds=time.monotonic() - self._begin,
        )
        self.results = results.Results(machine=machine, runs=tuple(self._runs))
        self.results.write(self._out / "results.json")


def _list(console: Console, configurations: Mapping[str, Configuration], known_faults: Mapping[str, Fault]) -> None:
    for title, entries in (
        ("configurations", [(c.name, c.title) for c in configurations.values()]),
        ("faults", [(f.name, f"{f.title}. {f.why}") for f in known_faults.values()]),
    ):
        table = Table("name", "what it is", title=title, box=None, title_justify="left")
        for entry in entries:
            table.add_row(*entry)
        console.print(table)


def _chosen(names: list[str], known: Mapping[str, T], what: str) -> list[T]:
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"there is no {what} {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in names]


def main(  # noqa: PLR0917 typer passes them by name
    only: Annotated[list[str] | None, typer.Option(help="only this fault; may be repeated")] = None,
    configuration: Annotated[list[str] | None, typer.Option(help="only this configuration; may be repeated")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="runs of each fault")] = 3,
    out: Annotated[Path, typer.Option(help="folder for results.json and journals")] = Path("build/bench"),
    quick: Annotated[
        bool, typer.Option("--quick", help="a few faults once; two configurations at the same time")
    ] = False,
    timers: Annotated[bool, typer.Option("--timers", help="compare choices of the advertisements' timers")] = False,
    parallel: Annotated[
        int, typer.Option(min=1, help="configurations at the same time; each takes a fifth of a processor")
    ] = 4,
    show: Annotated[bool, typer.Option("--list", help="show what there is, and run nothing")] = False,
) -> None:
    """Measure what faults cost clients."""
    console = Console()
    known_configurations, known_faults = (TIMERS, OF_TIMERS) if timers else (CONFIGURATIONS, FAULTS)
    if show:
        _list(console, known_configurations, known_faults)
        return
    if os.geteuid() != 0:
        sys.exit("the bench makes namespaces and needs root")
    configurations = _chosen(
        configuration or list(QUICK_CONFIGURATIONS if quick else known_configurations),
        known_configurations,
        "configuration",
    )
    chosen = _chosen(only or list(faults.QUICK if quick else known_faults), known_faults, "fault")
    repeats = 1 if quick else repeats
    out.mkdir(parents=True, exist_ok=True)
    remove_left_overs()
    # An instrument has to be on time, also when processors are what is short. Threads and processes inherit it.
    os.setpriority(os.PRIO_PROCESS, 0, TOP_PRIORITY)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bench = Bench(console, out, progress)
        # Faults of minutes are probed so seldom that all configurations can be watched together: the same minutes.
        short, long = [fault for fault in chosen if not fault.long], [fault for fault in chosen if fault.long]
        for some, worlds in ((short, parallel), (long, len(configurations))):
            if some:
                bench.run(configurations, some, repeats, worlds)
    if bench.results and not timers:
        print_summary(bench.results, console)
    if bench.failed:
        sys.exit(f"{len(bench.failed)} runs failed")


if __name__ == "__main__":
    typer.run(main)
