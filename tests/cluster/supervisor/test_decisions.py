"""What a whole cluster decides of its workers, in one process: real supervisor and balancer, workers that are none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from fakes import soon
from inprocess import InProcess, running

Start = Callable[..., AbstractAsyncContextManager[InProcess]]

PROBES = {"health_interval": 0.05, "health_timeout": 0.2}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return lambda **settings: running(tmp_path, monkeypatch, **settings)


async def test_a_worker_that_ends_comes_back_at_once(start: Start) -> None:
    async with start(instances=2) as cluster:
        before = (await cluster.settled(2))["instances"]["instance_1"]
        cluster.engine("instance_1").die(-9)
        after = await cluster.back("instance_1", 2)
        assert (after["restarts"], after["last_exit"]["signal"], after["last_exit"]["expected"]) == (1, 9, False)
        assert after["incarnation"] > before["incarnation"]


async def test_a_crash_loop_is_given_up_shown_and_cleared_by_a_manual_restart(start: Start) -> None:
    async with start(instances=3) as cluster:
        await cluster.settled(3)
        cluster.engines.doomed = lambda spec: 1 if spec.id == "instance_2" else None
        cluster.engine("instance_2").die()
        for starts in range(2, 6):
            await soon(lambda n=starts: cluster.started("instance_2") == n)  # type: ignore[misc]
            if starts < 5:
                await cluster.in_state("instance_2", "backoff")
                cluster.clock.advance(60)
        failed = await cluster.in_state("instance_2", "failed")
        assert "crash loop" in failed["reason"]
        assert failed["is_running"] is False
        assert await cluster.complete() == 200
        cluster.engines.doomed = lambda spec: None
        assert (await cluster.post("/v1/cluster/restart", {"instance_id": "instance_2"}))[0] == 202
        await cluster.back("instance_2", 6)


@pytest.mark.measured
async def test_requests_fail_at_once_when_every_worker_has_failed(start: Start) -> None:
    async with start(instances=1, restart_delay=0.0) as cluster:
        await cluster.settled(1)
        cluster.engines.doomed = lambda spec: 1
        cluster.engine("instance_0").die()
        await cluster.in_state("instance_0", "failed")
        async with asyncio.timeout(2):
            assert await cluster.complete() == 503
        assert (await cluster.balancer.answer("GET", "/health"))[0] == 503


async def test_a_request_waits_for_a_worker_instead_of_failing(start: Start) -> None:
    async with start(instances=1) as cluster:
        await cluster.settled(1)
        cluster.engines.on_start = lambda spec, engine: engine.broken.update({"/health": 503})
        cluster.engine("instance_0").die()
        await soon(lambda: cluster.started("instance_0") == 2)
        waiting = asyncio.ensure_future(cluster.complete())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        cluster.engine("instance_0").broken.clear()
        assert await waiting == 200
        assert (await cluster.instance("instance_0"))["restarts"] == 1


async def test_after_the_queue_timeout_it_is_503_with_retry_after(start: Start) -> None:
    async with start(instances=1, queue_timeout=0.3) as cluster:
        await cluster.settled(1)
        cluster.engines.on_start = lambda spec, engine: engine.broken.update({"/health": 503})
        cluster.engine("instance_0").die()
        await soon(lambda: cluster.started("instance_0") == 2)
        async with cluster.balancer.generate(model="demo") as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert (await answer.json())["error"]["type"] == "ServiceUnavailableError"


async def test_an_unknown_model_is_404_and_reaches_no_worker(start: Start) -> None:
    async with start(instances=2) as cluster:
        await cluster.settled(2)
        status, answer = await cluster.balancer.ask(model="pirat")
        assert (status, answer["error"]["code"]) == (404, 404)
        assert sum(i["requests_total"] for i in (await cluster.status())["instances"].values()) == 0


@pytest.mark.parametrize("body", [{"instances": 0}, {"instances": 4}, {"action": "scale_down", "count": 3}])
async def test_scaling_beyond_the_bounds_is_refused_with_the_reason(start: Start, body: dict[str, Any]) -> None:
    async with start(instances=3, max_instances=3) as cluster:
        await cluster.settled(3)
        status, answer = await cluster.post("/v1/cluster/scale", body)
        assert status == 409
        assert "1..3" in answer["error"]["message"]
        assert (await cluster.status())["total_instances"] == 3


async def test_scaling_takes_the_newest_after_its_requests_have_finished(start: Start) -> None:
    async with start(instances=2, max_instances=3) as cluster:
        await cluster.settled(2)
        grown = await cluster.post("/v1/cluster/scale", {"action": "scale_up", "count": 1})
        assert grown == (202, {"desired": 3, "current": 2})
        await cluster.settled(3)
        await cluster.post("/v1/cluster/strategy", {"strategy": "round_robin"})
        names = [f"instance_{number}" for number in range(3)]
        for name in names:
            cluster.engine(name).hold.clear()
        asking = [asyncio.ensure_future(cluster.complete()) for _ in names]
        await soon(lambda: cluster.balancer.in_flight == 3)
        assert (await cluster.post("/v1/cluster/scale", {"instances": 1}))[0] == 202
        seen = (await cluster.status())["instances"]
        assert [seen[name]["state"] for name in names] == ["ready", "draining", "draining"]
        for name in names:
            cluster.engine(name).hold.set()
        assert await asyncio.gather(*asking) == [200] * 3
        assert list((await cluster.settled(1))["instances"]) == ["instance_0"]


async def test_a_rolling_restart_replaces_all_and_never_has_fewer_than_two_ready(start: Start) -> None:
    async with start(instances=3) as cluster:
        await cluster.settled(3)
        ready: list[int] = []
        cluster.engines.on_start = lambda spec, engine: ready.append(cluster.parts.fleet.ready_count())
        assert (await cluster.post("/v1/cluster/restart", {"rolling": True, "spare": False}))[0] == 202
        await soon(lambda: [cluster.started(f"instance_{n}") for n in range(3)] == [2, 2, 2])
        await cluster.settled(3)
        assert ready == [2, 2, 2]


async def test_the_limit_on_workers_is_one_on_spares_too(start: Start) -> None:
    async with start(instances=2, max_instances=2) as cluster:
        await cluster.settled(2)
        assert (await cluster.post("/v1/cluster/restart", {"rolling": True}))[1]["spare"] is None


async def test_a_worker_that_stops_answering_probes_is_out_and_comes_back(start: Start) -> None:
    async with start(instances=2, restart_failures=1000, **PROBES) as cluster:
        await cluster.settled(2)
        engine = cluster.engine("instance_0")
        engine.broken["/health"] = None
        out = await cluster.in_state("instance_0", "unhealthy")
        assert "/health" in out["reason"]
        assert await cluster.complete() == 200
        assert (await cluster.instance("instance_1"))["requests_total"] == 1
        engine.broken.clear()
        assert (await cluster.in_state("instance_0", "ready"))["restarts"] == 0
        assert cluster.engine("instance_0") is engine


async def test_a_worker_that_does_not_come_back_is_killed_and_restarted(start: Start) -> None:
    async with start(instances=2, health_failures=1, restart_failures=3, **PROBES) as cluster:
        await cluster.settled(2)
        cluster.engine("instance_0").broken["/health"] = None
        after = await cluster.back("instance_0", 2)
        assert after["restarts"] == 1
        assert "health checks keep failing" in after["last_exit"]["reason"]


async def _burst(cluster: InProcess, count: int) -> list[int]:
    gate = asyncio.Semaphore(16)

    async def one() -> int:
        async with gate:
            return await cluster.complete()

    return await asyncio.gather(*(one() for _ in range(count)))


async def _shares(cluster: InProcess) -> list[int]:
    return [i["requests_total"] for _, i in sorted((await cluster.status())["instances"].items())]


async def test_round_robin_spreads_300_requests_evenly(start: Start) -> None:
    async with start(instances=3) as cluster:
        await cluster.settled(3)
        await cluster.post("/v1/cluster/strategy", {"strategy": "round_robin"})
        assert await _burst(cluster, 300) == [200] * 300
        assert await _shares(cluster) == [100, 100, 100]


async def test_weights_3_1_1_spread_500_requests_in_that_proportion(start: Start) -> None:
    async with start(instances=3) as cluster:
        await cluster.settled(3)
        path = "/v1/cluster/instances/instance_0"
        assert (await cluster.balancer.answer("PATCH", path, json={"weight": 3}))[0] == 200
        await cluster.post("/v1/cluster/strategy", {"strategy": "weighted"})
        assert await _burst(cluster, 500) == [200] * 500
        assert await _shares(cluster) == [300, 100, 100]


async def test_every_strategy_uses_all_workers_and_a_switch_under_load_drops_nothing(start: Start) -> None:
    async with start(instances=3) as cluster:
        await cluster.settled(3)
        for strategy in ("least_connections", "random", "response_time", "power_of_two"):
            before = await _shares(cluster)
            load = asyncio.ensure_future(_burst(cluster, 120))
            assert (await cluster.post("/v1/cluster/strategy", {"strategy": strategy}))[0] == 200
            assert (await cluster.status())["load_balancer_strategy"] == strategy
            assert await load == [200] * 120
            after = await _shares(cluster)
            assert all(now - then > 5 for now, then in zip(after, before, strict=True)), (strategy, before, after)


async def test_two_groups_serve_side_by_side_and_only_the_one_that_is_asked_for_changes(start: Start) -> None:
    """Clients name the second by its model, and its workers by their ids."""
    second = {"instances": 2, "engine_args": ("--served-model-name", "other")}
    async with start(instances=2, groups={"second": second}) as cluster:
        before = (await cluster.settled(4))["instances"]
        assert list(before) == ["instance_0", "instance_1", "second/instance_0", "second/instance_1"]
        assert [before[name]["models"][0] for name in before] == ["demo", "demo", "other", "other"]
        assert await cluster.complete("demo") == await cluster.complete("other") == 200
        assert (await cluster.post("/v1/cluster/scale", {"instances": 1}))[0] == 202
        await cluster.settled(3)
        cluster.engine("second/instance_0").die()
        await cluster.back("second/instance_0", 2)
        assert [cluster.started(name) for name in before] == [1, 1, 2, 1]
