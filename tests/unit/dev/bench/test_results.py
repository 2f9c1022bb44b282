import math
from pathlib import Path

import pytest

from dev.bench.clients import ClientsReport, Probed
from dev.bench.results import Held, Machine, Requests, Results, Run, Span
from dev.bench.run import out_after, requests
from operate.probe import ProbeReport, Sample


def run(holders: dict[str, tuple[Span, ...]], lost: tuple[float | None, ...] = ()) -> Run:
    quick = Requests(timeout=0.25, count=1, failed=0, longest_gap=0.02, failures=())
    return Run(
        configuration="default",
        fault="node-death",
        repeat=0,
        duration=10,
        injected_at=2,
        marks=(),
        quick=quick,
        patient=(),
        held=tuple(Held(kind="watch", lost_at=at, heard=at and math.inf) for at in lost),
        holders=holders,
        longest_stall=0,
    )


@pytest.mark.parametrize(
    ("a", "b", "two_holders", "changes"),
    [
        (((0.0, 10.0),), (), 0.0, 0),
        (((0.0, 3.0),), ((3.0, 10.0),), 0.0, 1),
        (((0.0, 4.0),), ((3.0, 10.0),), 1.0, 1),
        (((0.0, 3.0), (6.0, 10.0)), ((2.5, 6.5),), 1.0, 2),
        (((0.0, 10.0),), ((3.0, 10.0),), 7.0, 1),
    ],
)
def test_two_holders_and_moves_are_counted(a: tuple[Span, ...], b: tuple[Span, ...], two_holders: float, changes: int):
    found = run({"lb-0": a, "lb-1": b})
    assert found.two_holders == pytest.approx(two_holders)
    assert found.changes == changes


def test_a_held_connection_with_a_time_of_loss_is_lost():
    assert run({}, (None, 3.0, 0.0)).held_lost == 2


def test_results_are_the_same_after_writing_and_reading(tmp_path: Path):
    machine = Machine(
        date="2024-01-01", cores=2, memory_gib=8, kernel="6", keepalived="2", haproxy="2",
        load_before=0, load_after=0, seconds=1,
    )  # fmt: skip
    results = Results(machine=machine, runs=(run({"lb-0": ((0.0, 10.0),)}, (None, 3.0)),))
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results


def probed(*samples: Sample, begin: float = 100.0) -> Probed:
    return Probed(timeout=0.25, begin=begin, report=ProbeReport(duration=10, samples=samples))


def answered(started: float, backend: str) -> Sample:
    return Sample(started=started, ended=started + 0.01, backend=backend)


def failed(started: float, backend: str | None = None) -> Sample:
    return Sample(started=started, ended=started + 0.25, failure="TimeoutError", backend=backend)


def test_times_are_relative_to_the_start_of_the_run_and_the_gap_is_between_answers():
    found = requests(probed(answered(1, "a"), failed(4), failed(2), answered(5, "b")), begin=99.0)
    assert (found.count, found.failed, found.failures) == (4, 2, (3.0, 5.0))
    assert found.longest_gap == pytest.approx(10 - 5.01)


def report(*samples: Sample) -> ClientsReport:
    return ClientsReport(quick=probed(*samples), patient=(), held=())


def test_a_backend_is_out_after_the_last_request_that_it_answered_or_that_got_no_answer():
    samples = (answered(1, "a"), answered(3, "b"), failed(3.5), answered(9, "b"))
    assert out_after(report(*samples), "a", injected_at=102.0, fixed_at=109.5) == pytest.approx(1.5)
    assert out_after(report(answered(1, "a"), answered(9, "b")), "a", injected_at=102.0, fixed_at=109.5) == 0


def test_requests_that_fail_long_after_the_others_do_not_count_but_those_that_it_answers_do():
    failing = (failed(2.1), failed(3), failed(5.5), failed(8.9))
    assert out_after(report(*failing), "a", injected_at=102.0, fixed_at=112.0) == pytest.approx(3.5)
    assert out_after(report(*failing, answered(9.5, "a")), "a", injected_at=102.0, fixed_at=112.0) == 7.5


def test_a_backend_that_answers_until_the_fix_was_never_out():
    assert out_after(report(answered(9.2, "a"), answered(9.9, "a")), "a", injected_at=102.0, fixed_at=109.5) is None
    assert out_after(report(failed(9.2, "b")), "a", injected_at=102.0, fixed_at=109.5) == 0
