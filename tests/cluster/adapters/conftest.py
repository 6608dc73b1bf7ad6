"""Adapters of different content, and a cluster for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapterchanges import Content
from adapterfakes import FakeCluster, make_adapter
from cluster.adapters import effect


@pytest.fixture
def content(tmp_path: Path) -> Content:
    """The path of adapters by number; each number is other content."""
    return lambda seed: make_adapter(tmp_path / f"source{seed}", seed)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setattr(effect, "_PAUSE_S", 0.01)
    return FakeCluster(tmp_path)
