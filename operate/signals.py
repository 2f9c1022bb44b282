"""What Ctrl-C, SIGTERM and a closed terminal do to this program. No other module handles signals."""

import signal
import subprocess
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""One that the caller has this program ignore (`nohup`, for example) stays ignored, here and in what it runs."""


class InterruptionError(Exception):
    """The operator wants this program to end."""


def _ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


@contextmanager
def _handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    before = {number: signal.signal(number, handler) for number in numbers if not _ignored(number)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def uninterrupted() -> Generator[None]:
    """Delay signals until the block is done: a request to the cloud that is cut off may have taken effect or not."""
    waiting: list[int] = []

    def keep(number: int, _: FrameType | None) -> None:
        waiting.append(number)

    try:
        with _handled(ENDING, keep):
            yield
    finally:
        if waiting:
            signal.raise_signal(waiting[0])


def end_like_ctrl_c() -> None:
    """From now on SIGTERM and SIGHUP raise KeyboardInterrupt too, so that clean-up runs."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if not _ignored(number):
            signal.signal(number, signal.default_int_handler)


def run_in_foreground(command: Sequence[str | Path], folder: Path) -> int:
    """Run a program that handles Ctrl-C itself, and wait until it ends; its exit status.

    KeyboardInterrupt afterwards if it was interrupted and succeeded nevertheless: the operator does not want the next
    step.
    """
    process: subprocess.Popen[bytes] | None = None
    received: list[int] = []
    early: list[int] = []

    # Unlike SIG_IGN, a handler is not inherited by the program.
    def pass_on(number: int, _: FrameType | None) -> None:
        received.append(number)
        # A terminal sends Ctrl-C, and SIGHUP when it is closed, to the program as well.
        if number != signal.SIGTERM:
            return
        if process:
            process.send_signal(number)
        else:
            early.append(number)

    with _handled(ENDING, pass_on):
        process = subprocess.Popen(command, cwd=folder)
        # The program runs before there is a `process` to pass a signal on to.
        for number in early:
            process.send_signal(number)
        status = process.wait()
    if received and status == 0:
        raise KeyboardInterrupt
    return status


class DeferredSignals:
    """Signals are noted, and raised where `check` is called; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def handled(self) -> Generator[None]:
        """While the context lasts, no step is interrupted in the middle."""
        with _handled(ENDING, self._receive):
            yield

    def check(self) -> None:
        """InterruptionError if a signal came."""
        if self.received is not None:
            raise InterruptionError(f"interrupted ({signal.Signals(self.received).name})")

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number
