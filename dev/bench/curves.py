"""Costs and benefits of the advertisement timers: `make bench-timers`, then `make bench-report`.

    python -m dev.bench.curves build/bench-timers/results.json

Replaces their figures in docs/failover/measured.json, and draws docs/failover/timers.svg.
"""
# Nearly all methods of matplotlib have partly unknown types.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from dev.bench.configurations import ADVERTISEMENTS, timers_name
from dev.bench.faults import STALLS_MS
from dev.bench.figures import ALARM, FAINT, FIRST, INK, PEER, WIDTH, save, style
from dev.bench.report import bench, read
from dev.bench.results import Results, Run
from dev.bench.summary import fault_end
from operate.measured import FILE, Choice, Measurements, Spread, Timers

STYLES = {3: (INK, "o"), 5: (PEER, "s"), 7: (ALARM, "D"), 10: (FIRST, "^"), 25: (FAINT, "v")}
"""Colour and marker by the number of missed advertisements."""


def choices(results: Results) -> list[Choice]:
    """The choices for which all faults were measured, in the order of `ADVERTISEMENTS`."""
    found: list[Choice] = []
    for missed, interval in ADVERTISEMENTS:
        runs = [run for run in results.runs if run.configuration == timers_name(missed, interval)]

        def of(fault: str, runs: Sequence[Run] = runs) -> list[Run]:
            return [run for run in runs if run.fault == fault]

        pauses = {milliseconds: of(f"stall-{milliseconds}ms") for milliseconds in STALLS_MS}
        deaths, loss = of("node-death"), of("pair-loss-30")
        if not (deaths and loss and all(pauses.values())):
            continue
        survived = takewhile(lambda it: not any(run.changes for run in it[1]), sorted(pauses.items()))
        found.append(
            Choice(
                missed=missed,
                interval=interval,
                interruption=Spread.of([run.quick.longest_gap for run in deaths]),
                pause=max((milliseconds for milliseconds, _ in survived), default=0),
                moves=round(_in_ten_minutes(loss), 1),
            )
        )
    return found


def _in_ten_minutes(runs: Sequence[Run]) -> float:
    lossy = sum(fault_end(run) - run.injected_at for run in runs)
    taken = [(run, at) for run in runs for spans in run.holders.values() for at, _ in spans]
    return sum(run.injected_at < at < fault_end(run) for run, at in taken) * 600 / lossy


def draw(found: Sequence[Choice], path: Path) -> None:
    """Three panels by master-down interval: the interruption, the longest pause survived, unnecessary moves."""
    panels: list[tuple[str, Callable[[Choice], float]]] = [
        ("holder dies: seconds without an answer", lambda choice: choice.interruption.median),
        ("longest pause survived, ms", lambda choice: choice.pause),
        ("moves in 10 min at 30 % loss", lambda choice: choice.moves),
    ]
    with style():
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        for axes, (title, value) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            for missed, (color, marker) in STYLES.items():
                points = sorted((choice.waits, value(choice)) for choice in found if choice.missed == missed)
                axes.plot(*zip(*points, strict=True), color=color, marker=marker, linewidth=1, label=f"{missed} missed")
            axes.set_title(title, size=9)
            axes.set_xscale("log")
            axes.set_xticks(sorted({choice.waits for choice in found} - {250, 600, 900, 1000}))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            axes.tick_params(labelsize=8)
            axes.set_ylim(bottom=0)
            axes.grid(visible=True, axis="both")
            axes.set_xlabel("ms without an advertisement until the VIP moves", size=8, color=FAINT)
        figure.axes[0].legend(fontsize=8)
        save(figure, path)


def main(
    file: Annotated[Path, typer.Argument(help="results.json of `make bench-timers`", exists=True, dir_okay=False)],
    measured: Annotated[Path, typer.Option(help="the file of all figures", exists=True, dir_okay=False)] = FILE,
) -> None:
    """Put the results of `make bench-timers` into measured.json, and draw their picture."""
    results = read(file)
    timers = Timers(bench=results.machine.date, choices=tuple(choices(results)))
    if len(timers.choices) < len(ADVERTISEMENTS):
        raise typer.BadParameter(f"{file} does not have all faults of all choices; run `make bench-timers`")
    old = Measurements.read(measured)
    if old.timers.bench <= timers.bench:
        draw(timers.choices, measured.parent / "timers.svg")
        old.model_copy(update={"benches": old.benches | bench(results), "timers": timers}).write(measured)


if __name__ == "__main__":
    typer.run(main)
