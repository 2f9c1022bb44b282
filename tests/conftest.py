"""What all tests need."""

import gc
import signal


def pytest_configure() -> None:
    # With Python's own thresholds, a fifth of the unit tests' time goes to collections that find little.
    gc.set_threshold(100_000, 20, 20)
    # A shell that starts pytest in the background has SIGINT ignored, and so would every command that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish() -> None:
    # Else pytest and Python collect all that the tests have left three times, a second for each worker.
    gc.freeze()
