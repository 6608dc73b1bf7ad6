"""Where a request costs the least, itself and those that are there, by what each worker holds and how fast it is.

Adapters outnumber the slots of an engine long before its arithmetic is used up: requests then wait for a slot, each
load of an adapter stops the whole batch, and a batch pays for its largest rank. So the choice is by expected seconds,
and the rates are learnt (`lb.routing.learning`); `docs/routing.md` has the figures.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from operator import attrgetter
from random import Random
from typing import NamedTuple

from lb.routing.backend import Backend
from lb.routing.cluster_view import ClusterView
from lb.routing.learning import RankTax
from lb.routing.others import Board, OtherBalancers
from lb.routing.strategies.base import AttemptOutcome, Choice, Feature, Features, Holdings, Score, Strategy
from lb.routing.worker_view import WorkerView

#: So many are compared one by one; of more, those that may be good.
_ALL = 12

#: Of many, so many are looked at beside those that hold something of the request.
_DRAWN = 4

#: Where nothing is said of the rank of an adapter.
_RANK = 16

_order = attrgetter("order")


@dataclass(frozen=True, slots=True)
class AdaptiveParams:
    """Weights of a cost in seconds: of those in the batch for the time that their steps stop, and for steps that take
    longer by a larger rank; of the request itself for a slow batch; of one more in a batch; of a wait for a slot;
    ``lost``: of the wait of one whose prompt alone takes longer than ``goal`` (s). ``late``: what a wait past that
    costs any other (s), and a wait for a slot in part: what it is of the time until then; ``home``: what a home is
    preferred by (s); ``margin``: how many times what it costs to move a running stream it has to gain."""

    stop: float = 0.3
    slower: float = 1.0
    slow: float = 2.0
    crowd: float = 1.0
    slot: float = 0.5
    home: float = 0.3
    goal: float = 2.0
    lost: float = 0.3
    late: float = 2.0
    margin: float = 2.0

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0:
            raise ValueError("weights have to be at least 0")


class Cost(NamedTuple):
    """Of one request on one worker, s: until its first token (prompts before it and its own, adapter, slot), and
    what it costs the others and itself from then on. ``total`` is less by what a home is preferred by."""

    total: float
    prompts: float
    adapter: float
    slot: float
    others: float
    steps: float


class _Open(NamedTuple):
    """An attempt under way: ``ahead`` are the tokens that were to be read first, its own with them; ``load``: its
    adapter came into a slot for it; ``fetched``: and into host memory; ``waited``: it had to wait for a slot. Others
    know it as ``told``."""

    features: Features
    tokens: int
    ahead: int
    load: bool
    fetched: bool
    waited: bool
    top: int
    batch: int
    told: int


class Adaptive(Strategy):
    """``kv_tokens``, ``places``: what is taken for granted of a worker that does not say."""

    rule = "the least expected cost, of the request and of those that are there, in seconds"
    measure = "seconds"
    terms = Cost._fields[1:]
    needs = frozenset({Feature.ADAPTER, Feature.BLOCKS})
    Params = AdaptiveParams

    kv_tokens, places = 420_000, 1_000

    def __init__(self, random: Random, params: AdaptiveParams | None = None) -> None:
        super().__init__(random, params)
        self._cluster = ClusterView(self.kv_tokens, self.places)
        self._views = self._cluster.views
        self._others: OtherBalancers | None = None
        self._open: dict[int, _Open] = {}  # by the identity of the features, which are kept with it
        self._tax = RankTax()
        self._homes: Mapping[str, Sequence[str]] = {}
        self._ranks: Mapping[str, int] = {}

    def holdings(self) -> Mapping[tuple[str, int], Holdings]:
        return self._views

    def unread(self) -> float:
        return sum(view.backlog * view.rates.prefill.value for view in self._views.values())

    # who is there, and what belongs where

    def meets(self, board: Board) -> None:
        self._others = OtherBalancers(board, self._cluster)

    def hear(self) -> None:
        if self._others is not None:
            self._others.hear()

    def joined(self, backend: Backend) -> None:
        self._view(backend)
        if self._others is not None:
            self._others.joined(backend)

    def _view(self, backend: Backend) -> WorkerView:
        return self._cluster.view(backend)

    def left(self, backend: Backend) -> None:
        self._cluster.left(backend)
        if self._others is not None:
            self._others.left(backend)

    def placed(self, homes: Mapping[str, Sequence[str]], ranks: Mapping[str, int]) -> None:
        self._homes, self._ranks = homes, ranks
        if self._others is not None:
            self._others.named(ranks)

    # the choice

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        adapter = features.adapter
        homes = self._homes.get(adapter, ()) if adapter is not None else ()
        every = candidates
        if self._others is not None:
            self._others.hear()
        if len(candidates) > _ALL:
            candidates = list(self._promising(candidates, features, homes))
        terms = self._terms
        made = [terms(b, features, homes) for b in candidates]
        costs = [cost[0] for cost in made]
        least = min(costs)
        if costs.count(least) == 1:
            return candidates[costs.index(least)], made if every is candidates else _by_id(candidates, made)
        best = [b for b, cost in zip(candidates, costs, strict=True) if cost == least]
        chosen = best[int(self.random.random() * len(best))]
        return chosen, made if every is candidates else _by_id(candidates, made)

    def cost(self, backend: Backend, features: Features, homes: Sequence[str]) -> Cost:
        """Of ``features`` on ``backend`` as things are."""
        return Cost(*self._terms(backend, features, homes))

    def worth_moving(
        self, backend: Backend, others: Sequence[Backend], stream: Features, waiting: int
    ) -> bool:
        view = self._view(backend)
        slots, adapter = view.slots, stream.adapter
        if slots is None or len(view.active) <= slots or adapter is None or view.active.get(adapter) != 1:
            return False
        gain = waiting * view.rates.decode.value / slots
        costs = (self.cost(other, stream, ()) for other in others)
        return any((c.prompts + c.adapter + c.slot + c.others) * self.params.margin < gain for c in costs)

    def _terms(
        self, backend: Backend, features: Features, homes: Sequence[str]
    ) -> tuple[float, float, float, float, float, float]:
        """Those of `Cost`. It is done some ten times a request, and that is what its form is for."""
        view, params = self._views.get(backend.key) or self._view(backend), self.params
        rates, batch = view.rates, backend.load
        prefill, tokens, blocks = rates.prefill.value, features.tokens, features.blocks
        if blocks and blocks[0] in view.prefixes.items:
            tokens = max(1, tokens - view.matched(blocks))
        read = tokens * prefill
        goal, prompts = params.goal, view.backlog * prefill + read
        adapter, top = features.adapter, view.top
        load = slot = 0.0
        rank = top
        if adapter is not None:
            own_rank = self._ranks.get(adapter, _RANK)
            if own_rank > top:
                rank = own_rank
            if adapter not in view.resident.items:
                load = rates.load.value if adapter in view.held.items else rates.fetch.value
            slots, active = view.slots, len(view.active)
            if slots is not None and active >= slots and adapter not in view.active:
                slot = rates.decode.value * (1 + active - slots) / slots
        if read > goal:
            prompts -= (1 - params.lost) * (prompts - read)
        elif prompts + slot > goal:
            prompts += params.late
        elif slot:
            prompts += params.late * slot / (goal - prompts)
        decode = rates.decode.value
        longer, crowd = self._tax.value * decode, params.crowd * self._tax.crowd * decode  # for each rank; each other
        others = (params.stop * (read + load) + params.slower * longer * (rank - top) + crowd) * batch
        steps = params.slow * longer * rank
        total = prompts + load + params.slot * slot + others + steps
        if homes and backend.id in homes:
            total -= params.home
        return total, prompts, load, slot, others, steps

    def _promising(
        self, candidates: Sequence[Backend], features: Features, homes: Sequence[str]
    ) -> Iterator[Backend]:
        """Of many: those that hold its adapter or the beginning of its prompt, and some at random."""
        seen: set[Backend] = set()
        for backend in self._cluster.holding(features.adapter, features.blocks, homes, self.random):
            if backend not in seen:
                seen.add(backend)
                at = bisect_left(candidates, backend.order, key=_order)
                if at < len(candidates) and candidates[at] is backend:
                    yield backend
        random, count = self.random.random, len(candidates)
        for _ in range(_DRAWN):
            backend = candidates[int(random() * count)]
            if backend not in seen:
                seen.add(backend)
                yield backend

    # what is seen

    def sent(self, backend: Backend, features: Features) -> None:
        view = self._views.get(backend.key)
        if view is None:
            return
        adapter = features.adapter
        rank = self._ranks.get(adapter, _RANK) if adapter is not None else 0
        tokens = max(1, features.tokens - view.matched(features.blocks))
        full = view.slots is not None and len(view.active) >= view.slots
        new = adapter is not None and adapter not in view.active
        load = new and adapter not in view.resident
        others = self._others
        told = 0 if others is None else others.sent(backend, adapter, rank, tokens, features.blocks)
        self._open[id(features)] = _Open(
            features, tokens, view.backlog + tokens, load, load and adapter not in view.held, new and full,
            max(view.top, rank), view.running, told,
        )  # fmt: skip
        self._cluster.enter(backend, adapter, rank, tokens, features.blocks)

    def began(self, backend: tuple[str, int], features: Features, seconds: float) -> None:
        view, attempt = self._views.get(backend), self._open.get(id(features))
        if view is None or attempt is None or not attempt.tokens:
            return
        view.backlog -= attempt.tokens
        self._open[id(features)] = attempt._replace(tokens=0)
        if self._others is not None:
            self._others.began(attempt.told)
        if attempt.waited or not features.stream:
            return  # how long for a slot, or for the answer, and how long for the rest cannot be told
        rates, expected = view.rates, attempt.ahead * view.rates.prefill.value
        if attempt.load:
            (rates.fetch if attempt.fetched else rates.load).observe(max(0.0, seconds - expected))
        else:
            rates.prefill.observe(attempt.ahead, seconds)

    def observe(self, outcome: AttemptOutcome) -> None:
        attempt = self._open.pop(id(outcome.features), None)
        if attempt is None:
            return
        if self._others is not None:
            self._others.ended(attempt.told)
        view, adapter = self._views.get(outcome.backend), outcome.features.adapter
        if view is None:
            return
        top = view.top
        self._cluster.leave(outcome.backend, adapter, attempt.tokens)
        first, made = outcome.first_byte, outcome.tokens
        if first is None or outcome.status != 200 or not outcome.features.stream:
            return
        view.rates.decode.observe(outcome.seconds - first)
        if made > 1:
            batch = (attempt.batch + view.running) // 2
            self._tax.observe((attempt.top + top) // 2, batch, (outcome.seconds - first) / (made - 1))


def _by_id(candidates: Sequence[Backend], costs: Sequence[Score]) -> dict[str, Score]:
    return {b.id: cost for b, cost in zip(candidates, costs, strict=True)}
