"""The simulated engine: requests that compute when a schedule has it, end, and die.

A request that finishes, is cancelled or fails gives its places back at
once. Death, a hang and a drain reach every request through the one place where it waits (`_wait`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from worker.sim.engine.generate import TokenStep
from worker.sim.engine.metrics import SimMetrics
from worker.sim.engine.places import Schedule
from worker.sim.engine.requests import EngineRequest
from worker.sim.errors import EngineDead, queue_full

Batch = list[tuple[int, TokenStep]]


class TokenEngine:
    """Runs jobs, as ``schedule`` gives them places and time. More than ``max_queued`` sequences are refused."""

    def __init__(self, schedule: Schedule, metrics: SimMetrics, max_queued: int | None) -> None:
        self._places, self._metrics, self._max_queued = schedule, metrics, max_queued
        self._stalled = 0
        self._jobs: set[EngineRequest] = set()
        self.dead = False
        self.draining = False
        self.hanging = False
        self.death = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    def preflight(self, n: int) -> None:
        """Refuse a request before it is rendered: the engine is dead, or too many are queued."""
        if self.dead:
            raise EngineDead
        unfinished = sum(len(job.sequences) for job in self._jobs)
        if self._max_queued is not None and unfinished + n > self._max_queued:
            self._metrics.rejected.inc()
            raise queue_full()

    async def run(self, job: EngineRequest) -> AsyncGenerator[Batch, None]:
        """The steps of a job, a list of (choice, step) at a time; close the iterator to abort."""
        if self.dead:
            raise EngineDead
        if self.draining:
            yield [(index, sequence.abort()) for index, sequence in enumerate(job.sequences)]
            return
        self._jobs.add(job)
        self.idle.clear()
        job.open = len(job.sequences)
        try:
            async with aclosing(self._steps(job)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._leave(job)

    async def _steps(self, job: EngineRequest) -> AsyncGenerator[Batch, None]:
        now = asyncio.get_running_loop().time
        arrived = now()
        await self._admit(job)
        admitted = last = now()
        self._count_prompt(job)
        due = self._places.first_due(job)
        first = 0.0
        while job.open:
            await self._wait(job, due)
            if job.aborted:
                yield self._abort(job)
                return
            sequences = [(i, job.sequences[i]) for i in self._places.made(job)]
            batch = [(i, s.step()) for i, s in sequences if s.finish_reason is None]
            if batch:
                moment = now()
                self._count_step(len(batch), moment - (arrived if not first else last), first=not first)
                first, last = first or moment, moment
                for index, step in batch:
                    if step.finish_reason:
                        self._finish(job, index, admitted - arrived, first - admitted, moment - first)
                yield batch
            due = self._places.next_due(job, due)

    async def _wait(self, job: EngineRequest, until: float | None) -> None:
        """Sleep until the loop's time ``until`` (None: until woken) and, if it hangs, as long as it hangs."""
        loop = asyncio.get_running_loop()
        if until is not None and until <= loop.time():
            await asyncio.sleep(0)
        elif until is not None:
            await self._sleep(job, loop.call_at(until, job.wake))
        else:
            await self._sleep(job, None)
        while self.hanging and not job.error:
            await self._sleep(job, None)
        if job.error:
            raise job.error

    async def _sleep(self, job: EngineRequest, timer: asyncio.TimerHandle | None) -> None:
        job.waker = asyncio.get_running_loop().create_future()
        try:
            await job.waker
        finally:
            job.waker = None
            if timer is not None:
                timer.cancel()

    async def stall(self, job: EngineRequest) -> None:
        """Stand still until the engine dies or the caller is cancelled."""
        begun = job in self._jobs
        self._jobs.add(job)  # one that has not begun hears of the engine's end too
        self._stalled += 1
        try:
            while True:
                await self._wait(job, None)
        finally:
            self._stalled -= 1
            if not begun:
                self._jobs.discard(job)

    def abort(self, job: EngineRequest) -> None:
        """End a job with finish reason ``abort`` at its next step."""
        job.aborted = True
        job.wake()

    def die(self) -> None:
        """The engine core is gone: every job fails."""
        self.dead, self.hanging = True, False
        self.death.set()
        for job in self._jobs:
            job.error = EngineDead()
            job.wake()

    def hang(self, on: bool) -> None:
        """Stand still, or go on; gauges and counters stand still with it."""
        if on and not self.hanging:
            self.update_gauges()
        self.hanging = on
        self._places.hang(on)
        self._schedule()
        for job in self._jobs:
            job.wake()

    def freeze(self) -> None:
        """Stand still for good, as vLLM's streams do once their engine was shut down under them."""
        self.draining = True
        self.hang(on=True)

    async def _admit(self, job: EngineRequest) -> None:
        self._places.enter(job)
        self._schedule()
        while not job.granted:
            await self._wait(job, None)

    def _schedule(self) -> None:
        if not self.hanging:
            self._places.schedule()

    def _leave(self, job: EngineRequest) -> None:
        self._jobs.discard(job)
        self._places.leave(job)
        if job.open and not job.error and not self.hanging:
            self._metrics.counters["request_success:abort"].inc(job.open)
        self._schedule()
        if not self._jobs:
            self.idle.set()

    def _abort(self, job: EngineRequest) -> Batch:
        return [(i, s.abort()) for i, s in enumerate(job.sequences) if s.finish_reason is None]

    def _finish(self, job: EngineRequest, index: int, queued: float, prefill: float, decode: float) -> None:
        job.open -= 1
        self._places.ended(job, index)
        sequence = job.sequences[index]
        prompt, made = len(job.prompts[index // job.n]), len(sequence.token_ids)
        self._metrics.finished(sequence.finish_reason or "stop", prompt, made, queued, prefill, decode)
        self._schedule()

    def _count_step(self, tokens: int, since: float, *, first: bool) -> None:
        self._metrics.counters["generation_tokens"].inc(tokens)
        self._metrics.histograms["iteration_tokens_total"].observe(tokens)
        name = "time_to_first_token_seconds" if first else "inter_token_latency_seconds"
        self._metrics.histograms[name].observe(since)

    def _count_prompt(self, job: EngineRequest) -> None:
        limit = job.sequences[0].params.max_tokens
        for prompt, cached in zip(job.prompts, self._places.cached(job), strict=True):
            self._metrics.started(len(prompt), cached, job.n, limit)

    def update_gauges(self) -> None:
        """Write the state of batch and queue into the metrics, unless the engine stands still."""
        if not self.hanging and not self.dead:
            self._places.update_gauges(self._jobs)

    def counts(self) -> dict[str, int]:
        """Sequences running and waiting, and requests that a fault has standing still, now."""
        return {"running": self._places.running, "waiting": self._places.queued, "stalled": self._stalled}
