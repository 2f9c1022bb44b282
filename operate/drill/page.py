"""A drill's result as one self-contained HTML page, for phones and desktops."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from operate.drill.result import DrillResult, Measured

MAX_COLUMNS = 400
COLUMN_SECONDS = 0.08
"""Width of a column of the timeline. Several requests fall into one; a narrower one would show gaps that are none."""
AROUND_SECONDS = 0.4
"""How much the close-up shows before and after the longest interruption."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A part of a lane: start and width in percent of the lane, and what it shows."""

    x: float
    width: float
    kind: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point on a lane, in percent of it."""

    x: float
    kind: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The drawing of one fault. Zero is the moment at which the fault struck."""

    requests: list[Bar]
    failures: list[Point]
    holders: list[Bar]
    marks: list[Point]
    ticks: list[Point]
    close: list[Point]
    close_gap: Bar | None
    """None if no request failed: there is no close-up."""
    close_ticks: list[Point]


def timeline(found: Measured, names: list[str]) -> Timeline:
    """The drawing of a measurement; `names` are the load balancers, in the order of their colours."""
    end = found.duration or 1.0
    zero = found.inflicted or 0.0
    holders = [*_holders(found, names, end)]
    moments = (
        (found.inflicted, found.title),
        (found.undone if found.undo_result else None, "undone"),
        (found.healthy, "the pair is healthy again"),
    )
    happened = [(at, label) for at, label in moments if at is not None]
    marks = [
        Point(x=at / end * 100, kind=str(number), label=f"{label} ({at - zero:.1f} s)")
        for number, (at, label) in enumerate(happened, start=1)
    ]
    began, ended = found.gap
    left, right = began - AROUND_SECONDS, ended + AROUND_SECONDS
    around = [it for it in found.samples if left <= it.ended <= right]
    gap = Bar(
        x=(began - left) / (right - left) * 100,
        width=(ended - began) / (right - left) * 100,
        kind="gap",
        label=f"{found.longest_interruption:.2f} s",
    )
    return Timeline(
        requests=[*_requests(found, end)],
        failures=[
            Point(x=it.started / end * 100, kind="failed", label=it.failure) for it in found.samples if it.failure
        ],
        holders=holders,
        marks=marks,
        ticks=[*_ticks(zero, 0, end)],
        close=[
            Point(x=(it.ended - left) / (right - left) * 100, kind="failed" if it.failure else "answered", label="")
            for it in around
        ],
        close_gap=gap if any(it.failure for it in around) else None,
        close_ticks=[*_ticks(zero, left, right)],
    )


def _requests(found: Measured, end: float) -> Iterator[Bar]:
    number = max(1, min(MAX_COLUMNS, int(end / COLUMN_SECONDS)))
    answered, failed = [0] * number, [0] * number
    for sample in found.samples:
        column = min(number - 1, int(sample.started / end * number))
        (failed if sample.failure else answered)[column] += 1
    kinds = ["answered" if good else "failed" if bad else "" for good, bad in zip(answered, failed, strict=True)]
    for kind, columns in groupby(range(number), key=lambda column: kinds[column]):
        stretch = [*columns]
        if kind:
            yield Bar(x=stretch[0] / number * 100, width=len(stretch) / number * 100, kind=kind, label=kind)


def _holders(found: Measured, names: list[str], end: float) -> Iterator[Bar]:
    for number, this in enumerate(found.seen, start=1):
        following = found.seen[number].at if number < len(found.seen) else end
        if this.holder is not None:
            kind = f"holder-{names.index(this.holder)}" if this.holder in names else "holder-other"
            width = (following - this.at) / end * 100
            yield Bar(x=this.at / end * 100, width=width, kind=kind, label=this.holder)


def _ticks(zero: float, left: float, right: float) -> Iterator[Point]:
    """At round seconds, at most six."""
    step = next(it for it in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if (right - left) / it <= 6)
    number = int((left - zero) // step) + 1
    while (at := zero + number * step) <= right:
        x = (at - left) / (right - left) * 100
        if 2 < x < 98:
            yield Point(x=x, kind="tick", label=f"{number * step:.{1 if step < 1 else 0}f} s")
        number += 1


def page(result: DrillResult) -> str:
    """The page. It loads nothing and has no script."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = sorted({it.before for it in result.measured} | {it.after for it in result.measured if it.after})
    scale = max(result.max_outage, *(it.longest_interruption for it in result.measured), 0.0) * 1.15
    return environment.get_template("page.html.j2").render(
        result=result,
        names=names,
        scale=scale,
        drawn=[(it, timeline(it, names)) for it in result.measured],
    )
