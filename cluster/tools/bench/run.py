"""A run: requests one after the other at so many places (closed loop), or when they are due (open loop)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random
from typing import Any

import aiohttp

from cluster.tools.bench import send
from cluster.tools.bench.arrivals import poisson
from cluster.tools.bench.lag import Lag
from cluster.tools.bench.mix import Mix
from cluster.tools.bench.prompts import BenchPrompt
from cluster.tools.bench.samples import BenchRun, Sample
from config.aio import Tasks


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """``models``: asked in the shares of ``mix``, or only one. ``concurrency`` or ``rate`` (a second); ``requests`` or
    ``duration`` (s), or the first of both."""

    form: send.Form
    models: tuple[str, ...]
    prompts: tuple[BenchPrompt, ...]
    mix: Mix | None = None
    concurrency: int | None = None
    rate: float | None = None
    requests: int | None = None
    duration: float | None = None
    warmup: int = 1
    seed: int = 0

    def jobs(self) -> Iterator[tuple[str, bytes]]:
        """Model and body of each request; endless, and the same for the same seed."""
        models = self.mix.choose(self.models, Random(f"models {self.seed}")) if self.mix else cycle(self.models)
        for model, prompt in zip(models, cycle(self.prompts), strict=False):
            yield model, self.form.body(model, prompt)

    def arrivals(self) -> Iterator[float]:
        assert self.rate is not None
        return poisson(self.rate, Random(f"arrivals {self.seed}"), self.requests, self.duration)


class Run:
    """``seen`` is told of each sample as it comes. `go` once; `stop` breaks it off from within its event loop."""

    def __init__(self, plan: BenchPlan, seen: Callable[[Sample], None] = lambda sample: None) -> None:
        self._plan, self._seen = plan, seen
        self._outcome = BenchRun()
        self._tasks = Tasks()
        self._stopped = asyncio.Event()
        self._running: dict[int, str] = {}

    def stop(self) -> None:
        self._stopped.set()

    async def go(self) -> BenchRun:
        """What came of it, also when it was stopped."""
        plan = self._plan
        plan.form.body(plan.models[0], plan.prompts[0])
        connector = send.connector(plan.concurrency, plan.form.verify)
        async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
            try:
                await self._until_stopped(self._all(session))
            finally:
                await self._tasks.close()
        return self._outcome

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        working = self._tasks.start(work, "load")
        stopping = self._tasks.start(self._stopped.wait(), "stop")
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()

    async def _all(self, session: aiohttp.ClientSession) -> None:
        plan, outcome = self._plan, self._outcome
        await self._warm_up(session)
        began, lag = time.perf_counter(), Lag()
        watching = self._tasks.start(lag.watch(), "lag")
        sender = send.Sender(session, plan.form, began)
        try:
            if plan.rate is None:
                await self._closed(sender, began)
            else:
                await self._open(sender, began)
        finally:
            outcome.duration = time.perf_counter() - began
            outcome.client = lag.to_json()
            outcome.unfinished = list(self._running.values())
            watching.cancel()

    async def _warm_up(self, session: aiohttp.ClientSession) -> None:
        plan = self._plan
        sender = send.Sender(session, plan.form, time.perf_counter())
        for model in plan.models:
            bodies = [plan.form.body(model, prompt) for prompt in islice(cycle(plan.prompts), plan.warmup)]
            self._outcome.cold += await send.warm_up(sender, model, bodies, plan.concurrency or len(bodies) or 1)

    async def _closed(self, sender: send.Sender, began: float) -> None:
        """At each of the places the next request begins when the one before has ended."""
        plan = self._plan
        numbered = enumerate(islice(plan.jobs(), plan.requests))

        async def place() -> None:
            for number, (model, body) in numbered:
                if plan.duration is not None and time.perf_counter() - began >= plan.duration:
                    return
                await self._one(sender, number, model, body, None)

        places = min(plan.concurrency or 1, plan.requests or plan.concurrency or 1)
        async with asyncio.TaskGroup() as group:
            for _ in range(places):
                group.create_task(place())

    async def _open(self, sender: send.Sender, began: float) -> None:
        """Each request begins when it is due, whatever became of those before."""
        async with asyncio.TaskGroup() as group:
            for number, (due, (model, body)) in enumerate(zip(self._plan.arrivals(), self._plan.jobs(), strict=False)):
                # Never without a pause: at a rate that nobody can keep, answers and Ctrl-C have to be heard too.
                await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
                group.create_task(self._one(sender, number, model, body, due))

    async def _one(self, sender: send.Sender, number: int, model: str, body: bytes, due: float | None) -> None:
        self._running[number] = model
        sample = await sender.send(model, body, due)
        del self._running[number]
        self._outcome.samples.append(sample)
        self._seen(sample)
