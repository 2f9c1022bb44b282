"""Pictures of runs: who had the VIP and which requests failed, on one scale for all configurations.

The style is for all pictures of the bench: `with style(): ...`. The same runs give the same bytes.
"""
# matplotlib's types are partly unknown, in nearly all of its methods.
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

from dev.bench.results import MENDED, Run, Span
from dev.bench.summary import fault_end, pace

INK, FAINT, GRID, UNSEEN = "#1b1f24", "#656d76", "#d9dee3", "#eef0f2"
FIRST, PEER, ALARM = "#9ecae9", "#22577f", "#d1361b"
"""Told apart by brightness as well, so that nobody needs to see hues."""
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
    # Text stays text, which is small, sharp and can be searched; and no byte depends on when or where it was drawn.
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
}

WIDTH = 9.4
"""Inches: about 900 pixels in a browser."""
LEFT, RIGHT, TOP, BOTTOM = 1.55, 1.65, 1.02, 0.82
"""Inches around the lanes."""
LANE, BETWEEN = 0.48, 0.2
"""Inches: a lane's height, and the space between two panels."""
HOLDER_ROW, FAILED_ROW = (0.16, 0.44), (0.50, 0.84)
"""Top and bottom of a lane's two rows, in parts of the lane."""

BEFORE_SECONDS, AFTER_SECONDS, AT_LEAST_SECONDS = 1.0, 1.0, 2.0
"""What is seen before a fault and after the last that happened, and at least after a fault."""
JOINED_SECONDS = 0.16
"""Failures that are no further apart are one bar, as high as their share."""
PIECE_SECONDS = 0.24
"""How finely that share is told."""
THINNEST = 0.02
"""Inches: so wide is a single failure at least."""
MARK_INCHES_A_LETTER = 0.066


@contextmanager
def style() -> Generator[None]:
    """How all pictures of the bench look."""
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
    """One configuration: its title, a run, and what is said about it on the right."""

    title: str
    run: Run
    note: str
    small_note: str = ""
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A part of all runs that is drawn on one axis, whose zero is the fault or its end."""

    after_mending: bool
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How much time it shows."""
        return self.end - self.begin

    def zero(self, run: Run) -> float:
        """Where the axis' zero is in a run."""
        return fault_end(run) if self.after_mending else run.injected_at

    def last(self, run: Run) -> float:
        """Where on the axis the run ends; that of the fault ends where it is mended, though others may go on."""
        return (run.duration if self.after_mending else fault_end(run)) - self.zero(run)

    def cut(self, run: Run, spans: Iterable[Span]) -> Iterator[Span]:
        """What is seen of spans of a run, counted from the axis' zero."""
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
        # In inches from the left and from the top.
        figure.text(x / WIDTH, 1 - y / height, words, va="center", **look)  # pyright: ignore[reportArgumentType]

    room = WIDTH - LEFT - RIGHT - BETWEEN * (len(panels) - 1)
    inches_a_second = room / sum(panel.seconds for panel in panels)
    left = LEFT
    for panel in panels:
        width = panel.seconds * inches_a_second
        axes = figure.add_axes((left / WIDTH, BOTTOM / height, width / WIDTH, LANE * len(lanes) / height))
        _draw(axes, panel, lanes, inches_a_second)
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


# ---- what part of the time is seen -----------------------------------------------------------------------------------


def _panels(runs: Sequence[Run]) -> list[Panel]:
    panels = [Panel(after_mending=False, begin=-BEFORE_SECONDS, end=_end(runs, after_mending=False))]
    mended = [run for run in runs if run.mended_at is not None]
    if any(_last(run, fault_end(run), run.duration) > 0 for run in mended):
        panels.append(Panel(after_mending=True, begin=-BEFORE_SECONDS / 2, end=_end(mended, after_mending=True)))
    return panels


def _end(runs: Sequence[Run], *, after_mending: bool) -> float:
    """Without the quiet tail; and of what goes on until the end, not more than it takes to see that it does."""
    bounds = [(fault_end(run), run.duration) if after_mending else (run.injected_at, fault_end(run)) for run in runs]
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
    """How long after `begin` the last happened."""
    edges = [edge for spans in run.holders.values() for span in spans for edge in span]
    events = [*edges, *run.quick.failures, *(mark.at for mark in run.marks)]
    # A run's end is no event, nor is its mending, nor are spans that end for them.
    return max((at - begin for at in events if begin < at < end - 0.05), default=0)


# ---- a panel ---------------------------------------------------------------------------------------------------------


def _draw(axes: Axes, panel: Panel, lanes: Sequence[Lane], inches_a_second: float) -> None:
    axes.set_xlim(panel.begin, panel.end)
    axes.set_ylim(len(lanes), 0)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(max(1, int(panel.seconds * inches_a_second / 0.6)), steps=[1, 2, 5, 10]))
    axes.tick_params(length=2.5, labelsize=8)
    axes.set_xlabel("seconds", size=8, labelpad=2)
    axes.spines["left"].set_visible(False)
    for place, lane in enumerate(lanes):
        if place:
            axes.axhline(place, color=GRID, linewidth=0.6)
        _draw_holders(axes, panel, lane.run, place)
        _draw_failures(axes, panel, lane.run, place + FAILED_ROW[1], THINNEST / inches_a_second)
        _draw_end(axes, panel, lane.run, place, inches_a_second)
    axes.axvline(0, color=INK, linewidth=1.1)
    _draw_marks(axes, panel, lanes, inches_a_second)


def _draw_holders(axes: Axes, panel: Panel, run: Run, place: int) -> None:
    top, bottom = HOLDER_ROW
    for span, color, hatch in _holding(run):
        for a, b in panel.cut(run, [span]):
            corner, width, height = (a, place + top), b - a, bottom - top
            axes.add_patch(Rectangle(corner, width, height, facecolor=color, hatch=hatch, edgecolor=ALARM, linewidth=0))


def _holding(run: Run) -> Iterator[tuple[Span, str, str]]:
    """Spans with their colour and hatch: the holder at the fault, its peer, or both."""
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
            # Requests are never quite on time, so some pieces lack a few.
            levels = [1.0 if share > 0.7 else share for share in shares]
            # Neighbours of one height are one step: an outage of half a minute is two points, not hundreds.
            steps = [0, *(place for place, (a, b) in enumerate(pairwise(levels), start=1) if a != b)]
            axes.stairs(
                [bottom - levels[step] * height for step in steps],
                [*(edges[step] for step in steps), max(edges[-1], begin + thinnest)],
                baseline=bottom,
                fill=True,
                color=ALARM,
            )


def _draw_end(axes: Axes, panel: Panel, run: Run, place: int, inches_a_second: float) -> None:
    """Where a run is over before its panel is; or that it goes on failing after it."""
    end = panel.last(run)
    if end < panel.end:
        axes.add_patch(Rectangle((end, place), panel.end - end, 1, facecolor=UNSEEN, linewidth=0))
        over = "end of the run" if panel.after_mending or run.mended_at is None else "mended"
        if (panel.end - end) * inches_a_second > 0.9:
            axes.annotate(
                over, (end, place + 0.5), (4, 0), textcoords="offset points", size=7.5, color=FAINT, va="center"
            )
    elif any(panel.end < at - panel.zero(run) < end for at in run.quick.failures):
        axes.plot(panel.end, place + FAILED_ROW[1] - 0.08, marker=">", markersize=6, color=ALARM, clip_on=False)


def _draw_marks(axes: Axes, panel: Panel, lanes: Sequence[Lane], inches_a_second: float) -> None:
    """The fault and its end through all lanes; what else was done in each, with its words above the first."""
    words: dict[str, float] = {"mended" if panel.after_mending else "fault": 0.0}
    for place, lane in enumerate(lanes):
        for mark in lane.run.marks[1:]:
            for at, _ in panel.cut(lane.run, [(mark.at, math.inf)] if mark.label != MENDED else []):
                if at > panel.begin:
                    axes.plot([at, at], [place + 0.06, place + 0.94], color=INK, linewidth=1, linestyle=(0, (2, 1.2)))
                    words.setdefault(mark.label, at)
    free = [-math.inf, -math.inf]
    for label, at in sorted(words.items(), key=lambda word: word[1]):
        # In the upper row where the lower one has no room.
        row = 0 if free[0] <= at else 1
        free[row] = at + len(label) * MARK_INCHES_A_LETTER / inches_a_second
        axes.annotate(
            label, (at, 0), (-1, 5 + 11 * row), textcoords="offset points", size=7.5, annotation_clip=False, va="bottom"
        )


def _legend(figure: Figure, height: float) -> None:
    handles = [
        Patch(facecolor=FIRST, label="VIP on its holder at the fault"),
        Patch(facecolor=PEER, label="on the other load balancer"),
        Patch(facecolor=BOTH_GROUND, hatch=BOTH_HATCH, edgecolor=ALARM, linewidth=0, label="on both"),
        Patch(facecolor=ALARM, label="failed requests; the height is their share"),
    ]
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.004, 0.02 / height), ncols=4, fontsize=8,
        columnspacing=1.4, handlelength=1.4, handletextpad=0.5, borderpad=0.4,
    )  # fmt: skip
