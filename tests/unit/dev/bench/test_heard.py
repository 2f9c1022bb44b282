import math
from collections.abc import Sequence

import pytest

from dev.bench.heard import heard_after
from dev.bench.held import HeldResult

FAULT = 100.0


def held(
    kind: str,
    lost_at: float | None = None,
    *,
    heard: Sequence[float] = (),
    deaf: bool = False,
    backend: str = "a",
) -> HeldResult:
    return HeldResult(kind=kind, backend=backend, heard=heard, lost_at=lost_at, deaf=deaf)


def every(seconds: float, begin: float, end: float) -> tuple[float, ...]:
    return tuple(begin + seconds * step for step in range(round((end - begin) / seconds)))


@pytest.mark.parametrize("kind", ["watch", "http2"])
def test_a_silent_client_hears_when_its_connection_ends_or_never_or_needs_to_hear_nothing(kind: str):
    assert heard_after(held(kind, 100.7), (), FAULT) == pytest.approx(0.7)
    assert heard_after(held(kind, deaf=True), (), FAULT) == math.inf
    assert heard_after(held(kind, 165.0, deaf=True), (), FAULT) == math.inf
    assert heard_after(held(kind), (), FAULT) == 0


def test_a_silent_connection_that_ends_has_worked_until_the_last_event_through_the_same_api_server():
    watch = held("watch", 130.0)
    until_its_end = held("events", 130.0, heard=every(0.5, 97, 130))
    until_the_fault = held("events", 130.0, heard=every(0.5, 97, 100))
    elsewhere = held("events", heard=every(0.5, 97, 140), backend="b")
    assert heard_after(watch, [until_its_end], FAULT) == pytest.approx(0.5)
    assert heard_after(watch, [until_the_fault, elsewhere], FAULT) == 30
    # It has shown before the fix that it works.
    assert heard_after(held("watch", 130.0, heard=(129.0,)), [], FAULT) == pytest.approx(1)


def test_a_client_that_expects_something_misses_it_from_the_fault_on():
    before = every(0.5, 97, 100)
    assert heard_after(held("events", 100.7, heard=before), (), FAULT) == pytest.approx(0.7)
    assert heard_after(held("events", heard=(*before, *every(0.5, 104, 110))), (), FAULT) == pytest.approx(4)
    assert heard_after(held("events", heard=before, deaf=True), (), FAULT) == math.inf


def test_the_longest_gap_counts_also_if_it_begins_after_the_fault():
    assert heard_after(held("writes", heard=(99.9, 100.3, 102.3, 103.3)), (), FAULT) == pytest.approx(2)


def test_what_is_hardly_late_is_not_missed_unless_it_is_the_end():
    regular = every(0.5, 97, 105)
    assert heard_after(held("events", heard=regular), (), FAULT) == 0
    assert heard_after(held("events", heard=(*every(0.5, 97, 101), 101.2)), (), FAULT) == 0
    assert heard_after(held("writes", heard=(99.9, 100.1, 100.3, 100.8)), (), FAULT) == pytest.approx(0.5)
    assert heard_after(held("events", 105.1, heard=regular), (), FAULT) == pytest.approx(0.6)


@pytest.mark.parametrize("kind", ["watch", "events", "http2", "writes"])
def test_a_connection_that_ended_before_the_fault_has_nothing_to_do_with_it(kind: str):
    assert heard_after(held(kind, 99.0, heard=(97.0, 98.0)), (), FAULT) is None


def test_uploads_are_not_measured():
    assert heard_after(held("upload", 100.7), (), FAULT) is None
