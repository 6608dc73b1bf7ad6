"""Traffic, a policy, engines, and what came of it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Any, Protocol

from config.topology import BackendSpec
from lb.routing.backend import Backend, Lease
from lb.routing.strategies.base import AttemptOutcome, Features, Strategy
from worker.sim.engine.batch import BatchEngine, BatchJob
from worker.sim.engine.costs import EngineCosts


@dataclass(frozen=True, slots=True)
class Request:
    """``at``: s; ``prompt``, ``output``: tokens; ``adapter`` None: the base model."""

    at: float
    prompt: int
    output: int
    adapter: str | None
    rank: int
    blocks: tuple[int, ...] = ()


class Homes(Protocol):
    """Where adapters belong, asked every few seconds of simulated time."""

    def round(self, work: Mapping[str, float], seconds: float) -> Mapping[str, Sequence[str]]:
        """``work``: what was asked of each adapter in the last ``seconds``, in tokens of prompts. By adapter the ids of
        workers."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The machines. ``slots``: adapters at a time in an engine; ``host_adapters``: in its host memory."""

    hardware: EngineCosts
    workers: int = 8
    slots: int = 8
    host_adapters: int = 1000
    round_every: float = 5.0


@dataclass(slots=True)
class Result:
    """Of each request, in the order of arrival: TTFT (s), s a token after the first. ``swaps``: adapters brought into
    slots."""

    ttft: array[float] = field(default_factory=lambda: array("d"))
    tpot: array[float] = field(default_factory=lambda: array("d"))
    requests: int = 0
    swaps: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0

    def goodput(self, ttft: float = 2.0, tpot: float = 0.05) -> float:
        """The share of requests within both."""
        good = sum(a <= ttft and b <= tpot for a, b in zip(self.ttft, self.tpot, strict=True))
        return good / max(1, self.requests)

    def percentile(self, share: float, of: Sequence[int] | None = None) -> float:
        """Of TTFT; ``of``: of these requests only."""
        values = sorted(self.ttft if of is None else [self.ttft[i] for i in of])
        return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)] if values else 0.0


def run(
    requests: Sequence[Request], strategy: Callable[[Random], Strategy], setting: Setting, homes: Homes | None = None,
    seed: int = 0, bind: Callable[[Strategy, Sequence[BatchEngine]], None] = lambda strategy, engines: None,
) -> Result:  # fmt: skip
    """``bind`` gives a policy that goes by the engines' own metrics access to them: as fresh as can be."""
    return _Run(requests, strategy(Random(seed)), setting, homes, bind).result


class _Run:
    def __init__(
        self, requests: Sequence[Request], strategy: Strategy, setting: Setting, homes: Homes | None, bind: Any
    ) -> None:
        self._strategy = strategy
        self.result = Result(array("d", [math.inf]) * len(requests), array("d", [math.inf]) * len(requests))
        self.result.requests = len(requests)
        self._engines = engines = [
            BatchEngine(setting.hardware, setting.slots, setting.host_adapters, self._first, self._end)
            for _ in range(setting.workers)
        ]
        self._backends = [Backend(_spec(i, setting)) for i in range(setting.workers)]
        bind(strategy, engines)
        for backend in self._backends:
            strategy.joined(backend)
        self._attempts: dict[int, tuple[Lease, Features]] = {}
        self._drive(requests, setting, homes)
        for engine in engines:
            self.result.swaps += engine.adapters.swaps
            self.result.preemptions += engine.preemptions
            self.result.prompt_tokens += engine.prompt_tokens
            self.result.cached_tokens += engine.cached_tokens

    def _drive(self, requests: Sequence[Request], setting: Setting, homes: Homes | None) -> None:
        engines, backends, strategy = self._engines, self._backends, self._strategy
        ranks = {r.adapter: r.rank for r in requests if r.adapter}
        strategy.placed({}, ranks)
        due: list[tuple[float, int]] = []
        next_round, work = setting.round_every, dict[str, float]()
        for number, request in enumerate(requests):
            now = request.at
            self._until(now, due)
            if homes is not None:
                while now >= next_round:
                    strategy.placed(homes.round(work, setting.round_every), ranks)
                    work, next_round = {}, next_round + setting.round_every
                if request.adapter:
                    work[request.adapter] = work.get(request.adapter, 0.0) + request.prompt + 4 * request.output
            features = Features(adapter=request.adapter, tokens=request.prompt, blocks=request.blocks, stream=True)
            chosen, _ = strategy.choose(backends, features)
            job = BatchJob(number, now, request.prompt, request.output, request.adapter, request.rank, request.blocks)
            worker = int(chosen.id)
            self._attempts[number] = chosen.lease(_ignore, None, request.adapter), features
            strategy.sent(chosen, features)
            engine = engines[worker]
            before = engine.due
            engine.submit(job, now)
            if engine.due < before:
                heappush(due, (engine.due, worker))
        self._until(math.inf, due)

    def _until(self, now: float, due: list[tuple[float, int]]) -> None:
        engines = self._engines
        while due and due[0][0] <= now:
            at, worker = heappop(due)
            engine = engines[worker]
            if engine.due != at:
                continue  # brought forward meanwhile
            engine.advance()
            if engine.due < math.inf:
                heappush(due, (engine.due, worker))
            self.result.seconds = at

    def _first(self, job: BatchJob, now: float) -> None:
        self.result.ttft[job.number] = now - job.arrived
        lease, features = self._attempts[job.number]
        self._strategy.began(lease.backend.key, features, now - job.arrived)

    def _end(self, job: BatchJob, now: float) -> None:
        self.result.tpot[job.number] = (now - job.first) / max(1, job.output - 1)
        lease, features = self._attempts.pop(job.number)
        lease.release()
        seconds, first = now - job.arrived, job.first - job.arrived
        self._strategy.observe(AttemptOutcome(lease.backend.key, features, 200, seconds, first, tokens=job.output))


def _ignore(reason: str) -> None:
    raise AssertionError(reason)  # no worker dies here


def _spec(number: int, setting: Setting) -> BackendSpec:
    return BackendSpec(
        str(number), 1, "ready", "http", "127.0.0.1", 1, seats=None, slots=setting.slots,
        models=({"id": "base"},), places=setting.host_adapters,
    )  # fmt: skip
