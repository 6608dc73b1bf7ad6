"""Runs against a small server whose slowness and faults are known."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any

import pytest
from aiohttp import web

from cluster.tools.bench.lag import Lag
from cluster.tools.bench.mix import Mix
from cluster.tools.bench.prompts import BenchPrompt
from cluster.tools.bench.run import BenchPlan, Run
from cluster.tools.bench.samples import BenchRun, aggregate
from cluster.tools.bench.send import Form
from config.aio import Tasks

PROMPTS = (BenchPrompt("one"), BenchPrompt("two", 3))


class Server:
    """Answers in ``tokens`` events, ``pause`` seconds before each; or as ``fault`` says."""

    def __init__(self) -> None:
        self.url, self.tokens, self.pause, self.fault = "", 3, 0.0, ""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.open = self.most = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            return await self._answer(request, json.loads(await request.read()))
        finally:
            self.open -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self.bodies.append({**body, "path": request.path})
        self.headers.append(request.headers.get("Authorization", ""))
        await self.hold.wait()
        if self.fault == "busy":
            return web.json_response({"error": {"message": "too many"}}, status=503)
        if self.fault == "plain":
            return web.Response(text="<html>no</html>", status=502)
        usage = {"prompt_tokens": 4, "completion_tokens": self.tokens}
        if not body.get("stream"):
            await asyncio.sleep(self.pause)
            return web.json_response({"choices": [{"finish_reason": "stop"}], "usage": usage})
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(self.tokens):
            await asyncio.sleep(self.pause)
            choice = {"finish_reason": "stop" if number == self.tokens - 1 else None}
            await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            if self.fault == "cut":
                assert request.transport is not None
                request.transport.abort()
        await response.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n")
        return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found, app = Server(), web.Application()
    app.router.add_post("/v1/chat/completions", found.answer)
    app.router.add_post("/v1/completions", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = "http://{}:{}".format(*runner.addresses[0][:2])
    yield found
    await runner.cleanup()


async def measure(server: Server, form: dict[str, Any] | None = None, **plan: Any) -> BenchRun:
    plan = {"models": ("a",), "prompts": PROMPTS, "warmup": 0, **plan}
    return await Run(BenchPlan(Form(server.url, **(form or {})), **plan)).go()


async def test_a_closed_loop_has_so_many_at_a_time(server: Server) -> None:
    server.pause = 0.01
    outcome = await measure(server, concurrency=4, requests=30)
    assert server.most == 4 and len(server.bodies) == 30
    found = aggregate(outcome.samples, outcome.duration)
    assert (found["completed"], found["prompt_tokens"], found["output_tokens"]) == (30, 120, 90)
    assert found["ttft_ms"]["min"] >= 9 and found["e2el_ms"]["min"] >= 29 and found["itl_ms"]["count"] == 60
    assert found["tpot_ms"]["mean"] == pytest.approx(found["itl_ms"]["mean"])
    assert outcome.duration >= 30 / 4 * 0.03 and outcome.unfinished == []


async def test_fewer_requests_than_places_are_as_many(server: Server) -> None:
    assert len((await measure(server, concurrency=50, requests=3)).samples) == 3


async def test_after_the_duration_none_begins_and_those_under_way_finish(server: Server) -> None:
    server.pause = 0.05
    outcome = await measure(server, concurrency=2, duration=0.2)
    assert outcome.samples and all(s.error is None and s.sent < 0.21 for s in outcome.samples)
    assert outcome.unfinished == [] and outcome.duration >= 0.2


async def test_an_open_loop_does_not_wait_for_answers(server: Server) -> None:
    """What waits for a server that stands still is measured, whoever caused it."""
    server.hold.clear()
    tasks = Tasks()

    async def let_go() -> None:
        while server.open < 20:
            await asyncio.sleep(0.005)
        server.hold.set()

    tasks.start(let_go(), "let go")
    outcome = await measure(server, rate=100, requests=20)
    assert server.most == 20 and len(outcome.samples) == 20
    samples = sorted(outcome.samples, key=lambda sample: sample.sent)
    assert all(s.planned is not None and s.sent >= s.planned - 0.005 for s in samples)
    assert samples[-1].planned == pytest.approx(0.2)
    assert samples[0].latency > samples[-1].latency
    await tasks.close()


async def test_a_client_that_is_late_shows_in_the_figures_from_the_planned_arrival(server: Server) -> None:
    blocked = False

    def block(sample: Any) -> None:
        nonlocal blocked
        if not blocked:
            blocked = True
            time.sleep(0.2)

    plan = BenchPlan(Form(server.url), ("a",), PROMPTS, rate=200, requests=20, warmup=0)
    outcome = await Run(plan, block).go()
    found = aggregate(outcome.samples, outcome.duration)
    assert found["late_ms"]["max"] > 150 and found["planned_e2el_ms"]["max"] > 150
    assert outcome.client["lag_max_ms"] is not None and outcome.client["lag_max_ms"] > 150


async def test_what_is_sent(server: Server) -> None:
    form = {"temperature": 0.5, "ignore_eos": True, "api_key": "k"}
    await measure(server, form, concurrency=1, requests=2)
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    common = {"model": "a", "temperature": 0.5, "ignore_eos": True, "path": "/v1/chat/completions", **stream}
    assert server.bodies == [
        {**common, "messages": [{"role": "user", "content": "one"}], "max_tokens": 128},
        {**common, "messages": [{"role": "user", "content": "two"}], "max_tokens": 3},
    ]
    assert set(server.headers) == {"Bearer k"}
    server.bodies.clear()
    await measure(server, {"endpoint": "completions", "stream": False, "max_tokens": 9}, concurrency=1, requests=1)
    assert server.bodies == [{"model": "a", "prompt": "one", "max_tokens": 9, "path": "/v1/completions"}]
    assert server.headers[-1] == ""


async def test_without_a_stream_there_are_no_times_of_tokens(server: Server) -> None:
    server.pause = 0.02
    outcome = await measure(server, {"stream": False}, concurrency=1, requests=3)
    found = aggregate(outcome.samples, outcome.duration)
    assert (found["ttft_ms"], found["tpot_ms"], found["itl_ms"]) == (None, None, None)
    assert found["e2el_ms"]["min"] >= 19 and found["output_tokens"] == 9


async def test_warming_up_is_sent_and_not_counted(server: Server) -> None:
    outcome = await measure(server, models=("a", "b"), mix=Mix(0.0), concurrency=2, requests=4, warmup=3)
    assert len(outcome.samples) == 4 and len(outcome.cold) == 6
    assert [body["model"] for body in server.bodies[:6]] == ["a"] * 3 + ["b"] * 3


async def test_the_same_seed_asks_the_same(server: Server) -> None:
    def asked(seed: int) -> list[tuple[str, bytes]]:
        return list(islice(BenchPlan(Form("x"), ("a", "b"), PROMPTS, mix=Mix(1.0), seed=seed).jobs(), 40))

    assert asked(1) == asked(1) != asked(2) and {model for model, _ in asked(1)} == {"a", "b"}


@pytest.mark.parametrize(
    ("fault", "kind", "detail"),
    [("busy", "HTTP 503", "too many"), ("plain", "HTTP 502", "<html>"), ("cut", "connection lost", "")],
)
async def test_faults_are_counted_by_kind(server: Server, fault: str, kind: str, detail: str) -> None:
    server.fault = fault
    outcome = await measure(server, concurrency=2, requests=4)
    found = aggregate(outcome.samples, outcome.duration)
    assert (found["completed"], found["errors"]) == (0, {kind: 4}) and detail in outcome.samples[0].detail


async def test_a_server_that_is_too_slow_or_not_there(server: Server) -> None:
    server.pause = 30
    outcome = await measure(server, {"timeout": 0.1}, concurrency=1, requests=1)
    assert [s.error for s in outcome.samples] == ["timeout"]
    server.url = "http://127.0.0.1:1"
    assert [s.error for s in (await measure(server, concurrency=1, requests=1)).samples] == ["no connection"]


@pytest.mark.parametrize("load", [{"concurrency": 3}, {"rate": 500.0}])
async def test_stopped_it_tells_what_came_so_far(server: Server, load: dict[str, Any]) -> None:
    runs: list[Run] = []

    def seen(sample: Any) -> None:
        if len(server.bodies) > 10:
            server.hold.clear()
            runs[0].stop()

    runs.append(Run(BenchPlan(Form(server.url), ("a",), PROMPTS, requests=1000, warmup=0, **load), seen))
    async with asyncio.timeout(20):
        outcome = await runs[0].go()
    assert 1 <= len(outcome.samples) < 1000 and all(sample.error is None for sample in outcome.samples)
    assert set(outcome.unfinished) <= {"a"} and outcome.duration > 0 and outcome.client


async def test_a_rate_that_nobody_can_keep_can_be_stopped(server: Server) -> None:
    runs: list[Run] = []
    plan = BenchPlan(Form(server.url), ("a",), PROMPTS, rate=1e7, duration=3600.0, warmup=0)
    runs.append(Run(plan, lambda sample: runs[0].stop()))
    async with asyncio.timeout(20):
        outcome = await runs[0].go()
    assert outcome.samples and outcome.unfinished


async def test_stopped_while_it_warms_up_it_tells_that_there_is_nothing(server: Server) -> None:
    server.hold.clear()
    run = Run(BenchPlan(Form(server.url), ("a",), PROMPTS, concurrency=1, requests=5))
    tasks = Tasks()
    going = tasks.start(run.go(), "go")
    async with asyncio.timeout(20):
        while not server.bodies:
            await asyncio.sleep(0.005)
        run.stop()
        outcome = await going
    assert outcome.samples == [] and outcome.duration == 0.0


async def test_lag_is_what_the_loop_was_late_by() -> None:
    lag, tasks = Lag(), Tasks()
    tasks.start(lag.watch(), "lag")
    await asyncio.sleep(0.05)
    time.sleep(0.15)  # noqa: ASYNC251  (it is the point)
    await asyncio.sleep(0.05)
    await tasks.close()
    found = lag.to_json()
    assert found["lag_max_ms"] is not None and found["lag_max_ms"] > 100
    assert Lag().to_json()["lag_p99_ms"] is None
