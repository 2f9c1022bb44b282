"""Shows long work as phases: what runs, the elapsed time, and the expected time. Each thread may have its own."""

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

console = Console(highlight=False, soft_wrap=True)
# Phases in several threads share it: a terminal can show only one live display.
_clock = Progress(
    SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
)
_change = threading.Lock()
_REMINDER_SECONDS = 30
_start = time.monotonic()


def _expectation(expected: float | None) -> str:
    return f" (about {expected:.0f} s)" if expected else ""


@contextmanager
def phase(title: str, expected: float | None = None) -> Generator[None]:
    """Shows `title` while its body runs, with the `expected` seconds if known, and then the time it took.

    A terminal shows a running clock; elsewhere, a line every 30 s shows that the work continues.
    """
    began = time.monotonic()
    try:
        with _running_clock(title, expected) if console.is_terminal else _reminders(title, expected, began):
            yield
    except BaseException:
        console.print(f"[red]✗[/] {title}: failed after {time.monotonic() - began:.0f} s")
        raise
    console.print(
        f"[green]✓[/] {title}: {time.monotonic() - began:.1f} s [dim](at {time.monotonic() - _start:.0f} s)[/]"
    )


@contextmanager
def _running_clock(title: str, expected: float | None) -> Generator[None]:
    with _change:
        task = _clock.add_task(title + _expectation(expected), total=None)
        _clock.start()
    try:
        yield
    finally:
        with _change:
            _clock.remove_task(task)
            if not _clock.tasks:
                _clock.stop()


@contextmanager
def _reminders(title: str, expected: float | None, began: float) -> Generator[None]:
    done = threading.Event()

    def remind() -> None:
        while not done.wait(_REMINDER_SECONDS):
            console.print(f"  {title}: {time.monotonic() - began:.0f} s so far{_expectation(expected)}")

    console.print(f"… {title}{_expectation(expected)}")
    sys.stdout.flush()
    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        done.set()
        reminder.join()
