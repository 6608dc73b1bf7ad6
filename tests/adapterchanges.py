"""Changes of an adapter on a cluster without processes, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from adapterfakes import FakeCluster, FakeWorker
from cluster.errors import Refused

Content = Callable[[int], str]


async def load(cluster: FakeCluster, path: str, name: str = "a", **more: Any) -> tuple[int, dict[str, Any]]:
    given = {"replace_it": True, "description": None, **more}
    return await cluster.rollouts.load(name, path, **given)


async def refusal(doing: Any) -> Refused:
    with pytest.raises(Refused) as error:
        await doing
    assert "\n" not in str(error.value)
    return error.value


def refuse(worker: FakeWorker, *, once: bool = False, words: str = "500 refused") -> None:
    async def on_load(name: str, path: str) -> str | None:
        if once:
            worker.target.on_load = None
        return words

    worker.target.on_load = on_load


async def settle(cluster: FakeCluster) -> None:
    """What the workers' own tasks do when they are told that something changed."""
    for worker in cluster.workers:
        if cluster.agents.get(worker.instance.id) is not None and worker.agent.dirty.is_set():
            await worker.agent.sync()
