"""What all tests need."""

import signal


def pytest_configure() -> None:
    # A shell that starts pytest in the background has SIGINT ignored, and so would every command that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
