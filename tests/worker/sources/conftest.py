"""A place to fetch from, and a way to have it fetched in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from origins import Origin, adapter_files
from pulling import Pulling
from worker.jobs.job import Job
from worker.sources.store import SourceStore


@pytest.fixture
def origin() -> Iterator[Origin]:
    """With the demo's adapter as ``org/pirate``."""
    found = Origin()
    found.put("org/pirate", adapter_files())
    yield found
    found.close()


@pytest.fixture
def pulling(tmp_path: Path) -> Pulling:
    (tmp_path / "job").mkdir()
    return Pulling(SourceStore(tmp_path / "sources"), Job(tmp_path / "job", time.monotonic))


@pytest.fixture
def hub(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Origin:
    """The place, as the hub and as ModelScope."""
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, origin.url)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return origin


