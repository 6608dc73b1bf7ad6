"""Who takes a request, by the strategy in force. Pure: the time is handed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from config.errors import nearest
from lb.protocol.errors import ProxyError, Source
from lb.routing.backend import Backend
from lb.routing.pool import Pool
from lb.routing.strategies.base import AttemptOutcome, Feature, Features, RequestInfo, Strategy
from lb.routing.strategies.registry import STRATEGIES

#: What a token that is made takes, in tokens of a prompt.
_MADE = 4

#: (id, incarnation) of the one backend that can answer.
Pinned = tuple[str, int]


class Router:
    """``clock`` is monotonic seconds; ``strategy`` says which one is in force, given the version of the latest set and
    the one that it names."""

    def __init__(
        self, pool: Pool, strategy: Callable[[tuple[int, int], str], str], clock: Callable[[], float], random: Random
    ) -> None:
        self._pool, self._in_force, self._clock, self._random = pool, strategy, clock, random
        self._strategy: Strategy | None = None
        self._known: dict[tuple[str, int], Backend] = {}
        #: What the strategy in force wants to know of a request, and whether it wants to know how attempts end.
        self.needs: frozenset[Feature] = frozenset()
        self.observes = False
        self._work: dict[str, float] = {}

    def choose(self, info: RequestInfo, excluded: frozenset[str], pinned: Pinned | None) -> Backend | None:
        """A backend that may take the request now. Raises ProxyError where waiting for one is of no use."""
        pool = self._pool
        if pool.shutting_down:
            raise ProxyError(503, "the cluster is shutting down", source=Source.INTERNAL, retry_after=30)
        now = self._clock()
        if pinned is not None:
            info.decision = None
            backend = pool.backends.get(pinned[0])
            return backend if backend is not None and backend.answers_still(now) else None
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

    def unknown(self, model: str | None, models: frozenset[str] | None) -> ProxyError:
        """The answer for a model that nobody serves, or that is none of the ``models`` that exist for whoever asks
        (None: all)."""
        names = self._pool.names()
        known = nearest(model or "", names if models is None else [name for name in names if name in models])
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
        strategy.placed(*self._pool.placement)

    def sent(self, backend: Backend, features: Features) -> None:
        if self._strategy is not None:
            self._strategy.sent(backend, features)

    def began(self, backend: tuple[str, int], features: Features, seconds: float) -> None:
        if self._strategy is not None:
            self._strategy.began(backend, features, seconds)

    def observe(self, outcome: AttemptOutcome) -> None:
        if self._strategy is not None:
            self._strategy.observe(outcome)
            adapter = outcome.features.adapter
            if adapter is not None:
                done = outcome.features.tokens + _MADE * outcome.tokens
                self._work[adapter] = self._work.get(adapter, 0.0) + max(1, done)

    def work(self) -> dict[str, float]:
        """Tokens read and made for each adapter since this was last asked, as long as the strategy wants to know of
        them."""
        work, self._work = self._work, {}
        return work

    def unread(self) -> float:
        """See `Strategy.unread`."""
        return 0.0 if self._strategy is None else self._strategy.unread()

    def _current_strategy(self, known: Mapping[tuple[str, int], Backend] | None = None) -> Strategy:
        """A new one if another is in force by now. ``known``: the backends that it is told of at once, all without."""
        name = self._in_force(self._pool.version, self._pool.strategy)
        strategy = self._strategy
        if strategy is None or strategy.name != name:
            self._strategy = strategy = STRATEGIES[name](self._random)
            self.needs, self.observes = strategy.needs, type(strategy).observe is not Strategy.observe
            for backend in (self._known if known is None else known).values():
                strategy.joined(backend)
            strategy.placed(*self._pool.placement)
        return strategy
