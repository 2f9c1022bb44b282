"""Thousands of clients at once, on a machine that does nothing else meanwhile: `make dataplane` runs it by itself."""

from pathlib import Path

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.storm import measure
from tests.dataplane.benched import OURS


def test_thousands_of_clients_at_once_are_answered_lose_no_session_and_do_not_move_the_vip(tmp_path: Path):
    storm = measure(CONFIGURATIONS[OURS], 2000, tmp_path)
    assert not storm.moved
    assert None not in storm.at_vip
    assert None not in storm.after_death
    assert not [journal for journal in tmp_path.rglob("journal.log") if "closing its sessions" in journal.read_text()]
