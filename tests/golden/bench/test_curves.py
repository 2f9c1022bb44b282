import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer

from dev.bench.configurations import ADVERTISEMENTS, TIMERS, timers_name
from dev.bench.curves import STYLES, choices, draw, main
from dev.bench.faults import OF_TIMERS, STALLS_MS
from dev.bench.results import FIXED, Machine, Mark, Requests, Results, Run, Span
from operate.measured import Choice, Measurements, Spread, measurements

MACHINE = Machine(
    date="2099-05-06T07:08:09+00:00", cores=2, memory_gib=8, kernel="6.1", keepalived="2.2.7", haproxy="2.6.12",
    load_before=0.5, load_after=1.5, seconds=120,
)  # fmt: skip
MISSED, INTERVAL = 7, 100
NAME = timers_name(MISSED, INTERVAL)
LOSSY_SECONDS = 120.0


def run(
    fault: str,
    *,
    configuration: str = NAME,
    gap: float = 0.02,
    taken_at: Sequence[float] = (),
    seconds: float = 10,
    fixed_at: float | None = None,
    repeat: int = 0,
) -> Run:
    """A run with the fault after two seconds; `taken_at` is when the VIP moved to the other load balancer and back."""
    holders: dict[str, tuple[Span, ...]] = {"lb-0": (), "lb-1": ()}
    names = itertools.cycle(holders)
    for begin, end in itertools.pairwise((0.0, *taken_at, seconds)):
        name = next(names)
        holders[name] = (*holders[name], (begin, end))
    marks = [Mark(at=2, label="the fault")] + ([] if fixed_at is None else [Mark(at=fixed_at, label=FIXED)])
    return Run(
        configuration=configuration,
        fault=fault,
        repeat=repeat,
        duration=seconds,
        injected_at=2,
        marks=tuple(marks),
        quick=Requests(timeout=0.25, count=500, failed=0, longest_gap=gap, failures=()),
        patient=(),
        held=(),
        holders=holders,
        longest_stall=0,
    )


def lossy(*taken_at: float, configuration: str = NAME) -> Run:
    """Packets are lost for two minutes; eight more seconds are watched."""
    return run(
        "pair-loss-30",
        configuration=configuration,
        taken_at=taken_at,
        seconds=2 + LOSSY_SECONDS + 8,
        fixed_at=2 + LOSSY_SECONDS,
    )


def each_fault(
    configuration: str = NAME, *, without: str = "", moves: Mapping[str, Sequence[float]] | None = None
) -> Iterator[Run]:
    """A run of each fault that a choice needs, except `without`; `moves` has the times of moves by fault."""
    for fault in OF_TIMERS:
        taken_at = (moves or {}).get(fault, ())
        if fault == without:
            continue
        if fault == "pair-loss-30":
            yield lossy(*taken_at, configuration=configuration)
        else:
            yield run(fault, configuration=configuration, taken_at=taken_at)


def chosen(*runs: Run) -> Choice:
    """The only choice in these runs."""
    (choice,) = choices(Results(machine=MACHINE, runs=runs))
    return choice


def test_the_interruption_comes_from_the_runs_where_the_holder_dies():
    deaths = [run("node-death", gap=gap, repeat=repeat) for repeat, gap in enumerate((0.7, 0.5, 3.0))]
    choice = chosen(*each_fault(without="node-death"), *deaths, run("stall-500ms", gap=9, repeat=1))
    assert choice.interruption == Spread(median=0.7, worst=3.0)
    assert (choice.missed, choice.interval, choice.waits) == (7, 100, 700)


@pytest.mark.parametrize(
    ("moved", "survived"),
    [
        ((), STALLS_MS[-1]),
        (STALLS_MS, 0),
        (STALLS_MS[:1], 0),
        ([ms for ms in STALLS_MS if ms >= 1000], 700),
        # A longer pause without a move is luck.
        ([ms for ms in STALLS_MS if ms >= 700 and ms != 1500], 500),
        ([700], 500),
    ],
)
def test_a_pause_is_survived_if_no_shorter_one_moved_the_vip(moved: Sequence[int], survived: int):
    assert chosen(*each_fault(moves={f"stall-{ms}ms": (3.0, 3.5) for ms in moved})).pause == survived


def test_a_pause_that_moved_the_vip_once_in_many_runs_is_not_survived():
    runs = [*each_fault(), *(run("stall-700ms", taken_at=taken_at, repeat=1) for taken_at in ((), (3.0,), ()))]
    assert chosen(*runs).pause == 500
    assert chosen(*reversed(runs)).pause == 500


def test_moves_are_scaled_to_ten_minutes_of_loss():
    assert chosen(*each_fault(moves={"pair-loss-30": (10.0, 20.0, 30.0)})).moves == pytest.approx(15)


def test_several_runs_count_as_one_long_run():
    runs = [*each_fault(without="pair-loss-30"), lossy(), lossy(10.0, 20.0), lossy(30.0)]
    assert chosen(*runs).moves == pytest.approx(3 * 600 / (3 * LOSSY_SECONDS))


def test_a_loss_that_is_never_fixed_lasts_until_the_end_of_the_run():
    endless = run("pair-loss-30", taken_at=(10.0,), seconds=62)
    assert chosen(*each_fault(without="pair-loss-30"), endless).moves == pytest.approx(10)


def test_only_moves_while_packets_are_lost_count():
    assert chosen(*each_fault(moves={"pair-loss-30": (1.0, 10.0, 125.0)})).moves == pytest.approx(5)


@pytest.mark.parametrize("missing", list(OF_TIMERS))
def test_a_choice_that_lacks_a_fault_is_left_out(missing: str):
    other = timers_name(3, 1000)
    results = Results(machine=MACHINE, runs=(*each_fault(without=missing), *each_fault(other)))
    assert [(choice.missed, choice.interval) for choice in choices(results)] == [(3, 1000)]


def test_choices_are_in_the_order_of_the_table_and_unknown_ones_are_left_out():
    names = [*reversed(list(TIMERS)), "default", "4x100ms"]
    results = Results(machine=MACHINE, runs=tuple(itertools.chain.from_iterable(map(each_fault, names))))
    assert [(choice.missed, choice.interval) for choice in choices(results)] == list(ADVERTISEMENTS)


# ---- the picture and the document ------------------------------------------------------------------------------------


def everything() -> Results:
    """All choices; those that wait longer survive longer pauses."""
    runs: list[Run] = []
    for missed, interval in ADVERTISEMENTS:
        moves = {f"stall-{ms}ms": (3.0,) for ms in STALLS_MS if ms > missed * interval}
        runs += each_fault(
            timers_name(missed, interval), moves={**moves, "pair-loss-30": (10.0,) if missed == 3 else ()}
        )
    return Results(machine=MACHINE, runs=tuple(runs))


def texts(document: str) -> set[str]:
    return {
        "".join(element.itertext())
        for element in ElementTree.fromstring(document).iter()  # noqa: S314 our own
        if element.tag.endswith("}text")
    }


def test_a_picture_has_its_labels(tmp_path: Path):
    draw(choices(everything()), tmp_path / "a.svg")
    labels = {"holder dies: seconds without an answer", "longest pause survived, ms", "moves in 10 min at 30 % loss"}
    assert labels | {f"{missed} missed" for missed in STYLES} <= texts((tmp_path / "a.svg").read_text())


def test_each_number_of_missed_advertisements_has_a_style():
    assert set(STYLES) == {missed for missed, _ in ADVERTISEMENTS}


@pytest.mark.parametrize("names", [[NAME], [timers_name(3, 100), timers_name(5, 100)]])
def test_a_bench_of_some_choices_can_be_drawn(tmp_path: Path, names: Sequence[str]):
    results = Results(machine=MACHINE, runs=tuple(itertools.chain.from_iterable(map(each_fault, names))))
    draw(choices(results), tmp_path / "a.svg")
    assert {"3 missed", "5 missed", "7 missed"} & texts((tmp_path / "a.svg").read_text()) == {
        f"{name.partition('x')[0]} missed" for name in names
    }


def test_the_figures_of_all_choices_are_replaced_and_their_picture_is_drawn(tmp_path: Path):
    file, measured, picture = tmp_path / "results.json", tmp_path / "measured.json", tmp_path / "timers.svg"
    everything().write(file)
    measurements().write(measured)
    main(file, measured)
    first = measured.read_text(), picture.read_bytes()
    timers = Measurements.read(measured).timers
    assert (timers.bench, len(timers.choices)) == (MACHINE.date, len(ADVERTISEMENTS))
    assert Measurements.read(measured).faults == measurements().faults
    main(file, measured)
    assert (measured.read_text(), picture.read_bytes()) == first


def test_older_results_change_no_figures(tmp_path: Path):
    file, measured = tmp_path / "results.json", tmp_path / "measured.json"
    results = everything()
    results.model_copy(update={"machine": MACHINE.model_copy(update={"date": "2024-05-06T07:08:09+00:00"})}).write(file)
    measurements().write(measured)
    main(file, measured)
    assert Measurements.read(measured) == measurements()
    # Nor their picture.
    assert not (tmp_path / "timers.svg").exists()


def test_a_bench_without_some_choices_changes_no_figures(tmp_path: Path):
    file, measured = tmp_path / "results.json", tmp_path / "measured.json"
    Results(machine=MACHINE, runs=tuple(each_fault())).write(file)
    measurements().write(measured)
    with pytest.raises(typer.BadParameter, match="does not have all faults of all choices"):
        main(file, measured)
    assert Measurements.read(measured) == measurements()
