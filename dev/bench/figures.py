"""Pictures of runs: who had the VIP and which requests failed, on one time scale for all configurations.

All pictures of the bench are drawn within `style()`. The same runs give the same bytes.
"""
# Nearly all methods of matplotlib have partly unknown types.
# pyright: reportUnknownMemberType=false

import math
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from dev.bench.results import FIXED, Run, Span
from dev.bench.summary import fault_end, pace

INK, FAINT, GRID, UNSEEN = "#1b1f24", "#656d76", "#d9dee3", "#eef0f2"
FIRST, PEER, ALARM = "#9ecae9", "#22577f", "#d1361b"
"""They also differ in brightness, for readers who do not see the hues."""
BOTH_GROUND, BOTH_HATCH = "#ffffff", "//////"

STYLE: Mapping[str, object] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid.axis": "x",
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "hatch.linewidth": 1.6,
    "legend.frameon": False,
    # Text stays text: small, sharp and searchable. The salt makes ids the same on each run.
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
}

WIDTH = 9.4
"""Inches: about 900 pixels in a browser."""
LEFT, RIGHT, TOP, BOTTOM = 1.55, 1.65, 1.02, 0.82
"""Margins around the lanes, in inches."""
LANE, BETWEEN = 0.48, 0.2
"""The height of a lane, and the space between two panels, in inches."""
HOLDER_ROW, FAILED_ROW = (0.16, 0.44), (0.50, 0.84)
"""Top and bottom of the two rows of a lane, as fractions of its height."""

BEFORE_SECONDS, AFTER_SECONDS, AT_LEAST_SECONDS = 1.0, 1.0, 2.0
"""How much is shown before the fault, after the last event, and at least after the fault."""
JOINED_SECONDS = 0.16
"""Failures no further apart than this are one bar; its height is their share of the requests."""
PIECE_SECONDS = 0.24
"""The resolution of that share."""
THINNEST = 0.02
"""The least width of a bar, in inches."""
MARK_INCHES_PER_LETTER = 0.066


@contextmanager
def style() -> Generator[None]:
    """The style of all pictures of the bench."""
    with mpl.rc_context(dict(STYLE)):
        yield


def save(figure: Figure, path: Path) -> None:
    """Write an SVG, without the date and matplotlib's version, so that the same runs give the same bytes."""
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    path.write_text(compact(path.read_text()))


def compact(svg: str) -> str:
    """Each path on one line, and no coordinate finer than a hundredth of a point: a third of matplotlib's lines."""
    svg = re.sub(r'(?<= d=")[^"]+', lambda path: " ".join(path[0].split()), svg)
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One configuration: its title, a run, and the notes on the right."""

    title: str
    run: Run
    note: str
    small_note: str = ""
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A time span of all runs, drawn on one axis; its zero is the fault or the fix."""

    after_fix: bool
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """The length of the time span."""
        return self.end - self.begin

    def zero(self, run: Run) -> float:
        """The time in a run at the zero of the axis."""
        return fault_end(run) if self.after_fix else run.injected_at

    def last(self, run: Run) -> float:
        """Where a run ends on the axis; before the fix, that is where it was fixed, although others may go on."""
        return (run.duration if self.after_fix else fault_end(run)) - self.zero(run)

    def cut(self, run: Run, spans: Iterable[Span]) -> Iterator[Span]:
        """The visible parts of spans of a run, relative to the zero of the axis."""
        zero = self.zero(run)
        end = min(self.end, self.last(run))
        for a, b in spans:
            first, last = max(a - zero, self.begin), min(b - zero, end)
            if last > first:
                yield first, last


def timeline(title: str, subtitle: str, note_title: str, lanes: Sequence[Lane]) -> Figure:
    """One lane for each configuration: who had the VIP above, the share of requests that failed below."""
    panels = _panels([lane.run for lane in lanes])
    height = TOP + LANE * len(lanes) + BOTTOM
    figure = Figure(figsize=(WIDTH, height))

    def text(x: float, y: float, words: str, **look: object) -> None:
        # In inches from the left and the top.
        figure.text(x / WIDTH, 1 - y / height, words, va="center", **look)  # pyright: ignore[reportArgumentType]

    room = WIDTH - LEFT - RIGHT - BETWEEN * (len(panels) - 1)
    inches_per_second = room / sum(panel.seconds for panel in panels)
    left = LEFT
    for panel in panels:
        width = panel.seconds * inches_per_second
        axes = figure.add_axes((left / WIDTH, BOTTOM / height, width / WIDTH, LANE * len(lanes) / height))
        _draw(axes, panel, lanes, inches_per_second)
        left += width + BETWEEN
    text(0.12, 0.22, title, size=13, weight="bold")
    text(0.12, 0.47, subtitle, color=FAINT)
    beside = WIDTH - RIGHT + 0.14
    text(beside, TOP - 0.14, note_title, color=FAINT, size=8)
    for place, lane in enumerate(lanes):
        middle = TOP + LANE * (place + 0.5)
        weight = "bold" if lane.best else "normal"
        text(LEFT - 0.12, middle, lane.title, ha="right", weight=weight)
        text(beside, middle - (0.08 if lane.small_note else 0), lane.note, weight=weight, size=10)
        text(beside, middle + 0.09, lane.small_note, size=7.5, color=FAINT)
    _legend(figure, height)
    return figure


# ---- which part of the time is shown ---------------------------------------------------------------------------------


def _panels(runs: Sequence[Run]) -> list[Panel]:
    panels = [Panel(after_fix=False, begin=-BEFORE_SECONDS, end=_end(runs, after_fix=False))]
    fixed = [run for run in runs if run.fixed_at is not None]
    if any(_last(run, fault_end(run), run.duration) > 0 for run in fixed):
        panels.append(Panel(after_fix=True, begin=-BEFORE_SECONDS / 2, end=_end(fixed, after_fix=True)))
    return panels


def _end(runs: Sequence[Run], *, after_fix: bool) -> float:
    """Cut the quiet tail; and if failures go on until the end, show only enough to see that."""
    bounds = [(fault_end(run), run.duration) if after_fix else (run.injected_at, fault_end(run)) for run in runs]
    over = [
        _last(run, begin, end)
        for run, (begin, end) in zip(runs, bounds, strict=True)
        if not any(end - 1 <= at < end for at in run.quick.failures)
    ]
    seen = max(AT_LEAST_SECONDS, max(over, default=0) + AFTER_SECONDS)
    if len(over) < len(runs):
        seen = max(1.5 * seen, 5)
    return min(seen, max(end - begin for begin, end in bounds))


def _last(run: Run, begin: float, end: float) -> float:
    """Seconds from `begin` to the last event."""
    edges = [edge for spans in run.holders.values() for span in spans for edge in span]
    events = [*edges, *run.quick.failures, *(mark.at for mark in run.marks)]
    # Neither the fix nor the end of the run is an event, nor are spans that end there.
    return max((at - begin for at in events if begin < at < end - 0.05), default=0)


# ---- a panel ---------------------------------------------------------------------------------------------------------


def _draw(axes: Axes, panel: Panel, lanes: Sequence[Lane], inches_per_second: float) -> None:
    axes.set_xlim(panel.begin, panel.end)
    axes.set_ylim(len(lanes), 0)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(max(1, int(panel.seconds * inches_per_second / 0.6)), steps=[1, 2, 5, 10]))
    axes.tick_params(length=2.5, labelsize=8)
    axes.set_xlabel("seconds", size=8, labelpad=2)
    axes.spines["left"].set_visible(False)
    for place, lane in enumerate(lanes):
        if place:
            axes.axhline(place, color=GRID, linewidth=0.6)
        _draw_holders(axes, panel, lane.run, place)
        _draw_failures(axes, panel, lane.run, place + FAILED_ROW[1], THINNEST / inches_per_second)
        _draw_end(axes, panel, lane.run, place, inches_per_second)
    axes.axvline(0, color=INK, linewidth=1.1)
    _draw_marks(axes, panel, lanes, inches_per_second)


def _draw_holders(axes: Axes, panel: Panel, run: Run, place: int) -> None:
    top, bottom = HOLDER_ROW
    for span, color, hatch in _holding(run):
        for a, b in panel.cut(run, [span]):
            corner, width, height = (a, place + top), b - a, bottom - top
            axes.add_patch(Rectangle(corner, width, height, facecolor=color, hatch=hatch, edgecolor=ALARM, linewidth=0))


def _holding(run: Run) -> Iterator[tuple[Span, str, str]]:
    """Spans with their colour and hatch: the holder at the time of the fault, its peer, or both."""
    first = next(
        (name for name, spans in run.holders.items() if any(a <= run.injected_at <= b for a, b in spans)), None
    )
    edges = sorted({0.0, run.duration, *(edge for spans in run.holders.values() for span in spans for edge in span)})
    for a, b in pairwise(edges):
        who = [name for name, spans in run.holders.items() if any(c <= a and b <= d for c, d in spans)]
        if len(who) > 1:
            yield (a, b), BOTH_GROUND, BOTH_HATCH
        elif who:
            yield (a, b), FIRST if who[0] == first else PEER, ""


def _draw_failures(axes: Axes, panel: Panel, run: Run, bottom: float, thinnest: float) -> None:
    step = pace(run)
    failures = run.quick.failures
    height = FAILED_ROW[1] - FAILED_ROW[0]
    breaks = [
        place for place, (a, b) in enumerate(pairwise(failures), start=1) if b - a > max(JOINED_SECONDS, 3 * step)
    ]
    for first, last in pairwise([0, *breaks, len(failures)] if failures else []):
        joined = failures[first:last]
        for begin, end in panel.cut(run, [(joined[0], joined[-1] + step)]):
            pieces = max(1, round((end - begin) / max(PIECE_SECONDS, 6 * step)))
            edges = [begin + (end - begin) * piece / pieces for piece in range(pieces + 1)]
            zero = panel.zero(run)
            shares = [sum(a <= at - zero < b for at in joined) * step / (b - a) for a, b in pairwise(edges)]
            # Requests are never exactly on time, so some pieces have a few less.
            levels = [1.0 if share > 0.7 else share for share in shares]
            # Equal neighbours become one step: half a minute of failures is two points, not hundreds.
            steps = [0, *(place for place, (a, b) in enumerate(pairwise(levels), start=1) if a != b)]
            axes.stairs(
                [bottom - levels[step] * height for step in steps],
                [*(edges[step] for step in steps), max(edges[-1], begin + thinnest)],
                baseline=bottom,
                fill=True,
                color=ALARM,
            )


def _draw_end(axes: Axes, panel: Panel, run: Run, place: int, inches_per_second: float) -> None:
    """Mark where a run ends before its panel does, or that failures go on after the panel."""
    end = panel.last(run)
    if end < panel.end:
        axes.add_patch(Rectangle((end, place), panel.end - end, 1, facecolor=UNSEEN, linewidth=0))
        over = "end of the run" if panel.after_fix or run.fixed_at is None else "fixed"
        if (panel.end - end) * inches_per_second > 0.9:
            axes.annotate(
                over, (end, place + 0.5), (4, 0), textcoords="offset points", size=7.5, color=FAINT, va="center"
            )
    elif any(panel.end < at - panel.zero(run) < end for at in run.quick.failures):
        axes.plot(panel.end, place + FAILED_ROW[1] - 0.08, marker=">", markersize=6, color=ALARM, clip_on=False)


def _draw_marks(axes: Axes, panel: Panel, lanes: Sequence[Lane], inches_per_second: float) -> None:
    """Draw the fault and the fix through all lanes, other marks in their lane, and their labels above the first."""
    words: dict[str, float] = {"fixed" if panel.after_fix else "fault": 0.0}
    for place, lane in enumerate(lanes):
        for mark in lane.run.marks[1:]:
            for at, _ in panel.cut(lane.run, [(mark.at, math.inf)] if mark.label != FIXED else []):
                if at > panel.begin:
                    axes.plot([at, at], [place + 0.06, place + 0.94], color=INK, linewidth=1, linestyle=(0, (2, 1.2)))
                    words.setdefault(mark.label, at)
    free = [-math.inf, -math.inf]
    for label, at in sorted(words.items(), key=lambda word: word[1]):
        # In the upper row if the lower one has no room.
        row = 0 if free[0] <= at else 1
        free[row] = at + len(label) * MARK_INCHES_PER_LETTER / inches_per_second
        axes.annotate(
            label, (at, 0), (-1, 5 + 11 * row), textcoords="offset points", size=7.5, annotation_clip=False, va="bottom"
        )


def _legend(figure: Figure, height: float) -> None:
    handles = [
        Patch(facecolor=FIRST, label="VIP on the original holder"),
        Patch(facecolor=PEER, label="on the other load balancer"),
        Patch(facecolor=BOTH_GROUND, hatch=BOTH_HATCH, edgecolor=ALARM, linewidth=0, label="on both"),
        Patch(facecolor=ALARM, label="failed requests (height: share)"),
    ]
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.004, 0.02 / height), ncols=4, fontsize=8,
        columnspacing=1.4, handlelength=1.4, handletextpad=0.5, borderpad=0.4,
    )  # fmt: skip
