"""Signals while a program that handles Ctrl-C itself runs in the foreground."""

from pathlib import Path

import pytest

from operate.signals import run_in_foreground


@pytest.mark.parametrize(
    "script",
    ["exit 3", "kill -INT $PPID; exit 3", "trap 'exit 3' TERM; kill -TERM $PPID; while :; do sleep 0.01; done"],
    ids=["fails", "fails after Ctrl-C", "ends on SIGTERM, which is passed on"],
)
def test_the_program_ends_by_itself_and_its_status_is_returned(tmp_path: Path, script: str):
    assert run_in_foreground(["sh", "-c", script], tmp_path) == 3


def test_after_ctrl_c_the_next_step_is_not_done_even_if_the_program_succeeded(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run_in_foreground(["sh", "-c", "kill -INT $PPID; touch done"], tmp_path)
    assert (tmp_path / "done").exists()
