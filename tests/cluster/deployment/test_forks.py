"""Which workers could be forked from a zygote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.deployment import forks, plan
from cluster.fleet.placement import Machine
from config.settings import load
from worker.engines.vllm import VllmEngine
from worker.spec import Fork


def _of(model: Path, **given: Any) -> Fork | str:
    settings = load({"model": str(model), "engine": "vllm", **given})
    return forks.of(plan.make(settings, Machine((), (0, 1), 24 * 1024**3)))


def test_nothing_is_imported_here_for_workers_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VllmEngine, "check", lambda self: None)
    (tmp_path / "config.json").write_text("{}")
    assert isinstance(_of(tmp_path), Fork)
    assert _of(tmp_path, driver="ray") == "workers on other machines are started plainly"
