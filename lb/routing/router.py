"""Who takes a request, by the strategy in force. Pure: the time is handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from config.errors import nearest
from lb.protocol.errors import ProxyError, Source
from lb.routing.backend import Backend
from lb.routing.followers import Follower
from lb.routing.others import Board, Channels
from lb.routing.pool import Pool
from lb.routing.strategies.base import AttemptOutcome, Feature, Features, Holdings, RequestInfo, Strategy
from lb.routing.strategies.registry import STRATEGIES

#: What a token that is made takes, in tokens of a prompt.
_MADE = 4

#: (id, incarnation) of the one backend that can answer.
Pinned = tuple[str, int]


class Router:
    """``clock`` is monotonic seconds; ``strategy`` says which one is in force, given the version of the latest set and
    the one that it names; ``board``: where other balancers are met, if there are any."""

    def __init__(
        self, pool: Pool, strategy: Callable[[tuple[int, int], str], str], clock: Callable[[], float], random: Random,
        board: Board | None = None,
    ) -> None:  # fmt: skip
        self._pool, self._in_force, self._clock, self._random = pool, strategy, clock, random
        self._follower: Follower | None = None
        #: By group, where a model's workers are chosen from in a way of their own.
        self._own: dict[str, Follower] = {}
        self._all: tuple[Strategy, ...] = ()
        self._channels = None if board is None else Channels(board)
        self._known: dict[tuple[str, int], Backend] = {}
        #: What the strategies in force want to know of a request, and whether they want to know how attempts end.
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
        strategy = self._chooser(info.model) if self._own else self._current().strategy
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
        """Tells the strategies in force who has come and who is gone."""
        pool = self._pool
        self._known = {b.key: b for b in pool.backends.values()}
        own = {model.group: model.strategy for model in pool.offered.models if model.strategy in STRATEGIES}
        for group, name in own.items():
            follower = self._own.get(group)
            members = {key: b for key, b in self._known.items() if b.spec.group == group or not b.spec.managed}
            if follower is None or follower.strategy.name != name:
                self._own[group] = Follower(self._made(name, group), members, pool.placement)
            else:
                follower.follow(members, pool.placement)
        self._own = {group: follower for group, follower in self._own.items() if group in own}
        if self.strategy in STRATEGIES:  # else it is of a later release; whoever has to choose says so
            self._current().follow(self._others(), pool.placement)
        self._set_needs()

    def sent(self, backend: Backend, features: Features) -> None:
        for strategy in self._told(backend):
            strategy.sent(backend, features)

    def began(self, backend: tuple[str, int], features: Features, seconds: float) -> None:
        for strategy in self._told(self._known.get(backend)):
            strategy.began(backend, features, seconds)

    def observe(self, outcome: AttemptOutcome) -> None:
        for strategy in self._told(self._known.get(outcome.backend)):
            strategy.observe(outcome)
        adapter = outcome.features.adapter
        if adapter is not None:
            done = outcome.features.tokens + _MADE * outcome.tokens
            self._work[adapter] = self._work.get(adapter, 0.0) + max(1, done)

    def hear(self) -> None:
        """See `Strategy.hear`."""
        for strategy in self._all:
            strategy.hear()

    def work(self) -> dict[str, float]:
        """Tokens read and made for each adapter since this was last asked, as long as a strategy wants to know of
        them."""
        work, self._work = self._work, {}
        return work

    def holdings(self) -> dict[tuple[str, int], Holdings]:
        """See `Strategy.holdings`."""
        return {key: held for strategy in self._all for key, held in strategy.holdings().items()}

    def unread(self) -> float:
        """See `Strategy.unread`."""
        return sum(strategy.unread() for strategy in self._all)

    def worth_moving(
        self, backend: Backend, others: Sequence[Backend], model: str | None, stream: Features, waiting: int
    ) -> bool:
        """See `Strategy.worth_moving`; of the strategy for ``model``."""
        strategy = self._chooser(model) if self._own else self._current().strategy
        return strategy.worth_moving(backend, others, stream, waiting)

    def _told(self, backend: Backend | None) -> tuple[Strategy, ...]:
        """Those that hear of attempts on it: all, of one that we did not start. Where there is more than one, nobody
        of a backend that is gone."""
        if not self._own or (backend is not None and not backend.spec.managed):
            return self._all
        follower = None if backend is None else self._own.get(backend.spec.group, self._follower)
        return () if follower is None else (follower.strategy,)

    def _others(self) -> dict[tuple[str, int], Backend]:
        """Those that the cluster's strategy chooses from."""
        if not self._own:
            return self._known
        return {key: b for key, b in self._known.items() if b.spec.group not in self._own or not b.spec.managed}

    def _chooser(self, model: str | None) -> Strategy:
        """Of the group whose workers a request for ``model`` needs."""
        needed = self._pool.offered.of(model)
        own = None if needed is None else self._own.get(needed.group)
        return self._current().strategy if own is None else own.strategy

    def _current(self) -> Follower:
        """The cluster's; a new one if another is in force by now."""
        name = self._in_force(self._pool.version, self._pool.strategy)
        follower = self._follower
        if follower is None or follower.strategy.name != name:
            self._follower = follower = Follower(self._made(name, ""), self._others(), self._pool.placement)
            self._set_needs()
        return follower

    def _made(self, name: str, group: str) -> Strategy:
        """Of that group, or of all that have none of their own."""
        strategy = STRATEGIES[name](self._random)
        if self._channels is not None:
            strategy.meets(self._channels.of(group))
        return strategy

    def _set_needs(self) -> None:
        followers = [*self._own.values(), *([] if self._follower is None else [self._follower])]
        self._all = tuple(follower.strategy for follower in followers)
        self.needs = frozenset[Feature]().union(*(strategy.needs for strategy in self._all))
        self.observes = any(type(strategy).observe is not Strategy.observe for strategy in self._all)
