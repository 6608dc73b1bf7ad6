"""The simulator as a process: faults that a test switches on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from simprocesses import LONG, SHORT, Start, adapter, metric, metrics, raw, read_some
from worker.demo import adapter_path
from worker.probe import Target

pytestmark = pytest.mark.processes


async def test_faults_of_one_stream(sim: Start) -> None:
    worker = await sim()
    await worker.fault("error_event", after_chunks=3, count=1)
    lines = await worker.lines(LONG)
    assert len(lines) == 5 and "error" in json.loads(lines[3]) and lines[4] == "[DONE]"
    await worker.fault("abort", after_chunks=2, count=1)
    lines = await worker.lines(LONG)
    assert json.loads(lines[2])["choices"][0]["finish_reason"] == "abort"
    await worker.fault("reset", after_chunks=2, count=1)
    with pytest.raises(aiohttp.ClientError):
        await worker.lines(LONG)
    await worker.fault("garbage", count=1)
    with pytest.raises(aiohttp.ClientError):
        await worker.lines(LONG)
    await worker.fault("garbage", after_chunks=3, count=1)
    assert (await worker.post("/v1/completions", {**SHORT, "max_tokens": 2}))[0] == 200
    body = await raw(worker, LONG)  # aiohttp's client would wait for sense to come
    assert body.count(b"\r\ndata: ") == 3 and body.endswith(b"\x01\r\n\r\n{]") and b"\r\n0\r\n" not in body
    await worker.fault("error500", count=1)
    assert (await worker.post("/v1/completions", SHORT))[0] == 500
    assert (await worker.post("/v1/completions", SHORT))[0] == 200
    await worker.running(0)


async def test_stall(sim: Start) -> None:
    worker = await sim("--fault", "stall:after_chunks=2:count=1")
    async with worker.session.post(worker.url + "/v1/completions", json=LONG) as stream:
        await read_some(stream, 2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read_some(stream, 1), 0.15)
        assert len(await worker.lines({**LONG, "max_tokens": 3})) == 4
        assert (await worker.get("/sim/state"))["stalled"] == 1
    await worker.running(0)
    assert (await worker.get("/sim/state"))["stalled"] == 0


async def test_hang(sim: Start) -> None:
    worker = await sim()
    stream = asyncio.create_task(worker.lines({**LONG, "max_tokens": 50}), name="stream")
    await worker.running(1)
    await worker.fault("hang")
    before = await metrics(worker)
    second = asyncio.create_task(worker.post("/v1/completions", SHORT), name="second")
    await worker.running(1, 1)
    after = await metrics(worker)
    for name in ("generation_tokens_total", "num_requests_running", "num_requests_waiting"):
        assert metric(after, name) == metric(before, name)
    async with worker.session.get(worker.url + "/health") as answer:
        assert answer.status == 200
    await worker.fault("slow", factor=1)
    async with worker.session.delete(worker.url + "/sim/fault?kind=hang") as answer:
        assert answer.status == 200
    assert [fault["kind"] for fault in (await worker.get("/sim/state"))["faults"]] == ["slow"]
    assert (await stream)[-1] == "[DONE]" and (await second)[0] == 200


async def test_a_sleep_makes_whoever_asks_wait_and_a_fault_takes_the_adapters(sim: Start) -> None:
    worker = await sim("--enable-lora", VLLM_SERVER_DEV_MODE="1")
    await worker.post("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": str(adapter_path("pirate"))})
    target = Target(worker.session, worker.url)
    before = {name: await target.numbers(name, 5) for name in ("demo", "mine")}
    assert before["demo"] != before["mine"]
    await target.sleep(5)
    assert await worker.get("/is_sleeping") == {"is_sleeping": True}
    await target.healthy()
    waiting = asyncio.create_task(target.numbers("mine", 5))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await target.wake(5)
    assert await waiting == before["mine"]
    await worker.fault("forget_lora")
    await target.sleep(5)
    await target.wake(5)
    assert {name: await target.numbers(name, 5) for name in before} == dict.fromkeys(before, before["demo"])


async def test_refuse_for_a_while(sim: Start) -> None:
    worker = await sim()
    await worker.fault("refuse", for_s=0.3)
    async with aiohttp.ClientSession() as fresh:
        with pytest.raises(aiohttp.ClientConnectorError):
            await fresh.get(worker.url + "/health")
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                async with fresh.get(worker.url + "/health") as answer:
                    assert answer.status == 200
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)
    raise AssertionError("it did not listen again")


@pytest.mark.parametrize(("kind", "code"), [("die", -signal.SIGKILL), ("exit0", 0)])
async def test_faults_that_end_the_process(sim: Start, kind: str, code: int) -> None:
    worker = await sim("--exit-after-s", "0.1", "--fault", f"{kind}:after_chunks=2")
    try:
        lines = await worker.lines(LONG)
    except aiohttp.ClientError:
        lines = []
    assert bool(lines) == (kind == "exit0")
    assert await worker.exit_code() == code
    assert len(worker.members()) == (1 if kind == "die" else 0)


@pytest.mark.parametrize("chunks", [None, 3])
async def test_poison_kills_who_takes_it_and_nobody_else(sim: Start, chunks: int | None) -> None:
    worker = await sim("--fault", "poison" if chunks is None else f"poison:after_chunks={chunks}")
    assert (await worker.post("/v1/completions", SHORT))[0] == 200
    with pytest.raises(aiohttp.ClientError):
        async with worker.session.post(worker.url + "/v1/completions", json={**LONG, "prompt": "poison"}) as answer:
            await read_some(answer, chunks or 0)
            await answer.content.readuntil(b"\n\n")
            raise AssertionError("a token came from a worker that should be dead")
    assert await worker.exit_code() == -signal.SIGKILL
    for process in worker.members():
        os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("stream", [False, True])
async def test_poison_for_the_engine_leaves_an_api_server_that_answers_500_and_exits_with_0(
    sim: Start, stream: bool
) -> None:
    worker = await sim("--exit-after-s", "3", "--itl-ms", "30", "--fault", "poison:kills=engine")
    beside = asyncio.ensure_future(worker.lines(LONG))
    await asyncio.sleep(0.1)
    async with worker.session.post(
        worker.url + "/v1/completions", json={**SHORT, "prompt": "poison", "stream": stream}
    ) as answer:
        text = await answer.text()
    assert answer.status == (200 if stream else 500)
    assert "EngineCore encountered an issue" in text
    lines = await beside
    assert "EngineCore encountered an issue" in lines[-2] and lines[-1] == "[DONE]"
    status, later = await worker.post("/v1/completions", SHORT)
    assert status == 500 and "EngineCore encountered an issue" in str(later)
    async with worker.session.get(worker.url + "/health") as health:
        assert health.status == 503
    assert await worker.exit_code() == 0
    assert not worker.members()


async def test_slow_faults_and_lora_faults(sim: Start, tmp_path: Path) -> None:
    worker = await sim("--enable-lora")
    adapter(tmp_path / "x")
    load = {"lora_name": "x", "lora_path": str(tmp_path / "x")}
    await worker.fault("refuse_lora", count=1)
    assert (await worker.post("/v1/load_lora_adapter", load))[0] == 500
    for kind, call in (
        ("slow_lora", worker.post("/v1/load_lora_adapter", load)),
        ("slow_health", worker.get("/health")),
    ):
        await worker.fault(kind, count=1, delay_s=0.2)
        begun = time.monotonic()
        await call
        assert time.monotonic() - begun >= 0.2
    await worker.fault("slow", factor=20)
    begun = time.monotonic()
    await worker.post("/v1/completions", SHORT)
    assert time.monotonic() - begun >= 0.2
