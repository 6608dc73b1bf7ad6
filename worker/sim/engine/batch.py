"""A batch of an engine: continuous batching, chunked prefill, adapter slots, a prefix cache, preemption, and time.

It computes iteration by iteration while prompts are read, and many iterations at once while there is only decoding:
their times add up in closed form. The scheduling is vLLM's: decodes first, then prompts as the budget of tokens allows,
in the order of arrival; a request whose adapter finds no slot is passed over (`vllm/v1/core/sched/scheduler.py`). Pure.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from worker.sim.engine.adapter_memory import AdapterMemory
from worker.sim.engine.costs import BLOCK, EngineCosts
from worker.sim.engine.lines import Lines


class BatchJob:
    """The request ``number`` on its way through one engine. Times are s; lengths tokens. One attribute more than a
    class should have: each is a fact of the request."""

    __slots__ = (
        "adapter", "arrived", "blocks", "cached", "decodes", "ended", "first", "left", "made", "number", "output",
        "prompt", "rank", "runs", "sequence", "started_step",
    )  # fmt: skip

    def __init__(
        self, number: int, arrived: float, prompt: int, output: int, adapter: str | None, rank: int,
        blocks: tuple[int, ...] = (),
    ) -> None:
        self.number, self.arrived, self.prompt, self.output = number, arrived, prompt, output
        self.made = output  # in all, whatever is left of it after a preemption
        self.adapter, self.rank, self.blocks = adapter, rank, blocks
        self.first = self.ended = math.nan
        self.cached = self.left = self.sequence = self.started_step = 0
        self.runs = self.decodes = False


class BatchEngine:
    """``on_first`` is called with a job whose first token is there, ``on_end`` with one whose last is. ``due`` is when
    `advance` has to be called next; `submit`, `cancel` and `hold` may bring it forward. It computes ``most_steps`` at
    once at most. More methods than a class should have: a step touches the batch, the cache and the adapters at once,
    as an engine's does."""

    def __init__(
        self, hardware: EngineCosts, slots: int, host_adapters: int, on_first: Callable[[BatchJob, float], None],
        on_end: Callable[[BatchJob, float], None], most_steps: int = sys.maxsize,
    ) -> None:
        self.hardware, self.slots, self._most_steps = hardware, slots, most_steps
        self._on_first, self._on_end = on_first, on_end
        self.due = math.inf
        self.preemptions = self.prompt_tokens = self.cached_tokens = 0
        self._made = 0
        self.lines: Lines[BatchJob] = Lines()
        self.adapters = AdapterMemory(hardware, slots, host_adapters)
        self.active: dict[str | None, int] = {}
        self._ranks: dict[str | None, int] = {}
        self._cache: OrderedDict[tuple[str | None, int], None] = OrderedDict()
        self._prefilling: list[tuple[BatchJob, int]] = []  # and tokens of this step
        self._decoding: list[tuple[int, int, BatchJob]] = []  # by the step that ends it
        self._gone: list[BatchJob] = []
        self._order = 0
        self.decoding = self._context = self.kv = self._steps = 0
        self._stall = 0.0
        # Of the run of steps that is on: none, one with prompts, or many without.
        self._began, self._planned, self._mixed = 0.0, 0, False
        self._base = self._growth = 0.0

    @property
    def running(self) -> int:
        return self.decoding + len(self._prefilling)

    def submit(self, job: BatchJob, now: float) -> None:
        self._order += 1
        job.sequence, job.left = self._order, job.prompt
        self.lines.enter(job)
        if self._planned == 0:
            self._plan(now)
        else:
            self._cut(now)

    def cancel(self, job: BatchJob, now: float) -> None:
        """Nobody waits for it any more: it leaves with the end of the step that is on."""
        if job.runs:
            self._gone.append(job)
            self._cut(now)
        elif math.isnan(job.ended):
            self.lines.leave(job)
            job.ended = now

    def hold(self, adapter: str, rank: int, now: float) -> float:
        """Brings it into host memory. So many seconds nothing else runs, from the end of the step that is on."""
        seconds = self.adapters.hold(adapter, rank)
        if self._planned:
            self._stall += seconds
            self._cut(now)
        return seconds

    def made(self, job: BatchJob) -> int:
        """Tokens that came since its prompt was read (the last time, where it was preempted)."""
        return self._steps - job.started_step + 1 if job.decodes else 0

    def steps_over(self, now: float) -> int:
        """Of those that are planned, up to ``now`` (s, not later than `due`): `made` does not count them yet."""
        return self._steps_until(now) - 1 if self._planned > 1 and now > self._began else 0

    def made_by(self, now: float) -> int:
        """Tokens of all jobs, up to ``now`` (s, not later than `due`)."""
        return self._made + self.decoding * self.steps_over(now)

    def streams(self) -> list[BatchJob]:
        """Jobs whose first token is there."""
        return [job for _, _, job in self._decoding if job not in self._gone]

    def advance(self) -> None:
        """At `due`: what the steps up to then have come to, and the next ones."""
        now = self.due
        steps, n = self._planned, self.decoding
        self._steps += steps
        self._made += n * steps
        self._context += n * steps
        self.kv += n * steps
        if self._mixed:
            self._end_prefill(now)
        decoding = self._decoding
        while decoding and decoding[0][0] <= self._steps:
            job = heappop(decoding)[2]
            if job.started_step >= 0 and math.isnan(job.ended):
                self._finish(job, now)
        for job in self._gone:
            self._remove(job, now)
        self._gone.clear()
        if self.kv > self.hardware.kv_tokens:
            self._preempt()
        self._plan(now)

    def pending_tokens(self) -> int:
        """Of prompts not read yet."""
        return self.lines.tokens + sum(job.left for job, _ in self._prefilling)

    def matches(self, adapter: str | None, blocks: tuple[int, ...]) -> int:
        """The first blocks of a prompt that are there."""
        cache, found = self._cache, 0
        for block in blocks:
            if (adapter, block) not in cache:
                break
            found += 1
        return found

    # steps

    def _time(self, steps: int) -> float:
        return steps * self._base + self._growth * steps * (steps - 1) / 2

    def _steps_until(self, now: float) -> int:
        """The number of steps that the one running at ``now`` ends."""
        passed, a, b = now - self._began, self._growth / 2, self._base - self._growth / 2
        exact = passed / b if a <= 0 else (math.sqrt(b * b + 4 * a * passed) - b) / (2 * a)
        return max(1, math.ceil(exact - 1e-9))

    def _cut(self, now: float) -> None:
        """The steps that are on end with the one at ``now``."""
        if not self._mixed and (done := self._steps_until(now)) < self._planned:
            self._planned = done
            self.due = self._began + self._time(done)

    def _plan(self, now: float) -> None:
        hardware = self.hardware
        new, pairs = self._admit()
        n, context = self.decoding, self._context
        self._began, self._mixed = now, new > 0
        if not n and not new:
            self._planned, self.due, self._stall = 0, math.inf, 0.0
            return
        rank = max(self._ranks.values(), default=0)
        tax = hardware.tax(rank)
        sequences = n + len(self._prefilling)
        step = (hardware.step + sequences * hardware.sequence + context * hardware.context_token) * tax
        if new:
            self._planned = 1
            reading = (new * hardware.prefill_token + pairs * hardware.prefill_pair) * hardware.prefill_tax(rank)
            self._base = step + reading + self._stall
            self._growth = 0.0
        elif self._stall:
            self._planned = 1
            self._base, self._growth = step + self._stall, 0.0
        else:
            room = (hardware.kv_tokens - self.kv) // n + 1
            self._planned = max(1, min(self._decoding[0][0] - self._steps, room, self._most_steps))
            self._base, self._growth = step, hardware.context_token * n * tax
        self._stall = 0.0
        self.due = now + self._time(self._planned)

    # prompts

    def _admit(self) -> tuple[int, int]:
        """Tokens of prompts in the next step, and the pairs of tokens that attend to each other."""
        hardware = self.hardware
        budget, new, pairs = hardware.batched_tokens - self.decoding, 0, 0
        prefilling = self._prefilling
        for i, (begun, _) in enumerate(prefilling):
            chunk = min(begun.left, max(0, budget))
            prefilling[i] = (begun, chunk)
            budget, new = budget - chunk, new + chunk
            pairs += chunk * (begun.prompt - begun.left) + chunk * chunk // 2
        while budget > 0 and self.lines.count and self.decoding + len(prefilling) < hardware.seats:
            if (job := self.lines.first(self.active, self.slots)) is None:
                break
            cached = self._match(job)
            if self.kv + job.prompt - cached > hardware.kv_tokens and self.running:
                break
            self._start(job, cached)
            chunk = min(job.left, budget)
            prefilling.append((job, chunk))
            budget, new = budget - chunk, new + chunk
            pairs += chunk * cached + chunk * chunk // 2
        return new, pairs

    def _match(self, job: BatchJob) -> int:
        """Tokens of its prompt that are there."""
        return min(self.matches(job.adapter, job.blocks) * BLOCK, job.prompt - 1)

    def _start(self, job: BatchJob, cached: int) -> None:
        self.lines.leave(job)
        job.runs = True
        job.cached, job.left = cached, job.prompt - cached
        self.prompt_tokens += job.prompt
        self.cached_tokens += cached
        self.kv += job.left
        for block in job.blocks[: cached // BLOCK]:
            self._cache.move_to_end((job.adapter, block))
        if job.adapter is None:
            return
        count = self.active.get(job.adapter, 0)
        self.active[job.adapter] = count + 1
        self._ranks[job.adapter] = job.rank
        self._stall += self.adapters.use(job.adapter, job.rank, self.active)

    def _end_prefill(self, now: float) -> None:
        still = []
        for job, chunk in self._prefilling:
            job.left -= chunk
            if job.left > 0:
                still.append((job, 0))
                continue
            self._remember(job)
            job.decodes = True
            self._context += job.prompt + 1
            self._made += 1
            self.kv += 1
            self.decoding += 1
            if math.isnan(job.first):
                job.first = now
                self._on_first(job, now)
            job.started_step = self._steps
            heappush(self._decoding, (self._steps + job.output - 1, job.sequence, job))
        self._prefilling = still

    def _remember(self, job: BatchJob) -> None:
        cache, adapter = self._cache, job.adapter
        for block in job.blocks:
            key = (adapter, block)
            cache[key] = None
            cache.move_to_end(key)
        most = self.hardware.kv_tokens // BLOCK
        while len(cache) > most:
            cache.popitem(last=False)

    # ends

    def _finish(self, job: BatchJob, now: float) -> None:
        job.ended = now
        self._leave(job, job.output)
        self._on_end(job, now)

    def _remove(self, job: BatchJob, now: float) -> None:
        if not math.isnan(job.ended):
            return  # with this very step
        job.ended = now
        if job.decodes:
            self._decoding = [each for each in self._decoding if each[2] is not job]
            heapify(self._decoding)
            self._leave(job, self.made(job))
        else:
            job.runs = False
            self._prefilling = [each for each in self._prefilling if each[0] is not job]
            self.kv -= job.prompt - job.cached
            self._free(job.adapter)

    def _leave(self, job: BatchJob, made: int) -> None:
        job.runs = job.decodes = False
        self.decoding -= 1
        self._context -= job.prompt + made
        self.kv -= job.prompt - job.cached + made
        self._free(job.adapter)

    def _free(self, adapter: str | None) -> None:
        if adapter is None:
            return
        if self.active[adapter] > 1:
            self.active[adapter] -= 1
            return
        del self.active[adapter], self._ranks[adapter]
        self.lines.released(adapter)

    def _preempt(self) -> None:
        """The latest give up what they have, and read it again later."""
        decoding = self._decoding
        for _, _, job in sorted(decoding, key=lambda each: -each[1]):
            if self.kv <= self.hardware.kv_tokens or self.decoding <= 1:
                break
            made = self.made(job)
            self._leave(job, made)
            job.prompt, job.output = job.prompt + made, job.output - made
            job.left = job.prompt
            decoding[:] = [each for each in decoding if each[2] is not job]
            decoding.sort()
            self.preemptions += 1
            self.lines.enter(job)
