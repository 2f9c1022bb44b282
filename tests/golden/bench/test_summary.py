import math
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import pytest
import typer
from rich.console import Console

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.faults import FAULTS
from dev.bench.report import main, merged
from dev.bench.results import FIXED, Held, Machine, Mark, Requests, Results, Run, Span
from dev.bench.summary import (
    HEADLINES,
    IN_USE,
    INTERRUPTION,
    PAUSE,
    columns,
    headline,
    interruptions,
    lasting,
    longest_interruption,
    median_run,
    print_summary,
    summaries,
    summarize,
)
from dev.bench.tables import PICTURED, faults_page, overview
from operate.measured import Bench, Lab, Measurements, Storms, Timers
from operate.stack.files import ROOT

MACHINE = Machine(
    date="2024-05-06T07:08:09+00:00", cores=2, memory_gib=8, kernel="6.1", keepalived="2.2.7", haproxy="2.6.12",
    load_before=0.5, load_after=1.5, seconds=120,
)  # fmt: skip
BENCH = Bench(
    runs=1, minutes=1, cores=2, memory_gib=8, kernel="6.1", keepalived="2.2.7", haproxy="2.6.12", load_before=0,
    load_after=0,
)  # fmt: skip
ONE_HOLDER: dict[str, tuple[Span, ...]] = {"lb-0": ((0.0, 10.0),), "lb-1": ()}


def every_20_ms(begin: float, end: float) -> tuple[float, ...]:
    return tuple(begin + 0.02 * step for step in range(round((end - begin) / 0.02)))


def run(
    gap: float = 0.02,
    *,
    configuration: str = "default",
    fault: str = "node-death",
    repeat: int = 0,
    failures: Sequence[float] = (),
    fixed_at: float | None = None,
    holders: dict[str, tuple[Span, ...]] = ONE_HOLDER,
    lost: int = 0,
    heard: Mapping[str, Sequence[float | None]] | None = None,
    backends_out: dict[str, float | None] | None = None,
    stall: float = 0.0,
) -> Run:
    """A run of ten seconds with the fault after two."""
    marks = [Mark(at=2, label="the fault")] + ([] if fixed_at is None else [Mark(at=fixed_at, label=FIXED)])
    return Run(
        configuration=configuration,
        fault=fault,
        repeat=repeat,
        duration=10,
        injected_at=2,
        marks=tuple(marks),
        quick=Requests(timeout=0.25, count=500, failed=len(failures), longest_gap=gap, failures=tuple(failures)),
        patient=(
            Requests(timeout=1, count=100, failed=len(failures) // 5, longest_gap=gap, failures=()),
            Requests(timeout=5, count=20, failed=0, longest_gap=gap, failures=()),
        ),
        held=tuple(Held(kind="upload", lost_at=3 if place < lost else None) for place in range(6))
        + tuple(Held(kind=kind, lost_at=None, heard=it) for kind, them in (heard or {}).items() for it in them),
        holders=holders,
        backends_out=backends_out or {},
        longest_stall=stall,
    )


def results(*runs: Run, date: str = MACHINE.date, quick: bool = False) -> Results:
    return Results(machine=MACHINE.model_copy(update={"date": date}), runs=runs, quick=quick)


def test_median_and_worst_are_measured_values():
    failed = every_20_ms(2, 2.5)
    three = [run(gap, repeat=repeat, failures=failed, lost=repeat) for repeat, gap in enumerate((0.7, 0.5, 3.0))]
    summary = summarize(three)
    assert (summary.runs, summary.interruption.median, summary.interruption.worst) == (3, 0.7, 3.0)
    assert summary.cut == (1, 6)
    assert median_run(three).quick.longest_gap == 0.7


def test_the_median_of_two_runs_is_the_worse():
    two = [run(gap, failures=(2.1,)) for gap in (0.5, 0.9)]
    assert summarize(two).interruption.median == 0.9
    assert median_run(two).quick.longest_gap == 0.9


def test_failed_requests_come_from_the_run_with_the_median_number():
    three = [run(failures=every_20_ms(2, 2 + length)) for length in (1, 3, 2)]
    summary = summarize(three)
    assert summary.failed == ((100, 500), (20, 100), (0, 20))


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ((), ()),
        ((3.0,), ((3.0, 3.0),)),
        ((3.0, 3.99, 4.98), ((3.0, 4.98),)),
        ((3.0, 3.2, 4.2, 4.3), ((3.0, 3.2), (4.2, 4.3))),
        ((3.0, 5.0, 7.0), ((3.0, 3.0), (5.0, 5.0), (7.0, 7.0))),
    ],
)
def test_a_second_without_failures_ends_an_interruption(failures: tuple[float, ...], expected: tuple[Span, ...]):
    found = run(failures=failures)
    assert interruptions(found) == expected
    assert summarize([found]).again.worst == max(0, len(expected) - 1)


def test_an_interruption_that_only_the_fix_ended_is_infinite():
    found = run(5.2, failures=every_20_ms(2, 7), fixed_at=7)
    assert lasting(found)
    assert longest_interruption(found) == math.inf
    assert INTERRUPTION.text(summarize([found])) == "until fixed"


def test_an_interruption_that_ended_before_the_fix_or_was_partial_is_not_lasting():
    assert not lasting(run(3, failures=every_20_ms(2, 5), fixed_at=7))
    assert not lasting(run(0.1, failures=every_20_ms(2, 7)[::3], fixed_at=7))


def test_a_slow_answer_is_no_interruption_but_a_failed_request_is():
    assert longest_interruption(run(0.2)) == 0
    assert longest_interruption(run(0.11, failures=(2.1,))) == 0.11


@pytest.mark.parametrize(
    ("out", "text"),
    [({"a": 0.5}, "0.50 s; 0"), ({"a": 0.5, "b": 1.5}, "1.50 s; 0"), ({"a": 0.5, "b": None}, "until fixed; 0")],
)
def test_the_last_api_server_taken_out_counts_and_none_means_never(out: dict[str, float | None], text: str):
    assert IN_USE.text(summarize([run(fault="api-500", backends_out=out)])) == text


def test_a_fault_that_hits_no_api_server_has_no_time_in_use():
    assert summarize([run()]).got_requests is None


def test_two_holders_and_moves_have_median_and_worst():
    moved = run(holders={"lb-0": ((0.0, 5.0),), "lb-1": ((3.0, 10.0),)})
    summary = summarize([moved, run(), run()])
    assert (summary.two_holders.median, summary.two_holders.worst) == (0, 2)
    assert (summary.changes.median, summary.changes.worst) == (0, 1)


def test_faults_and_configurations_are_in_the_order_of_the_bench():
    mixed = [
        run(fault=fault, configuration=name) for fault in ("haproxy-hung", "node-death") for name in ("seed", "default")
    ]
    found = summaries(results(run(configuration="gone by now"), *mixed))
    assert list(found) == ["node-death", "haproxy-hung"]
    assert [summary.configuration for summary in found["node-death"]] == ["default", "seed", "gone by now"]


def test_configurations_close_to_the_best_are_best_unless_all_are():
    good, near, bad = (
        summarize([run(gap, configuration=name, failures=(2.1,))])
        for name, gap in (("a", 0.70), ("b", 0.74), ("c", 0.90))
    )
    assert INTERRUPTION.best([good, near, bad]) == {"a", "b"}
    assert INTERRUPTION.best([good, near]) == frozenset()


def test_each_headline_belongs_to_a_fault():
    assert set(HEADLINES) <= set(FAULTS)
    assert headline("stall-500ms") is PAUSE
    assert headline("node-death") is INTERRUPTION


def test_what_counts_is_the_worst_connection_of_each_run():
    none = {"watch": (0, 0.5), "events": (0,), "http2": (None, 0.2), "writes": (9, 0), "upload": (None,)}
    never = none | {"watch": (0, math.inf)}
    summary = summarize([run(heard=none), run(heard=none | {"events": (0.7,)}), run(heard=never)])
    assert summary.heard == (0.7, math.inf)
    assert summary.kinds == {"watch": (0.5, math.inf), "events": (0, 0.7), "http2": (0.2, 0.2), "writes": (9, 9)}
    texts = {heading: text(summary) for heading, text in columns([summary]).items()}
    assert (texts["heard"], texts["writes"]) == ("0.70 s / never", "9.00 s")


def test_connections_that_all_ended_before_the_fault_have_heard_nothing_of_it():
    summary = summarize([run(heard={"watch": (None, None), "events": (0.3,)})])
    assert summary.kinds == {"events": (0.3, 0.3)}
    assert summarize([run()]).heard is None


def test_how_long_a_fault_was_watched_is_known():
    assert summarize([run(), run(fixed_at=7.4)]).watched == 5


def test_the_console_table_fits_in_120_columns():
    out = StringIO()
    everything = [
        run(
            12.345, configuration=name, fault=fault, failures=(*every_20_ms(2, 5), *every_20_ms(7, 8)),
            lost=6, stall=0.2, holders={"lb-0": ((0.0, 5.0),), "lb-1": ((3.0, 10.0),)},
            backends_out={"a": after}, repeat=repeat, heard={"watch": (11.11, after), "writes": (22.22, after)},
        )
        for name in CONFIGURATIONS
        for fault in ("node-death", "api-500")
        for repeat, after in enumerate((11.11, None))
    ]  # fmt: skip
    print_summary(results(*everything), Console(file=out, width=120))
    text = out.getvalue()
    assert "api-500: an API server answers 500" in text
    assert "…" not in text
    assert all(text.count(configuration.title) == 2 for configuration in CONFIGURATIONS.values())
    assert "12.3 s †" in text


# ---- the file and the pictures -------------------------------------------------------------------------------------


def empty() -> Measurements:
    return Measurements(
        benches={"2024-01-01T00:00+00:00": BENCH},
        faults=(),
        timers=Timers(bench="2024-01-01T00:00+00:00", choices=()),
        storm=Storms(date=None, arrivals=(), idle_mib=0, busy_mib=0),
        lab=Lab(date=None, rounds=0, faults=()),
        ovn=(),
        cluster=(),
        drill={},
    )


def test_the_overview_shows_the_best_in_bold():
    quick = results(
        run(0.66, failures=(2.1,)), run(3.3, configuration="seed", failures=(2.1,)), run(fault="haproxy-reload")
    )
    text = overview(merged(empty(), quick))
    row = "| [the load balancer dies](failover/faults.md#node-death) | interruption | **0.66 s** |  |  | 3.30 s |"
    assert row in text
    assert "| interruption; cut | none; 0 of 6 |  |" in text


def test_a_bench_of_one_configuration_keeps_the_figures_of_the_others():
    first = results(run(0.6, failures=(2.1,)), run(3.3, configuration="seed", failures=(2.1,)), run(fault="api-500"))
    second = results(run(0.7, failures=(2.1,)), date="2024-06-07T08:09+00:00")
    both = merged(merged(empty(), first), second)
    assert [(it.fault, it.configuration, it.bench[:10], it.interruption.median) for it in both.faults] == [
        ("node-death", "default", "2024-06-07", 0.7),
        ("node-death", "seed", "2024-05-06", 3.3),
        ("api-500", "default", "2024-05-06", 0),
    ]
    assert merged(both, first).faults == both.faults  # Older results replace nothing.
    page = faults_page(both)
    assert "Measured on 2024-06-07: 1 runs" in page
    assert "Measured on 2024-05-06: 3 runs" in page
    assert "| 2024-06-07 |\n" in page.partition("## node-death")[2].partition("## api-500")[0]
    assert "2024" not in page.partition("## api-500")[2]


def test_figures_of_a_fault_that_is_gone_are_dropped():
    old = summarize([run(fault="gone by now")])
    assert (
        merged(empty().model_copy(update={"faults": (old,)}), results(run())).summary("gone by now", "default") is None
    )


def written(folder: Path, *runs: Run, quick: bool = False) -> tuple[Path, Path]:
    """The files of a bench and of all figures."""
    file, measured = folder / "results.json", folder / "failover" / "measured.json"
    results(*runs, quick=quick).write(file)
    measured.parent.mkdir()
    empty().write(measured)
    return file, measured


def test_a_second_report_is_the_same_as_the_first(tmp_path: Path):
    runs = [run(0.66, configuration=name, failures=every_20_ms(2, 2.6)) for name in CONFIGURATIONS]
    file, measured = written(tmp_path, *runs, run(fault="api-500", backends_out={"a": None}))
    main(file, measured, tmp_path / "others")
    paths = [measured, tmp_path / "failover" / "node-death.svg", tmp_path / "others" / "api-500.svg"]
    first = [path.read_bytes() for path in paths]
    main(file, measured, tmp_path / "others")
    assert [path.read_bytes() for path in paths] == first


def test_a_picture_without_some_configurations_does_not_replace_the_one_of_the_document(tmp_path: Path):
    file, measured = written(tmp_path, run())
    main(file, measured, tmp_path / "others")
    assert (tmp_path / "others" / "node-death.svg").exists()
    assert not (tmp_path / "failover" / "node-death.svg").exists()


def test_a_picture_of_older_results_does_not_replace_the_one_of_the_document(tmp_path: Path):
    runs = [run(0.66, configuration=name, failures=every_20_ms(2, 2.6)) for name in CONFIGURATIONS]
    file, measured = written(tmp_path, *runs)
    newer = summarize([runs[0]], "2099-01-01T00:00+00:00")
    empty().model_copy(update={"faults": (newer,)}).write(measured)
    main(file, measured, tmp_path / "others")
    assert (tmp_path / "others" / "node-death.svg").exists()
    assert not (tmp_path / "failover" / "node-death.svg").exists()


def test_a_quick_bench_changes_no_figures(tmp_path: Path):
    file, measured = written(tmp_path, run(), quick=True)
    with pytest.raises(typer.BadParameter, match="does not wait for silent clients"):
        main(file, measured, tmp_path / "others")
    assert Measurements.read(measured) == empty()


def test_the_pictures_in_git_are_those_that_the_document_shows():
    docs = ROOT / "docs"
    kept = {path.stem for path in (docs / "failover").glob("*.svg")}
    assert kept == {*PICTURED, "timers"}
    assert kept == set(re.findall(r"\]\(failover/([\w-]+)\.svg\)", (docs / "failover.md").read_text()))
