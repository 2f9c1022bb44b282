"""Waits for what happens in another thread or process."""

import time
from collections.abc import Callable


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 20) -> None:
    """Return as soon as a condition holds; fail with `what` after `seconds`, which only a broken program reaches."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.01)
