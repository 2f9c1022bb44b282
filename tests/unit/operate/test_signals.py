"""Signals while a program that handles Ctrl-C itself runs in the foreground."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from operate import __main__ as ha
from operate.signals import run_in_foreground


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A signal that nobody handles fails the test, instead of ending the tests."""

    def fail(number: int, _: object) -> None:
        raise AssertionError(f"signal {number} is not handled")

    # As in a terminal; a shell has its background jobs ignore SIGINT.
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    before |= {number: signal.signal(number, fail) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raising(number: int) -> Callable[..., None]:
    """A command during which a signal comes."""

    def command(**_: object) -> None:
        signal.raise_signal(number)

    return command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_any_command_lets_its_clean_up_run(monkeypatch: pytest.MonkeyPatch, number: int):
    monkeypatch.setattr(ha, "app", raising(number))
    with pytest.raises(KeyboardInterrupt):
        ha.main()


def test_nohup_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Also for the program in the foreground."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(ha, "app", raising(signal.SIGHUP))
    ha.main()
    assert run_in_foreground(["sh", "-c", "kill -HUP $$ $PPID; exit 3"], tmp_path) == 3


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
