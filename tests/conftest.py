"""What all tests need."""

import gc
import signal


def pytest_configure() -> None:
    # With Python's own thresholds, a fifth of the unit tests' time goes to collections that find little.
    gc.set_threshold(100_000, 20, 20)
    # A shell that starts pytest in the background has SIGINT ignored, and so would every command that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish() -> None:
    # Without this, pytest and Python run three full garbage collections at the end, which take each worker a second.
    gc.freeze()
