"""For all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and children inherit that: here some of them are
    told to end by it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
