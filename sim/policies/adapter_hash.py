"""Each adapter on one worker, by rendezvous hash; the base model where least is in flight."""

from __future__ import annotations

from collections.abc import Sequence

from lb.routing.backend import Backend
from lb.routing.hashing import weight as rendezvous
from lb.routing.strategies.base import Choice, Features, Strategy


class AdapterHash(Strategy):
    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        name = features.adapter
        if name is None:
            return min(candidates, key=lambda b: b.load), None
        cache = self.__dict__.setdefault("_orders", {})
        if name not in cache:
            cache[name] = max(candidates, key=lambda b: rendezvous(name, b.id)).id
        return next(b for b in candidates if b.id == cache[name]), None
