"""Traffic, a policy, engines, and what came of it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

from cluster.adapters.homes import Homes, HomeWorker
from config.topology import BackendSpec
from lb.routing.backend import Backend, Lease
from lb.routing.others import Board
from lb.routing.strategies.base import AttemptOutcome, Features, Strategy
from sim.policies.base import MeteredPolicy
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


@dataclass(frozen=True, slots=True)
class Setting:
    """The machines. ``slots``: adapters at a time in an engine; ``host_adapters``: in its host memory. ``balancers``
    share the requests, and what each knows of the others' is up to ``stale`` s old. ``past`` all of them goes this
    share of the requests, to any engine: no balancer knows of it."""

    hardware: EngineCosts
    workers: int = 8
    slots: int = 8
    host_adapters: int = 32
    round_every: float = 5.0
    balancers: int = 1
    stale: float = 0.0
    past: float = 0.0


@dataclass(slots=True)
class Result:
    """Of each request, in the order of arrival: TTFT (s), s a token after the first, adapter. ``swaps``: adapters
    brought into slots."""

    ttft: array[float] = field(default_factory=lambda: array("d"))
    tpot: array[float] = field(default_factory=lambda: array("d"))
    adapters: list[str | None] = field(default_factory=list)
    swaps: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        return len(self.ttft)

    def add(self, adapter: str | None) -> None:
        """One more request."""
        self.ttft.append(math.inf)
        self.tpot.append(math.inf)
        self.adapters.append(adapter)

    def goodput(self, ttft: float = 2.0, tpot: float = 0.05) -> float:
        """The share of requests within both."""
        good = sum(a <= ttft and b <= tpot for a, b in zip(self.ttft, self.tpot, strict=True))
        return good / max(1, self.requests)

    def percentile(self, share: float, of: Callable[[str | None], bool] | None = None) -> float:
        """Of TTFT (s); ``of``: of requests for these adapters only."""
        values = sorted(t for t, a in zip(self.ttft, self.adapters, strict=True) if of is None or of(a))
        return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)] if values else 0.0


class _Others:
    """What the other balancers have in flight on one engine, as one of them sees it (`lb.routing.backend.Shared`)."""

    def __init__(self, board: _Board, balancer: int, worker: int) -> None:
        self._board, self._balancer, self._worker = board, balancer, worker

    def put(self, own: int) -> None:
        self._board.now[self._balancer][self._worker] = own

    def others(self) -> int:
        board, worker = self._board, self._worker
        others: int = board.total[worker] - board.seen[self._balancer][worker]
        return others


class _Board:
    """What each balancer has in flight on each engine: now, and as the others see it."""

    def __init__(self, balancers: int, workers: int) -> None:
        self.now = [[0] * workers for _ in range(balancers)]
        self.listeners: list[list[tuple[int, Sequence[int]]]] = []
        self.told: list[tuple[list[tuple[int, Sequence[int]]], tuple[int, Sequence[int]]]] = []
        self.publish()

    def publish(self) -> None:
        self.seen = [list(each) for each in self.now]
        self.total = [sum(each) for each in zip(*self.seen, strict=True)]
        for told, (teller, record) in self.told:
            told.append((teller, record))
        self.told = []


class _Told:
    """What one balancer tells the others, and hears of them with the next `_Board.publish` (`lb.routing.others`)."""

    def __init__(self, board: _Board, number: int) -> None:
        self._board, self._number = board, number
        self._heard: list[tuple[int, Sequence[int]]] = []
        board.listeners.append(self._heard)

    def tell(self, record: Sequence[int]) -> None:
        board = self._board
        board.told += [(each, (self._number, record)) for each in board.listeners if each is not self._heard]

    def news(self) -> list[tuple[int, Sequence[int] | None]]:
        news: list[tuple[int, Sequence[int] | None]] = [*self._heard]
        self._heard.clear()
        return news


class Balancer:
    """One of several: its strategy, and the engines as it sees them. It meets the others on ``board``."""

    def __init__(self, strategy: Strategy, backends: list[Backend], board: Board | None) -> None:
        self.strategy, self.backends = strategy, backends
        if board is not None:
            strategy.meets(board)
        for backend in backends:
            strategy.joined(backend)


def run(
    requests: Iterable[Request], strategy: Callable[[Random], Strategy], setting: Setting, homes: Homes | None = None,
    seed: int = 0,
) -> Result:  # fmt: skip
    """``requests`` in the order of their times; ``homes`` says every few seconds where adapters belong."""
    return Run(strategy, setting, homes, seed).drive(requests)


class Run:
    """One run of `run`, whose parts others may replace."""

    def __init__(
        self, strategy: Callable[[Random], Strategy], setting: Setting, homes: Homes | None, seed: int
    ) -> None:
        self._setting, self._homes = setting, homes
        self.result = Result()
        self._engines = [
            BatchEngine(setting.hardware, setting.slots, setting.host_adapters, self._first, self._end)
            for _ in range(setting.workers)
        ]
        self._board = _Board(setting.balancers, setting.workers)
        self._balancers = [
            Balancer(
                self._made(strategy(Random(seed + k))), [self._backend(i, k) for i in range(setting.workers)],
                _Told(self._board, k) if setting.balancers > 1 else None,
            )
            for k in range(setting.balancers)
        ]  # fmt: skip
        self._attempts: dict[int, tuple[Balancer, Lease, Features]] = {}
        self._past = Random(seed)
        self._ranks: dict[str, int] = {}

    def _made(self, strategy: Strategy) -> Strategy:
        if isinstance(strategy, MeteredPolicy):
            strategy.engines = self._engines
        return strategy

    def _backend(self, number: int, balancer: int) -> Backend:
        alone = self._setting.balancers == 1
        return Backend(_spec(number, self._setting), None if alone else _Others(self._board, balancer, number))

    def drive(self, requests: Iterable[Request]) -> Result:
        setting, homes, balancers, result = self._setting, self._homes, self._balancers, self.result
        due: list[tuple[float, int]] = []
        next_round, next_look, work = setting.round_every, 0.0, dict[str, float]()
        there = [HomeWorker(str(i), setting.slots, setting.host_adapters) for i in range(setting.workers)]
        placed: Mapping[str, Sequence[str]] = {}
        for number, request in enumerate(requests):
            now, adapter = request.at, request.adapter
            self._until(now, due)
            if setting.balancers > 1 and now >= next_look:
                self._board.publish()
                next_look = now + setting.stale
            if adapter is not None:
                if adapter not in self._ranks:
                    self._ranks[adapter] = request.rank
                    self._place(placed)
                work[adapter] = work.get(adapter, 0.0) + request.prompt
            if homes is not None and now >= next_round:
                self._place(placed := homes.round(work, setting.round_every, self._ranks, there))
                work, next_round = {}, now + setting.round_every
            result.add(adapter)
            self._send(number, request, balancers[number % len(balancers)], due)
        self._until(math.inf, due)
        for engine in self._engines:
            result.swaps += engine.adapters.swaps
            result.preemptions += engine.preemptions
            result.prompt_tokens += engine.prompt_tokens
            result.cached_tokens += engine.cached_tokens
        return result

    def _place(self, homes: Mapping[str, Sequence[str]]) -> None:
        for balancer in self._balancers:
            balancer.strategy.placed(homes, self._ranks)

    def _send(self, number: int, request: Request, balancer: Balancer, due: list[tuple[float, int]]) -> None:
        setting = self._setting
        features = Features(
            adapter=request.adapter, tokens=request.prompt, blocks=request.blocks, stream=True
        )
        if setting.past and self._past.random() < setting.past:
            chosen = self._past.choice(balancer.backends)
        else:
            chosen, _ = balancer.strategy.choose(balancer.backends, features)
            self._attempts[number] = balancer, chosen.lease(_ignore, None, request.adapter), features
            balancer.strategy.sent(chosen, features)
        engine, worker, now = self._engines[int(chosen.id)], int(chosen.id), request.at
        before = engine.due
        engine.submit(
            BatchJob(number, now, request.prompt, request.output, request.adapter, request.rank, request.blocks), now
        )
        if engine.due < before:
            heappush(due, (engine.due, worker))

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
        if job.number not in self._attempts:
            return  # it came past the balancers
        balancer, lease, features = self._attempts[job.number]
        balancer.strategy.began(lease.backend.key, features, now - job.arrived)

    def _end(self, job: BatchJob, now: float) -> None:
        self.result.tpot[job.number] = (now - job.first) / max(1, job.made - 1)
        if job.number not in self._attempts:
            return  # it came past the balancers
        balancer, lease, features = self._attempts.pop(job.number)
        lease.release()
        outcome = AttemptOutcome(
            lease.backend.key, features, 200, now - job.arrived, job.first - job.arrived, tokens=job.made
        )
        balancer.strategy.observe(outcome)


def _ignore(reason: str) -> None:
    raise AssertionError(reason)  # no worker dies here


def _spec(number: int, setting: Setting) -> BackendSpec:
    return BackendSpec(
        str(number), 1, "ready", "http", "127.0.0.1", 1, seats=None, slots=setting.slots,
        models=({"id": "base"},), places=setting.host_adapters,
    )  # fmt: skip
