"""A balancer that looks often at what takes too long, so that tests need not wait for its next look."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.downstream.server._SWEEP_S", 0.02)
