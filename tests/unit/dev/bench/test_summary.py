import json
import math
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.faults import FAULTS
from dev.bench.report import BEGIN, END, PICTURED, main, markdown, with_report
from dev.bench.results import FIXED, Held, Machine, Mark, Requests, Results, Run, Span
from dev.bench.summary import (
    HEADLINES,
    IN_USE,
    INTERRUPTION,
    PAUSE,
    Summary,
    headline,
    interruptions,
    lasting,
    longest_interruption,
    median_run,
    print_summary,
    seconds,
    summaries,
)

MACHINE = Machine(
    date="2024-05-06T07:08:09+00:00", cores=2, memory_gib=8, kernel="6.1", keepalived="2.2.7", haproxy="2.6.12",
    load_before=0.5, load_after=1.5, seconds=120,
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
        held=tuple(Held(kind="watch", lost_at=3 if place < lost else None) for place in range(6)),
        holders=holders,
        backends_out=backends_out or {},
        longest_stall=stall,
    )


def results(*runs: Run) -> Results:
    return Results(machine=MACHINE, runs=runs)


def test_median_and_worst_are_measured_values():
    failed = every_20_ms(2, 2.5)
    three = [run(gap, repeat=repeat, failures=failed, lost=repeat) for repeat, gap in enumerate((0.7, 0.5, 3.0))]
    summary = Summary.of(three)
    assert (summary.runs, summary.interruption.median, summary.interruption.worst) == (3, 0.7, 3.0)
    assert (summary.held_lost, summary.held) == (1, 6)
    assert median_run(three).quick.longest_gap == 0.7


def test_the_median_of_two_runs_is_the_worse():
    two = [run(gap, failures=(2.1,)) for gap in (0.5, 0.9)]
    assert Summary.of(two).interruption.median == 0.9
    assert median_run(two).quick.longest_gap == 0.9


def test_failed_requests_come_from_the_run_with_the_median_number():
    three = [run(failures=every_20_ms(2, 2 + length)) for length in (1, 3, 2)]
    summary = Summary.of(three)
    assert (summary.quick.failed, summary.quick.count) == (100, 500)
    assert [(kind.timeout, kind.failed, kind.count) for kind in summary.patient] == [(1, 20, 100), (5, 0, 20)]


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
    assert Summary.of([found]).again.worst == max(0, len(expected) - 1)


def test_an_interruption_that_only_the_fix_ended_is_infinite():
    found = run(5.2, failures=every_20_ms(2, 7), fixed_at=7)
    assert lasting(found)
    assert longest_interruption(found) == math.inf
    assert INTERRUPTION.text(Summary.of([found])) == "until fixed"


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
    assert IN_USE.text(Summary.of([run(fault="api-500", backends_out=out)])) == text


def test_a_fault_that_hits_no_api_server_has_no_time_in_use():
    assert Summary.of([run()]).got_requests is None


def test_two_holders_and_moves_have_median_and_worst():
    moved = run(holders={"lb-0": ((0.0, 5.0),), "lb-1": ((3.0, 10.0),)})
    summary = Summary.of([moved, run(), run()])
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
        Summary.of([run(gap, configuration=name, failures=(2.1,))])
        for name, gap in (("a", 0.70), ("b", 0.74), ("c", 0.90))
    )
    assert INTERRUPTION.best([good, near, bad]) == {"a", "b"}
    assert INTERRUPTION.best([good, near]) == frozenset()


def test_each_headline_belongs_to_a_fault():
    assert set(HEADLINES) <= set(FAULTS)
    assert headline("stall-500ms") is PAUSE
    assert headline("node-death") is INTERRUPTION


def test_seconds_have_two_decimals_below_ten_and_one_above():
    assert [seconds(value) for value in (0.0, 0.664, 9.994, 9.996, 34.56)] == [
        "0.00 s",
        "0.66 s",
        "9.99 s",
        "10.0 s",
        "34.6 s",
    ]


def test_the_console_table_fits_in_120_columns():
    out = StringIO()
    everything = [
        run(
            12.345, configuration=name, fault=fault, failures=(*every_20_ms(2, 5), *every_20_ms(7, 8)),
            lost=6, stall=0.2, holders={"lb-0": ((0.0, 5.0),), "lb-1": ((3.0, 10.0),)},
            backends_out={"a": after}, repeat=repeat,
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


# ---- the document ----------------------------------------------------------------------------------------------------


def test_the_overview_shows_the_best_in_bold():
    text = markdown(
        results(
            run(0.66, failures=(2.1,)), run(3.3, configuration="seed", failures=(2.1,)), run(fault="haproxy-reload")
        )
    )
    assert "| fault | number | ours, default | seed |" in text
    assert "| [the load balancer dies](#node-death) | interruption | **0.66 s** | 3.30 s |" in text
    assert "| [HAProxy's configuration changes](#haproxy-reload) | interruption; cut | none; 0 of 6 |  |" in text
    assert "](failover/node-death.svg)" in text
    assert "haproxy-reload.svg" not in text
    assert "2024-05-06" in text


def test_only_the_text_between_the_marks_is_replaced():
    document = f"# Title\n\nbefore\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    new = with_report(document, "new\n")
    assert new == f"# Title\n\nbefore\n\n{BEGIN}\nnew\n{END}\n\nafter\n"
    assert with_report(new, "new\n") == new


@pytest.mark.parametrize("document", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_a_document_without_the_marks_is_refused(document: str):
    with pytest.raises(ValueError, match="each once"):
        with_report(document, "new\n")


def test_a_second_report_is_the_same_as_the_first(tmp_path: Path):
    file = tmp_path / "results.json"
    results(run(0.66, failures=every_20_ms(2, 2.6)), run(fault="api-500", backends_out={"a": None})).write(file)
    main(file, tmp_path, tmp_path / "others")
    paths = [tmp_path / "failover.md", tmp_path / "failover" / "node-death.svg", tmp_path / "others" / "api-500.svg"]
    first = [path.read_bytes() for path in paths]
    main(file, tmp_path, tmp_path / "others")
    assert [path.read_bytes() for path in paths] == first
    assert json.loads(file.read_text())["machine"]["cores"] == 2


def test_a_new_document_gets_a_title_and_an_existing_one_keeps_its_text(tmp_path: Path):
    file = tmp_path / "results.json"
    results(run()).write(file)
    main(file, tmp_path, tmp_path / "others")
    document = tmp_path / "failover.md"
    assert document.read_text().startswith("# ")
    document.write_text(f"mine\n{document.read_text()}mine too\n")
    main(file, tmp_path, tmp_path / "others")
    assert document.read_text().startswith("mine\n")
    assert document.read_text().endswith("mine too\n")


def test_the_pictures_in_git_are_those_that_the_document_shows():
    docs = Path(__file__).parents[4] / "docs"
    kept = {path.stem for path in (docs / "failover").glob("*.svg")}
    assert kept == {*PICTURED, "timers"}
    assert kept == set(re.findall(r"\]\(failover/([\w-]+)\.svg\)", (docs / "failover.md").read_text()))
