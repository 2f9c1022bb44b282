"""Costs and benefits of the advertisement timers, for docs/failover.md: `make bench-timers`, then `make bench-report`.

    python -m dev.bench.curves build/bench-timers/results.json

Writes docs/failover/timers.svg, and replaces the text between the two marks in docs/failover.md.
"""
# Nearly all methods of matplotlib have partly unknown types.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from dev.bench.configurations import ADVERTISEMENTS, timers_name
from dev.bench.faults import STALLS_MS
from dev.bench.figures import ALARM, FAINT, FIRST, INK, PEER, WIDTH, save, style
from dev.bench.report import PICTURES, machine, table, with_report
from dev.bench.results import Results, Run
from dev.bench.summary import Spread, fault_end

BEGIN = "<!-- timers: begin; made by `make bench-report` -->"
END = "<!-- timers: end -->"
STYLES = {3: (INK, "o"), 5: (PEER, "s"), 7: (ALARM, "D"), 10: (FIRST, "^"), 25: (FAINT, "v")}
"""Colour and marker by the number of missed advertisements."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The measurements of one choice of the two timers."""

    missed: int
    interval: int
    """Milliseconds."""
    interruption: Spread
    """Seconds without an answer when the holder dies."""
    pause: int
    """Milliseconds: the longest pause of the holder such that the VIP never moved in it or in a shorter one."""
    moves: float
    """Moves of the VIP in 10 minutes while 30 % of the packets between the pair are lost."""

    @property
    def waits(self) -> int:
        """Milliseconds without an advertisement after which the VIP moves."""
        return self.missed * self.interval


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
                moves=_in_ten_minutes(loss),
            )
        )
    return found


def _in_ten_minutes(runs: Sequence[Run]) -> float:
    lossy = sum(fault_end(run) - run.injected_at for run in runs)
    taken = [(run, at) for run in runs for spans in run.holders.values() for at, _ in spans]
    return sum(run.injected_at < at < fault_end(run) for run, at in taken) * 600 / lossy


def markdown(results: Results) -> str:
    """The text between the marks."""
    rows = [
        (
            f"{choice.missed} x {choice.interval} ms",
            f"{choice.waits} ms",
            f"{choice.interruption.median:.2f} s",
            f"{choice.interruption.worst:.2f} s",
            f"{choice.pause} ms",
            f"{choice.moves:.0f}",
        )
        for choice in choices(results)
    ]
    heading = (
        "advertisements", "VIP moves after", "holder dies: median", "worst", "pause survived",
        "moves in 10 min at 30 % loss",
    )  # fmt: skip
    picture = f"![What each choice of timers costs and survives]({PICTURES}/timers.svg)"
    return f"{machine(results)}\n\n{picture}\n\n{table(heading, rows)}\n"


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
    out: Annotated[Path, typer.Option(help="folder of failover.md and of the pictures in it")] = Path("docs"),
) -> None:
    """Write the results of `make bench-timers` into failover.md."""
    results = Results.read(file)
    document = out / "failover.md"
    new = with_report(document.read_text(), markdown(results), BEGIN, END)
    (out / PICTURES).mkdir(exist_ok=True)
    draw(choices(results), out / PICTURES / "timers.svg")
    document.write_text(new)


if __name__ == "__main__":
    typer.run(main)
