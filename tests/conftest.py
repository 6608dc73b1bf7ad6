"""For all tests."""

from __future__ import annotations

import functools
import gc
import os
import signal
import ssl
import sys

import pytest
from hypothesis import settings


def pytest_configure(config: pytest.Config) -> None:
    """Every client of httpx, and so each `httpx.get`, reads the certificates of all authorities anew: 25 ms of a
    processor for an answer of 1 ms. Here they are read once.

    A shell starts what runs in its background with SIGINT ignored, and children inherit that: here some of them are
    told to end by it.

    Where Python is told to keep nothing that it compiled, each process that tests start compiles this repository anew:
    an eighth of what a cluster costs, and 4 s for each pytest.

    What is collected lives as long as pytest does: 8,000 tests, which the collector of garbage need not look at while
    they are made (a sixth of that time), nor ever again (`pytest_collection_finish`)."""
    gc.disable()
    ssl.create_default_context = functools.cache(ssl.create_default_context)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # How long one example takes is the machine's: the first one pays for imports, and for whoever else runs here.
    settings.register_profile("any machine", deadline=None)
    settings.register_profile("quick", deadline=None, max_examples=10)
    settings.load_profile(config.getoption("--hypothesis-profile") or "any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A time is measured with all that others do on the machine, and that comes and goes: what is too slow by itself is
    so three times in a row. Each attempt more is shown (R)."""
    for item in items:
        if item.get_closest_marker("measured") or item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.flaky(reruns=2))


def pytest_collection_finish() -> None:
    """From here on garbage is looked for where there is some: as often as Python does, it is four fifths of the time of
    a test that parses this repository. What there is already is not worth a look of 0.7 s in each process."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
