"""Where a request costs the least, itself and those that are there, by what each worker holds and how fast it is.

Adapters outnumber the slots of an engine long before its arithmetic is used up: requests then wait for a slot, each
load of an adapter stops the whole batch, and a batch pays for its largest rank. So the choice is by expected seconds,
and the rates are learnt (`lb.routing.learning`); `docs/routing.md` has the figures.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from operator import attrgetter
from random import Random
from typing import NamedTuple

from lb.routing.backend import Backend
from lb.routing.hashing import weight
from lb.routing.learning import RankTax
from lb.routing.strategies.base import AttemptOutcome, Choice, Feature, Features, Score, Strategy
from lb.routing.worker_view import WorkerView

#: So many are compared one by one; of more, those that may be good.
_ALL = 12

#: Of many, so many are looked at beside those that hold something of the request.
_DRAWN = 4

#: Of homes or places where its adapter is active, at most so many are looked at.
_MOST_HOMES = 4

#: Beginnings of prompts that are remembered.
_MOST_BLOCKS = 100_000

#: Others' requests were seen: for so many choices from then on there are other balancers.
_TOGETHER = 1000

#: Where nothing is said of an adapter.
_RANK = 16

_order = attrgetter("order")


@dataclass(frozen=True, slots=True)
class AdaptiveParams:
    """Weights of a cost in seconds: of those in the batch for the time that their steps stop, and for steps that take
    longer by a larger rank; of the request itself for a slow batch; of a wait for a slot. And what a home is preferred
    by (s), and, while there are other balancers, the worker where all of them look first for an adapter: none of them
    knows which adapters the others' requests have in slots."""

    stop: float = 0.3
    slower: float = 1.0
    slow: float = 2.0
    crowd: float = 2.0
    slot: float = 0.7
    home: float = 0.3
    meeting_point: float = 5.0

    def __post_init__(self) -> None:
        if min(self.stop, self.slower, self.slow, self.slot, self.home, self.meeting_point) < 0:
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
    adapter came into a slot for it; ``fetched``: and into host memory; ``waited``: it had to wait for a slot."""

    features: Features
    tokens: int
    ahead: int
    load: bool
    fetched: bool
    waited: bool
    top: int
    batch: int


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
        self._views: dict[tuple[str, int], WorkerView] = {}
        self._open: dict[int, _Open] = {}  # by the identity of the features, which are kept with it
        self._tax = RankTax()
        self._homes: Mapping[str, Sequence[str]] = {}
        self._ranks: Mapping[str, int] = {}
        self._by_id: dict[str, Backend] = {}
        #: Who was sent a prompt that begins so; who an adapter.
        self._last: OrderedDict[int, Backend] = OrderedDict()
        self._holders: dict[str, dict[Backend, int]] = {}
        #: By adapter, the ids where all balancers look first. And for so many choices more there are several.
        self._meeting_points: dict[str, list[str]] = {}
        self._together = 0

    def unread(self) -> float:
        return sum(view.backlog * view.rates.prefill.value for view in self._views.values())

    # who is there, and what belongs where

    def joined(self, backend: Backend) -> None:
        self._view(backend)

    def _view(self, backend: Backend) -> WorkerView:
        view = self._views.get(backend.key)
        if view is None:
            spec = backend.spec
            places = self.places if spec.places is None else spec.places
            self._views[backend.key] = view = WorkerView(spec.slots, max(places, spec.slots or 0), self.kv_tokens)
            self._by_id[backend.id] = backend
            self._meeting_points.clear()
        return view

    def left(self, backend: Backend) -> None:
        self._views.pop(backend.key, None)
        if self._by_id.get(backend.id) is backend:
            del self._by_id[backend.id]
            self._meeting_points.clear()
        for holders in self._holders.values():
            holders.pop(backend, None)

    def placed(self, homes: Mapping[str, Sequence[str]], ranks: Mapping[str, int]) -> None:
        self._homes, self._ranks = homes, ranks

    # the choice

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        adapter = features.adapter
        homes = self._homes.get(adapter, ()) if adapter is not None else ()
        every = candidates
        if self._together and adapter is not None:
            self._together -= 1
            homes = self._meet(adapter, candidates)
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

    def _terms(
        self, backend: Backend, features: Features, homes: Sequence[str]
    ) -> tuple[float, float, float, float, float, float]:
        """Those of `Cost`. It is done some ten times a request, and that is what its form is for."""
        view, params = self._views.get(backend.key) or self._view(backend), self.params
        rates, batch, own = view.rates, backend.load, backend.in_flight
        shared = batch / own if own and batch > own else 1.0  # other balancers' are like ours
        prefill, tokens, blocks = rates.prefill.value, features.tokens, features.blocks
        if blocks and blocks[0] in view.prefixes.items:
            tokens = max(1, tokens - view.matched(blocks))
        read = tokens * prefill
        prompts = view.backlog * shared * prefill + read
        adapter, top = features.adapter, view.top
        load = slot = 0.0
        rank = top
        if adapter is not None:
            own_rank = self._ranks.get(adapter, _RANK)
            if own_rank > top:
                rank = own_rank
            if adapter not in view.resident.items:
                load = rates.load.value if adapter in view.held.items else rates.fetch.value
            slots, active = view.slots, len(view.active) * shared
            if slots is not None and active >= slots and adapter not in view.active:
                slot = rates.decode.value * (1 + active - slots) / slots
        decode = rates.decode.value
        longer, crowd = self._tax.value * decode, params.crowd * self._tax.crowd * decode  # for each rank; each other
        others = (params.stop * (read + load) + params.slower * longer * (rank - top) + crowd) * batch
        steps = params.slow * longer * rank
        total = prompts + load + params.slot * slot + others + steps
        if batch > own:
            self._together = _TOGETHER
        if homes and backend.id in homes:
            total -= params.meeting_point if self._together else params.home
        return total, prompts, load, slot, others, steps

    def _meet(self, adapter: str, candidates: Sequence[Backend]) -> tuple[str, ...]:
        """The one of ``candidates`` where every balancer looks first."""
        found = self._meeting_points.get(adapter)
        if found is None:
            found = nlargest(_MOST_HOMES, self._by_id, key=lambda name: weight(adapter, name))
            self._meeting_points[adapter] = found
        for name in found:
            if (backend := self._by_id.get(name)) is not None and backend in candidates:
                return (name,)
        return (max(candidates, key=lambda b: weight(adapter, b.id)).id,) if len(candidates) <= _ALL else ()

    def _promising(
        self, candidates: Sequence[Backend], features: Features, homes: Sequence[str]
    ) -> Iterator[Backend]:
        """Of many: those that hold its adapter or the beginning of its prompt, and some at random."""
        seen: set[Backend] = set()
        for backend in self._interesting(features, homes):
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

    def _interesting(self, features: Features, homes: Sequence[str]) -> Iterator[Backend]:
        first = int(self.random.random() * len(homes)) if len(homes) > _MOST_HOMES else 0
        for name in (*homes[first:], *homes[:first])[:_MOST_HOMES]:
            if (backend := self._by_id.get(name)) is not None:
                yield backend
        for backend, _ in zip(self._holders.get(features.adapter or "", ()), range(_MOST_HOMES), strict=False):
            yield backend
        for block in reversed(features.blocks):
            if (found := self._last.get(block)) is not None:
                yield found
                break

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
        self._open[id(features)] = _Open(
            features, tokens, view.backlog + tokens, load, load and adapter not in view.held, new and full,
            max(view.top, rank), view.running,
        )  # fmt: skip
        view.enter(adapter, rank, tokens, features.blocks)
        if adapter is not None:
            holders = self._holders.setdefault(adapter, {})
            holders[backend] = holders.get(backend, 0) + 1
        for block in features.blocks:
            self._last[block] = backend
            self._last.move_to_end(block)
        while len(self._last) > _MOST_BLOCKS:
            self._last.popitem(last=False)

    def began(self, backend: tuple[str, int], features: Features, seconds: float) -> None:
        view, attempt = self._views.get(backend), self._open.get(id(features))
        if view is None or attempt is None or not attempt.tokens:
            return
        view.backlog -= attempt.tokens
        self._open[id(features)] = attempt._replace(tokens=0)
        if attempt.waited or not features.stream:
            return  # how long for a slot, or for the answer, and how long for the rest cannot be told
        rates, expected = view.rates, attempt.ahead * view.rates.prefill.value
        if attempt.load:
            (rates.fetch if attempt.fetched else rates.load).observe(max(0.0, seconds - expected))
        else:
            rates.prefill.observe(attempt.ahead, seconds)

    def observe(self, outcome: AttemptOutcome) -> None:
        attempt = self._open.pop(id(outcome.features), None)
        view = self._views.get(outcome.backend)
        if view is None or attempt is None:
            return
        view.backlog -= attempt.tokens
        adapter, top = outcome.features.adapter, view.top
        view.leave(adapter)
        if adapter is not None:
            self._released(adapter, outcome.backend[0])
        first, made = outcome.first_byte, outcome.tokens
        if first is None or outcome.status != 200 or not outcome.features.stream:
            return
        view.rates.decode.observe(outcome.seconds - first)
        if made > 1:
            batch = (attempt.batch + view.running) // 2
            self._tax.observe((attempt.top + top) // 2, batch, (outcome.seconds - first) / (made - 1))

    def _released(self, adapter: str, backend_id: str) -> None:
        holders, backend = self._holders.get(adapter), self._by_id.get(backend_id)
        if holders is None or backend is None or backend not in holders:
            return
        holders[backend] -= 1
        if not holders[backend]:
            del holders[backend]
            if not holders:
                del self._holders[adapter]


def _by_id(candidates: Sequence[Backend], costs: Sequence[Score]) -> dict[str, Score]:
    return {b.id: cost for b, cost in zip(candidates, costs, strict=True)}
