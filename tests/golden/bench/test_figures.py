import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dev.bench.figures import ALARM, FIRST, PEER, Lane, save, style, timeline
from dev.bench.results import FIXED, Mark, Requests, Run, Span

Holders = dict[str, tuple[Span, ...]]
STAYS: Holders = {"lb-0": ((0.0, 20.0),), "lb-1": ()}
MOVES: Holders = {"lb-0": ((0.0, 5.0),), "lb-1": ((5.6, 20.0),)}
OVERLAPS: Holders = {"lb-0": ((0.0, 9.0),), "lb-1": ((5.6, 20.0),)}


def run(holders: Holders, *failed: Span, fixed_at: float | None = None, label: str | None = None) -> Run:
    """A run of twenty seconds with the fault after five."""
    failures = tuple(a + 0.02 * step for a, b in failed for step in range(round((b - a) / 0.02)))
    marks = [Mark(at=5, label="it breaks")]
    if label:
        marks.append(Mark(at=6, label=label))
    if fixed_at is not None:
        marks.append(Mark(at=fixed_at, label=FIXED))
    return Run(
        configuration="default",
        fault="node-death",
        repeat=0,
        duration=20,
        injected_at=5,
        marks=tuple(marks),
        quick=Requests(timeout=0.25, count=1000, failed=len(failures), longest_gap=0.6, failures=failures),
        patient=(),
        held=(),
        holders=holders,
        longest_stall=0,
    )


def svg(path: Path, *runs: Run) -> str:
    lanes = [Lane(title=f"lane {place}", run=one, note=f"{place}.5 s") for place, one in enumerate(runs)]
    with style():
        save(timeline("Something breaks", "It does.", "interruption", lanes), path)
    return path.read_text()


def texts(document: str) -> list[str]:
    return [
        "".join(element.itertext())
        for element in ElementTree.fromstring(document).iter()  # noqa: S314 our own
        if element.tag.endswith("}text")
    ]


def shapes(document: str, color: str) -> list[tuple[float, float, float, float]]:
    """The bounds of the shapes with a fill colour, without the legend."""
    paths = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: {color}[;"]', document.partition('id="legend')[0])
    points = [[(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)] for path in paths]
    return [(min(x for x, _ in p), min(y for _, y in p), max(x for x, _ in p), max(y for _, y in p)) for p in points]


def test_a_picture_has_its_labels_and_is_the_same_each_time(tmp_path: Path):
    runs = run(MOVES, (5, 5.6), label="resumes"), run(OVERLAPS, (5, 8), fixed_at=15)
    first, second = svg(tmp_path / "a.svg", *runs), svg(tmp_path / "b.svg", *runs)
    assert first == second
    labels = {"Something breaks", "It does.", "interruption", "lane 0", "lane 1", "0.5 s", "1.5 s", "fault", "resumes"}
    assert labels <= set(texts(first))


def test_holder_peer_and_the_gap_between_them_are_drawn(tmp_path: Path):
    document = svg(tmp_path / "a.svg", run(MOVES, (5, 5.6)))
    (first,), (peer,) = shapes(document, FIRST), shapes(document, PEER)
    assert first[2] < peer[0]
    (failed,) = shapes(document, ALARM)
    assert failed[0] == pytest.approx(first[2])
    assert failed[2] == pytest.approx(peer[0])
    assert failed[1] > first[3]


def test_the_original_holder_has_the_same_colour_whatever_its_name(tmp_path: Path):
    document = svg(tmp_path / "a.svg", run({"lb-0": (), "lb-1": ((0.0, 20.0),)}))
    assert shapes(document, FIRST)
    assert not shapes(document, PEER)


def test_two_holders_are_hatched(tmp_path: Path):
    hatched = re.compile(r'style="fill: url\(#')
    count = len(hatched.findall(svg(tmp_path / "a.svg", run(MOVES))))
    assert len(hatched.findall(svg(tmp_path / "b.svg", run(OVERLAPS)))) == count + 1


def test_failures_in_a_row_are_one_bar_and_a_gap_splits_it(tmp_path: Path):
    assert len(shapes(svg(tmp_path / "a.svg", run(STAYS, (5, 7))), ALARM)) == 1
    assert len(shapes(svg(tmp_path / "b.svg", run(STAYS, (5, 6), (6.5, 7))), ALARM)) == 2


def test_if_a_third_of_the_requests_fail_the_bar_is_a_third_as_high(tmp_path: Path):
    all_fail = run(STAYS, (5, 8))
    third = all_fail.quick.failures[::3]
    some_fail = all_fail.model_copy(update={"quick": all_fail.quick.model_copy(update={"failures": third})})
    (high,), (low,) = (shapes(svg(tmp_path / "a.svg", one), ALARM) for one in (all_fail, some_fail))
    assert (low[3] - low[1]) / (high[3] - high[1]) == pytest.approx(1 / 3, abs=0.1)


def test_the_fix_has_its_own_panel_if_it_has_an_effect(tmp_path: Path):
    assert "fixed" not in texts(svg(tmp_path / "a.svg", run(MOVES, (5, 5.6), fixed_at=15)))
    assert "fixed" in texts(svg(tmp_path / "b.svg", run(MOVES, (5, 5.6), (15.1, 15.5), fixed_at=15)))


def test_the_quiet_end_is_cut(tmp_path: Path):
    document = svg(tmp_path / "a.svg", run(MOVES, (5, 5.6)))
    ticks = [float(text) for text in texts(document) if re.fullmatch(r"[\d.]+", text)]
    assert 1 <= max(ticks) <= 3
