"""In proportion to the weights, spread evenly."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from lb.routing.backend import Backend
from lb.routing.strategies.base import Choice, Features, NoParams, Strategy


class Weighted(Strategy):
    """nginx's smooth weighted round robin (``ngx_http_upstream_round_robin.c``): each round everybody gains its
    weight and the richest, chosen, pays the sum. Any run of ``sum(weights)`` choices is exactly in proportion."""

    rule, measure = "the most gained by weight since it was chosen last", "gained by weight"

    def __init__(self, random: Random, params: NoParams | None = None) -> None:
        super().__init__(random, params)
        self._current: dict[tuple[str, int], int] = {}

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        weights = {b.key: b.weight for b in candidates}
        if not any(weights.values()):
            weights = dict.fromkeys(weights, 1)
        current = {key: self._current.get(key, 0) + weight for key, weight in weights.items()}
        scores = list(current.values())
        chosen = max(candidates, key=lambda b: current[b.key])
        current[chosen.key] -= sum(weights.values())
        self._current = current  # of those that are here now: one that comes back starts anew
        return chosen, scores
