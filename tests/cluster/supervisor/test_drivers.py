"""Which drivers a cluster gets, and what it is told where one cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.supervisor.drivers import opened
from config.errors import UsageError
from config.paths import StateDir
from config.settings import load


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text("the-key-of-agents\n")
    return tmp_path / "key"


async def _refusal(folder: Path, **flags: Any) -> str:
    settings = load({"engine": "sim", "driver": "kubernetes", **flags})
    with pytest.raises(UsageError) as error:
        async with opened(StateDir(folder), settings):
            pass
    assert "\n" not in str(error.value)
    return str(error.value)


async def test_workers_in_pods_need_the_key_of_their_agents(tmp_path: Path, key: Path) -> None:
    assert "--agent-key-file" in await _refusal(tmp_path)
    assert "No such file" in await _refusal(tmp_path, agent_key_file=tmp_path / "missing")
    key.write_text("\n")
    assert "the key is empty" in await _refusal(tmp_path, agent_key_file=key)


async def test_workers_in_pods_need_a_kubernetes(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    assert "no Kubernetes is known here" in await _refusal(tmp_path, agent_key_file=key)
