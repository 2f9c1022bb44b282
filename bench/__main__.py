"""What faults cost clients, measured with the real keepalived and HAProxy in network namespaces: as root, `make bench`.

    python -m bench --list                                          configurations and faults
    python -m bench --quick                                         a few faults, in three minutes
    python -m bench --only node-death --configuration default       one of each; both options may be repeated
    python -m bench --repeats 5 --out build/bench                   all of it, five times

Prints a line for each run, and writes OUT/results.json (bench/results.py) after each, so that a bench that is ended
early loses nothing. The journals of the load balancers are kept in OUT/logs/CONFIGURATION/; their times are those of
the monotonic clock. After a run that cannot be measured the bench goes on with the others, and ends with status 1.
"""

import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import faults, results
from bench.configurations import CONFIGURATIONS, Configuration
from bench.faults import FAULTS, Fault
from bench.run import measure
from bench.world import TOP_PRIORITY, World, WorldError, remove_left_overs

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
        self.failed: list[str] = []

    def work(self, configuration: Configuration, chosen: list[Fault], repeats: int, task: int) -> None:
        """All runs of one configuration, in one world for as long as it can be made whole again."""
        todo = [(fault, repeat) for fault in chosen for repeat in range(repeats)]
        while todo:
            log = self._out / "logs" / configuration.name
            with World(configuration.files, log) as world:
                while todo:
                    fault, repeat = todo.pop(0)
                    try:
                        run = measure(world, configuration.name, fault, repeat)
                    except (WorldError, OSError, EOFError, subprocess.SubprocessError) as error:
                        self._failure(f"{configuration.name}, {fault.name}: {error} (journals: {log})")
                        break
                    else:
                        self._add(run)
                    finally:
                        self._progress.advance(task)  # pyright: ignore[reportArgumentType]

    def _failure(self, text: str) -> None:
        with self._lock:
            self.failed.append(text)
            self._console.print(f"[red]{text}", highlight=False, soft_wrap=True)

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
        results.Results(machine=machine, runs=tuple(self._runs)).write(self._out / "results.json")


def _list(console: Console) -> None:
    for title, entries in (
        ("configurations", [(c.name, c.title) for c in CONFIGURATIONS.values()]),
        ("faults", [(f.name, f"{f.title}. {f.why}") for f in FAULTS.values()]),
    ):
        table = Table("name", "what it is", title=title, box=None, title_justify="left")
        for entry in entries:
            table.add_row(*entry)
        console.print(table)


def _chosen(names: list[str], known: dict[str, T], what: str) -> list[T]:
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
    show: Annotated[bool, typer.Option("--list", help="show what there is, and run nothing")] = False,
) -> None:
    """Measure what faults cost clients."""
    console = Console()
    if show:
        _list(console)
        return
    if os.geteuid() != 0:
        sys.exit("the bench makes namespaces and needs root")
    configurations = _chosen(
        configuration or [name for name in CONFIGURATIONS if not quick or name in QUICK_CONFIGURATIONS],
        dict(CONFIGURATIONS),
        "configuration",
    )
    chosen = _chosen(only or list(faults.QUICK if quick else FAULTS), dict(FAULTS), "fault")
    repeats = 1 if quick else repeats
    out.mkdir(parents=True, exist_ok=True)
    remove_left_overs()
    # An instrument has to be on time, also when processors are what is short. Threads and processes inherit it.
    os.setpriority(os.PRIO_PROCESS, 0, TOP_PRIORITY)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bench = Bench(console, out, progress)
        # At the same time only where it is the ratios that count.
        with ThreadPoolExecutor(len(configurations) if quick else 1) as pool:
            futures = [
                pool.submit(
                    bench.work, entry, chosen, repeats, progress.add_task(entry.name, total=len(chosen) * repeats)
                )
                for entry in configurations
            ]
            try:
                for future in futures:
                    future.result()
            except KeyboardInterrupt:
                # Not by way of the threads, which are in the middle of a run: what they started ends with this process.
                progress.stop()
                remove_left_overs()
                os._exit(130)
    if bench.failed:
        sys.exit(f"{len(bench.failed)} runs failed")


if __name__ == "__main__":
    typer.run(main)
