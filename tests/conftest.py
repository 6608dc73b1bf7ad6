"""For all tests."""

from __future__ import annotations

import signal

from hypothesis import settings


def pytest_configure() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and children inherit that: here some of them are
    told to end by it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long one example takes is the machine's: the first one pays for imports, and for whoever else runs here.
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")
