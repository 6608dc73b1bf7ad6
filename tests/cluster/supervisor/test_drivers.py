"""Which drivers a cluster gets, and what it is told where one cannot be had."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import kubestub
from cluster.cli.lifecycle import down
from cluster.storage.store import Store
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


@pytest.mark.processes
async def test_pods_whose_workers_ended_long_ago_are_taken_away(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing runs any more, not even a supervisor; what could not be taken away is told."""
    state = StateDir(tmp_path / "state")
    state.create()
    store = await Store.open(state.database)
    settings = load({"engine": "sim", "driver": "kubernetes", "agent_key_file": key})
    await store.put(settings=settings.to_json())
    await store.close()
    with kubestub.running(tmp_path / "kubernetes", 1) as kubernetes:
        monkeypatch.setenv("KUBECONFIG", str(kubernetes.config))
        kubernetes.stub.patches = [403]
        with pytest.raises(UsageError, match=r"all has ended, but the pods of workers stay .*403.*StatefulSet"):
            await asyncio.to_thread(down.bring_down, state)
        assert kubernetes.stub.replicas == 1
        assert await asyncio.to_thread(down.bring_down, state) == 0
        assert kubernetes.stub.replicas == 0
