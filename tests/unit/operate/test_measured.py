import json
import math
from pathlib import Path

import pytest

from operate.measured import FILE, Measurements, Spread, interruption, measurements, seconds


def test_the_file_is_as_the_program_writes_it_and_has_no_bench_of_which_nothing_is_left(tmp_path: Path):
    file = tmp_path / "measured.json"
    bench = next(iter(measurements().benches.values()))
    measurements().model_copy(update={"benches": measurements().benches | {"2001-01-01": bench}}).write(file)
    assert file.read_text() == FILE.read_text()


def test_what_never_ends_survives_writing_and_reading(tmp_path: Path):
    file = tmp_path / "measured.json"
    drill = {"etcd-killed": Spread(0.5, math.inf)}
    measurements().model_copy(update={"drill": drill}).write(file)
    assert json.loads(file.read_text())["drill"] == {"etcd-killed": [0.5, "Infinity"]}
    assert Measurements.read(file).drill == drill


def test_the_median_of_two_is_the_worse():
    assert Spread.of([0.5, 0.9]) == (0.9, 0.9)
    assert Spread.of([3.0, 0.66666, 0.5]) == (0.667, 3)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.664, "0.66 s"), (9.994, "9.99 s"), (9.996, "10.0 s"), (34.56, "34.6 s"), (math.inf, "until fixed")],
)
def test_seconds_have_two_decimals_below_ten_and_one_above(value: float, text: str):
    assert seconds(value) == interruption(value) == text


def test_no_interruption_is_none():
    assert interruption(0) == "none"
