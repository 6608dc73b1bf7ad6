"""The engine with a profile takes the times of the model that drives it. The loop's time is moved, not waited for."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from dataclasses import replace
from random import Random

import pytest

from movedloop import run
from worker.sim.engine.batch import BatchEngine, BatchJob
from worker.sim.engine.core import TokenEngine
from worker.sim.engine.costs import H100_8B
from worker.sim.engine.generate import SamplingParams, start
from worker.sim.engine.metrics import SimMetrics
from worker.sim.engine.requests import EngineRequest
from worker.sim.engine.shared_batch import SharedBatch

PACE = 0.25
SMALL = replace(H100_8B, kv_tokens=6000, batched_tokens=512, seats=6)
RANKS = {None: 0, "a": 8, "b": 16, "c": 64, "d": 8}


def engine(interval: int = 1) -> tuple[TokenEngine, SharedBatch]:
    metrics = SimMetrics("demo", 4096, 2)
    batch = SharedBatch(metrics, SMALL, slots=2, places=3, pace=PACE, interval=interval, slowness=lambda: 1.0)
    return TokenEngine(batch, metrics, None), batch


def job(prompt: list[int], output: int, adapter: str | None = None, n: int = 1) -> EngineRequest:
    params = SamplingParams(output, ignore_eos=True)
    sequences = [start("demo", prompt, params) for _ in range(n)]
    return EngineRequest(sequences, [prompt], n, "demo", adapter, RANKS[adapter])


async def times(of: TokenEngine, asked: EngineRequest, at: float = 0.0) -> list[float]:
    """When each token came, in the machine's seconds."""
    loop = asyncio.get_running_loop()
    if at:
        await asyncio.sleep(at / PACE - loop.time())
    seen: list[float] = []
    async with aclosing(of.run(asked)) as batches:
        async for batch in batches:
            seen += [loop.time() * PACE] * len(batch)
    return seen


def expected(jobs: list[tuple[float, list[int], int, str | None]]) -> list[tuple[float, float]]:
    done: list[BatchJob] = []
    model = BatchEngine(SMALL, 2, 3, lambda job, now: None, lambda job, now: done.append(job))
    for number, (at, prompt, output, adapter) in enumerate(jobs):
        while model.due <= at:
            model.advance()
        blocks = tuple(hash(tuple(prompt[: end + 512])) for end in range(0, len(prompt) - 511, 512))
        model.submit(BatchJob(number, at, len(prompt), output, adapter, RANKS[adapter], blocks), at)
    while model.due < math.inf:
        model.advance()
    return [(each.first, each.ended) for each in sorted(done, key=lambda each: each.number)]


@pytest.mark.parametrize("seed", range(4))
def test_tokens_come_when_the_model_has_them(seed: int) -> None:
    random, same = Random(seed), list(range(700))
    jobs = [
        (at, random.choice((same, [number] * random.randint(1, 900))), random.randint(1, 60), random.choice([*RANKS]))
        for number, at in enumerate(sorted(random.uniform(0.001, 3) for _ in range(40)))
    ]

    async def served() -> list[tuple[float, float]]:
        of, _ = engine()
        seen = await asyncio.gather(*(times(of, job(prompt, output, a), at) for at, prompt, output, a in jobs))
        assert [len(each) for each in seen] == [output for _, _, output, _ in jobs]
        assert of.counts() == {"running": 0, "waiting": 0, "stalled": 0}
        return [(each[0], each[-1]) for each in seen]

    for made, wanted in zip(run(served()), expected(jobs), strict=True):
        assert made == pytest.approx(wanted, rel=1e-6)


def test_several_steps_a_chunk_end_when_single_ones_do() -> None:
    async def served(interval: int) -> list[float]:
        return await times(engine(interval)[0], job([1] * 100, 30))

    single, chunks = run(served(1)), run(served(8))
    assert (len(single), len(chunks)) == (30, 30)
    assert (chunks[0], chunks[-1]) == pytest.approx((single[0], single[-1]))
    assert len(set(single)) == 30
    assert len(set(chunks)) == 5


def test_whoever_goes_away_leaves_its_slot() -> None:
    async def served() -> float:
        of, _ = engine()
        stays = asyncio.create_task(times(of, job([1], 1000, "a")))
        goes = asyncio.create_task(times(of, job([2], 1000, "b")))
        await asyncio.sleep(4)
        waits = asyncio.create_task(times(of, job([3], 5, "c")))
        await asyncio.sleep(4)
        assert not waits.done()
        assert of.counts()["waiting"] == 1
        goes.cancel()
        seen = await waits
        stays.cancel()
        await asyncio.gather(stays, goes, return_exceptions=True)
        await asyncio.sleep(1)  # to the end of the step that is on
        assert of.counts() == {"running": 0, "waiting": 0, "stalled": 0}
        return seen[0]

    assert 2 < run(served()) < 2.5


def test_a_sequence_that_stops_early_leaves_and_its_siblings_go_on() -> None:
    async def served() -> tuple[int, int]:
        of, _ = engine()
        asked = job([1] * 10, 50, n=2)
        asked.sequences[0].params = replace(asked.sequences[0].params, max_tokens=3)
        await times(of, asked)
        await asyncio.sleep(1)
        assert of.counts()["running"] == 0
        return len(asked.sequences[0].token_ids), len(asked.sequences[1].token_ids)

    assert run(served()) == (3, 50)


def test_an_engine_that_hangs_makes_nothing_and_goes_on_where_it_was() -> None:
    async def served(hangs: bool) -> list[float]:
        of, _ = engine()
        task = asyncio.create_task(times(of, job([1] * 100, 100)))
        await asyncio.sleep(1)
        if hangs:
            of.hang(on=True)
            late = asyncio.create_task(times(of, job([1], 1)))
            await asyncio.sleep(40)
            of.hang(on=False)
            assert (await late)[0] > 10.25
        return await task

    steady, hung = run(served(False)), run(served(True))
    moved = [late - early for late, early in zip(hung, steady, strict=True)]
    assert moved[0] == 0
    assert 10 <= moved[-1] < 10.1  # the other one's steps with it


def test_a_load_takes_as_long_as_the_machine_needs_for_its_rank() -> None:
    async def served() -> tuple[float, float]:
        _, batch = engine()
        return batch.hold("c", 64), batch.hold("c", 64)

    assert run(served()) == (pytest.approx(SMALL.fetch_time(64) / PACE), 0.0)


def test_gauges_tell_who_waits_for_a_slot() -> None:
    async def served() -> None:
        of, batch = engine()
        tasks = [asyncio.create_task(times(of, job([1], 500, adapter))) for adapter in ("a", "b", "c")]
        await asyncio.sleep(1)
        of.update_gauges()
        gauges = batch._metrics.gauges
        names = ("num_requests_running", "num_requests_waiting_by_reason:deferred", "num_requests_waiting")
        assert [gauges[name]._value.get() for name in names] == [2, 1, 1]
        page = batch._metrics.render().decode()
        assert 'running_lora_adapters="a,b",waiting_lora_adapters="c"' in page
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(served())
