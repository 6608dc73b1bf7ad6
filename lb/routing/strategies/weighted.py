"""In proportion to the weights, spread evenly."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from lb.routing.backend import Backend
from lb.routing.strategies.base import RequestInfo, Scores


class Weighted:
    """nginx's smooth weighted round robin (``ngx_http_upstream_round_robin.c``): each round everybody gains its
    weight and the richest, chosen, pays the sum. Any run of ``sum(weights)`` choices is exactly in proportion."""

    name = "weighted"
    rule, measure = "the most gained by weight since it was chosen last", "gained by weight"
    scores: Scores | None = None

    def __init__(self, random: Random) -> None:
        self._current: dict[str, int] = {}

    def choose(self, candidates: Sequence[Backend], request: RequestInfo) -> Backend:
        weights = {b.id: b.weight for b in candidates}
        if not any(weights.values()):
            weights = dict.fromkeys(weights, 1)
        current = {name: self._current.get(name, 0) + weight for name, weight in weights.items()}
        self.scores = list(current.values())
        chosen = max(candidates, key=lambda b: current[b.id])
        current[chosen.id] -= sum(weights.values())
        self._current = current  # of those that are here now: one that comes back starts anew
        return chosen
