"""What a whole cluster decides, in one process: real supervisor and balancer, workers that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inprocess import InProcess, running, until


async def ready_again(cluster: InProcess, name: str, starts: int) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        seen = await cluster.instance(name)
        return seen if seen["state"] == "ready" and cluster.started(name) == starts else None

    return await until(look)


async def in_state(cluster: InProcess, name: str, state: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        seen = await cluster.instance(name)
        return seen if seen["state"] == state else None

    return await until(look)


async def test_a_worker_that_ends_comes_back_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch, instances=2) as cluster:
        before = (await cluster.settled(2))["instances"]["instance_1"]
        cluster.engine("instance_1").die(-9)
        after = await ready_again(cluster, "instance_1", 2)
        assert (after["restarts"], after["last_exit"]["signal"], after["last_exit"]["expected"]) == (1, 9, False)
        assert after["incarnation"] > before["incarnation"]
        assert await cluster.complete() == 200


async def test_a_crash_loop_is_given_up_shown_and_cleared_by_a_manual_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start later than the one before; nobody waits, as the clock is ours."""
    async with running(tmp_path, monkeypatch, instances=3) as cluster:
        await cluster.settled(3)
        cluster.engines.doomed = lambda spec: 1 if spec.id == "instance_2" else None
        cluster.engine("instance_2").die()
        for starts in range(2, 6):
            await until(lambda n=starts: _is(cluster.started("instance_2") == n))
            if starts < 5:
                await in_state(cluster, "instance_2", "backoff")
                cluster.clock.advance(60)
        failed = await in_state(cluster, "instance_2", "failed")
        assert "crash loop" in failed["reason"]
        assert failed["is_running"] is False
        assert await cluster.complete() == 200
        cluster.engines.doomed = lambda spec: None
        assert (await cluster.post("/v1/cluster/restart", {"instance_id": "instance_2"}))[0] == 202
        await ready_again(cluster, "instance_2", 6)


async def _is(what: bool) -> bool:
    return what
