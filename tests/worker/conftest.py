"""Processes of a test are gone after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import Processes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    try:
        yield started
    finally:
        started.end()
