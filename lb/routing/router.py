"""Who takes a request: one that may now, or the first that may while it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from random import Random

from config.errors import nearest
from lb.protocol.errors import ProxyError, Source
from lb.routing.backend import Backend
from lb.routing.notifier import Changes
from lb.routing.pool import Pool
from lb.routing.strategies.base import Feature, Outcome, RequestInfo, Strategy
from lb.routing.strategies.registry import STRATEGIES

#: Seconds between two looks for a free backend where nothing changes: an ejection ends without any word.
_LOOK_AGAIN = 0.25

#: (id, incarnation) of the one backend that can answer.
Pinned = tuple[str, int]


class Router:
    """``clock`` is monotonic seconds; ``queued`` counts, by model, who waits; ``want`` is told of an adapter that
    nobody holds and somebody asks for; ``strategy`` says which one is in force, given the version of the latest set and
    the one that it names."""

    def __init__(
        self, pool: Pool, changes: Changes, queued: Callable[[str | None], AbstractContextManager[None]], *,
        queue_timeout: float, want: Callable[[str], None], strategy: Callable[[tuple[int, int], str], str],
        clock: Callable[[], float], random: Random,
    ) -> None:
        self._pool, self._changes, self._queued, self._queue_timeout = pool, changes, queued, queue_timeout
        self._want, self._in_force, self._clock, self._random = want, strategy, clock, random
        self._strategy: Strategy | None = None
        self._known: dict[tuple[str, int], Backend] = {}
        #: What the strategy in force wants to know of a request, and whether it wants to know how attempts end.
        self.needs: frozenset[Feature] = frozenset()
        self.observes = False

    def choose(self, info: RequestInfo, excluded: frozenset[str], pinned: Pinned | None) -> Backend | None:
        """A backend that may take the request now. Raises ProxyError where waiting for one is of no use."""
        pool = self._pool
        if pool.shutting_down:
            raise ProxyError(503, "the cluster is shutting down", source=Source.INTERNAL, retry_after=30)
        now = self._clock()
        if pinned is not None:
            info.decision = None
            backend = pool.backends.get(pinned[0])
            usable = backend is not None and backend.keeps_running() and not backend.ejection.active(now)
            return backend if usable else None
        candidates = pool.candidates(info.model, excluded, now, info.root)
        if len(candidates) == 1:
            info.decision = candidates, None, None
            return candidates[0]
        if not candidates and excluded:
            candidates = pool.candidates(info.model, (), now, info.root)
        if not candidates:
            return None
        strategy = self._current_strategy()
        backend, scores = strategy.choose(candidates, info.features)
        info.decision = candidates, strategy, scores
        return backend

    async def wait(
        self, info: RequestInfo, excluded: frozenset[str], pinned: Pinned | None, came: float
    ) -> Backend:
        """A backend for the request that came then, as soon as there is one. Raises ProxyError (503) if there is none
        in time."""
        deadline = came + self._queue_timeout
        with self._queued(info.model):
            while True:
                self._give_up_if_useless(info, deadline)
                if info.model in self._pool.registered:
                    self._want(str(info.model))
                changed = self._changes.next()
                try:
                    async with asyncio.timeout(min(_LOOK_AGAIN, max(0.001, deadline - self._clock()))):
                        await changed
                except TimeoutError:
                    pass
                if (backend := self.choose(info, excluded, pinned)) is not None:
                    return backend

    def unknown(self, model: str | None) -> ProxyError:
        """The answer for a model that nobody serves."""
        known = nearest(model or "", self._pool.names())
        return ProxyError(404, f"The model `{model}` does not exist.{known}", param="model", code=404)

    @property
    def strategy(self) -> str:
        """The name of the one in force."""
        return self._in_force(self._pool.version, self._pool.strategy)

    def pool_changed(self) -> None:
        """Tells the strategy in force who has come and who is gone."""
        before, self._known = self._known, {b.key: b for b in self._pool.backends.values()}
        if self.strategy not in STRATEGIES:
            return  # of a later release; whoever has to choose says so
        strategy = self._current_strategy(before)
        for key in before.keys() - self._known.keys():
            strategy.left(before[key])
        for key in self._known.keys() - before.keys():
            strategy.joined(self._known[key])

    def observe(self, outcome: Outcome) -> None:
        if self._strategy is not None:
            self._strategy.observe(outcome)

    def _current_strategy(self, known: Mapping[tuple[str, int], Backend] | None = None) -> Strategy:
        """A new one if another is in force by now. ``known``: the backends that it is told of at once, all without."""
        name = self._in_force(self._pool.version, self._pool.strategy)
        strategy = self._strategy
        if strategy is None or strategy.name != name:
            self._strategy = strategy = STRATEGIES[name](self._random)
            self.needs, self.observes = strategy.needs, type(strategy).observe is not Strategy.observe
            for backend in (self._known if known is None else known).values():
                strategy.joined(backend)
        return strategy

    def _give_up_if_useless(self, info: RequestInfo, deadline: float) -> None:
        if not self._pool.knows(info.model):
            raise self.unknown(info.model)  # unloaded while this request waited for it
        what = f" for model {info.model}" if info.model else ""
        if self._pool.hopeless(info.model):
            message = f"no worker{what}: all of them have failed; see /v1/cluster/status"
            raise ProxyError(503, message, source=Source.INTERNAL, retry_after=30)
        if self._clock() >= deadline:
            message = f"no worker{what} became ready within {self._queue_timeout:g} s"
            raise ProxyError(503, message, source=Source.INTERNAL, retry_after=5)
