"""Processes of a test are gone after it, and no test sees what the machine has set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import Processes, clean_environment


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    clean_environment(monkeypatch)
    return monkeypatch


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    try:
        yield started
    finally:
        started.end()
