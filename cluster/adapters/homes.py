"""Where each adapter belongs while not every worker can hold all: as many homes as its work is worth, the first in its
rendezvous order that have room, and those it had before as long as nothing speaks against them. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

#: Seconds after which work counts a third.
_MEMORY_S = 15.0

#: What a batch costs more for each rank of the largest adapter in it: as `sim.hardware` assumes.
_RANK_TAX = 0.0066

#: So many rounds in a row an adapter needs fewer homes before it has fewer.
_PATIENCE = 3

#: A worker may have so many times the mean work; a home is moved for more than the other part of the mean.
_BOUND, _SLACK = 1.25, 0.25

#: Homes that are moved in one round for the sake of balance.
_MOST_MOVES = 32

#: Of so many that would do, in rendezvous order, the one whose adapters are most alike in rank is taken.
_CHOICE = 3

#: Part of the mean that an adapter counts at the least: those without work are spread too.
_IDLE = 0.05

_BUCKETS = 32
_ODD, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1


@dataclass(frozen=True, slots=True)
class HomeWorker:
    """A worker that is up. ``slots``: adapters that it computes at a time; ``places``: those it may be home of."""

    id: str
    slots: int
    places: int


class Homes:
    """Remembers from round to round what was asked of each adapter, and where it was."""

    def __init__(self, homes: Mapping[str, Sequence[str]] | None = None) -> None:
        """``homes``: where they are now."""
        self._homes = {name: tuple(ids) for name, ids in (homes or {}).items()}
        self._rates: dict[str, float] = {}
        self._fewer: dict[str, int] = {}

    def round(
        self, work: Mapping[str, float], seconds: float, ranks: Mapping[str, int], workers: Sequence[HomeWorker]
    ) -> dict[str, tuple[str, ...]]:
        """By each adapter of ``ranks`` the ids of its homes. ``work``: what was asked of it in the last ``seconds``, in
        tokens or whatever else is the same for all."""
        weights = self._weights(work, seconds, ranks)
        if not workers:
            return {}
        wanted = {n: min(count, len(workers)) for n, count in self._patient(_counts(weights, workers)).items()}
        total = sum(weights.values())
        least = _IDLE * total / len(weights) if total else 1.0
        mean = (total + least * len(weights)) / len(workers)
        plan = _HomesRound(workers, {n: (w + least) / wanted[n] for n, w in weights.items()}, mean, ranks)
        order = sorted(weights, key=lambda name: (-ranks[name], -plan.pieces[name], name))
        for turn in (plan.keep_one, plan.keep_more, plan.find_one, plan.grow):
            for name in order:
                turn(name, self._homes.get(name, ()), wanted[name])
        plan.balance()
        self._homes = {name: tuple(plan.homes[name]) for name in ranks}
        return self._homes

    def _weights(self, work: Mapping[str, float], seconds: float, ranks: Mapping[str, int]) -> dict[str, float]:
        """Of each adapter, with what its rank costs the others."""
        kept = math.exp(-seconds / _MEMORY_S)
        new = (1 - kept) / seconds if seconds > 0 else 0.0
        # In the order of names: sums depend on theirs in the last digit, and counts on sums.
        self._rates = {name: kept * self._rates.get(name, 0.0) + new * work.get(name, 0.0) for name in sorted(ranks)}
        return {name: rate * (1 + _RANK_TAX * ranks[name]) for name, rate in self._rates.items()}

    def _patient(self, counts: Mapping[str, int]) -> dict[str, int]:
        """More at once, fewer only when that has lasted."""
        before = {name: len(self._homes.get(name, ())) for name in counts}
        self._fewer = {name: self._fewer.get(name, 0) + 1 for name, count in counts.items() if count < before[name]}
        return {
            name: before[name] if 0 < self._fewer.get(name, 0) < _PATIENCE else count
            for name, count in counts.items()
        }


def _counts(weights: Mapping[str, float], workers: Sequence[HomeWorker]) -> dict[str, int]:
    """Each one's share of all slots by the largest remainder, but no more than workers that its work would fill, and at
    least 1."""
    total, slots, workers_ = sum(weights.values()), sum(w.slots for w in workers), len(workers)
    if not total:
        return dict.fromkeys(weights, 1)
    quotas = {name: weight * slots / total for name, weight in weights.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    left = slots - sum(counts.values())
    for name in sorted(quotas, key=lambda name: (counts[name] - quotas[name], name))[: max(0, left)]:
        counts[name] += 1
    filled = {name: math.ceil(weight * workers_ / total - 1e-9) for name, weight in weights.items()}
    return {name: max(1, min(count, filled[name], workers_)) for name, count in counts.items()}


class _HomesRound:
    """One round. ``pieces``: the work of each adapter on each of its homes; ``mean``: that of a worker."""

    def __init__(
        self, workers: Sequence[HomeWorker], pieces: Mapping[str, float], mean: float, ranks: Mapping[str, int]
    ) -> None:
        self.pieces, self._ranks = pieces, ranks
        self.homes: dict[str, list[str]] = {name: [] for name in pieces}
        self._free = {w.id: w.places for w in workers}
        self._loads = {w.id: 0.0 for w in workers}
        self._tops: dict[str, int] = {}
        self._at: dict[str, dict[str, None]] = {w.id: {} for w in workers}
        self._order = _RendezvousOrder(list(self._free))
        self._bound, self._slack = _BOUND * mean, _SLACK * mean

    # in turn, for each adapter: ``before`` are its homes until now, ``count`` how many it is to have

    def keep_one(self, name: str, before: Sequence[str], count: int) -> None:
        if (found := next((w for w in before if self._free.get(w, 0) > 0), None)) is not None:
            self._add(name, found)

    def keep_more(self, name: str, before: Sequence[str], count: int) -> None:
        for worker in before:
            if len(self.homes[name]) < count and worker not in self.homes[name] and self._free.get(worker, 0) > 0:
                self._add(name, worker)

    def find_one(self, name: str, before: Sequence[str], count: int) -> None:
        """Wherever there is room; where there is none, that of another's further home; else in spite of that."""
        if self.homes[name]:
            return
        found = self._find(name)
        if found is None and (spare := self._spare()) is not None:
            self._remove(*spare)
            found = spare[1]
        if found is None:
            found = next((w for w in before if w in self._free), None)
        if found is None:  # the least crowded
            found = max(self._order.of(name), key=self._free.__getitem__)
        self._add(name, found)

    def grow(self, name: str, before: Sequence[str], count: int) -> None:
        while len(self.homes[name]) < count and (found := self._find(name)) is not None:
            self._add(name, found)

    def balance(self) -> None:
        """Moves homes from those with much work to the one with the least that has room."""
        for _ in range(_MOST_MOVES):
            loads = self._loads
            with_room = [w for w, free in self._free.items() if free > 0]
            if not with_room:
                return
            to = min(with_room, key=lambda w: (loads[w], w))
            busy = sorted((w for w in loads if loads[w] - loads[to] > self._slack), key=lambda w: (-loads[w], w))
            move = next((m for w in busy if (m := self._movable(w, to)) is not None), None)
            if move is None:
                return
            name, worker = move
            self._remove(name, worker)
            self._add(name, to)

    # how

    def _movable(self, worker: str, to: str) -> tuple[str, str] | None:
        """What makes the two most alike."""
        gap = self._loads[worker] - self._loads[to]
        names = [n for n in self._at[worker] if self.pieces[n] < 0.9 * gap and to not in self.homes[n]]
        if not names:
            return None
        return min(names, key=lambda n: (abs(self.pieces[n] - gap / 2), n)), worker

    def _find(self, name: str) -> str | None:
        """A worker with room that has not got it: in its order the first that are not too busy, of them the one of
        like ranks; else the least busy."""
        piece, homes, free, loads = self.pieces[name], self.homes[name], self._free, self._loads
        bound, rank = self._bound, self._ranks[name]
        good: list[str] = []
        for worker in self._order.of(name):
            if free[worker] > 0 and loads[worker] + piece <= bound and worker not in homes:
                good.append(worker)
                if len(good) == _CHOICE:
                    break
        if good:
            return min(good, key=lambda w: abs(self._tops.get(w, rank + 1) - rank))
        left = [w for w in free if free[w] > 0 and w not in homes]
        return min(left, key=lambda w: (loads[w], w)) if left else None

    def _spare(self) -> tuple[str, str] | None:
        """The further home with the least work."""
        spare = [(self.pieces[name], name) for name, homes in self.homes.items() if len(homes) > 1]
        if not spare:
            return None
        name = min(spare)[1]
        return name, self.homes[name][-1]

    def _add(self, name: str, worker: str) -> None:
        self.homes[name].append(worker)
        self._at[worker][name] = None
        self._free[worker] -= 1
        self._loads[worker] += self.pieces[name]
        self._tops[worker] = max(self._tops.get(worker, 0), self._ranks[name])

    def _remove(self, name: str, worker: str) -> None:
        self.homes[name].remove(worker)
        del self._at[worker][name]
        self._free[worker] += 1
        self._loads[worker] -= self.pieces[name]
        self._tops[worker] = max((self._ranks[n] for n in self._at[worker]), default=0)


class _RendezvousOrder:
    """Workers in a name's order, whoever else comes and goes (Thaler and Ravishankar, "Using name-based mappings to
    increase hit rates", 1998): buckets, then those in each, so that the first of a thousand cost no thousand hashes."""

    def __init__(self, workers: Iterable[str]) -> None:
        buckets: dict[int, list[tuple[int, str]]] = {}
        for worker in workers:
            number = _hash(worker)
            buckets.setdefault(number % _BUCKETS, []).append((number, worker))
        self._buckets = [(_hash(f"bucket {number}"), within) for number, within in sorted(buckets.items())]

    def of(self, name: str) -> Iterator[str]:
        own = _hash(name)
        mixed: Callable[[tuple[int, object]], int] = lambda each: (own ^ each[0]) * _ODD & _MASK  # noqa: E731
        for _, within in sorted(self._buckets, key=mixed):
            for _, worker in sorted(within, key=mixed):
                yield worker


@lru_cache(maxsize=8192)
def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
