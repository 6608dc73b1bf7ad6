"""Of two at random, the one with fewer requests in flight (Mitzenmacher, "The Power of Two Choices", 2001)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from lb.routing.backend import Backend
from lb.routing.strategies.base import RequestInfo, Scores


class PowerOfTwo:
    name = "power_of_two"
    rule, measure = "the one with fewer requests in flight of two drawn at random", "requests in flight"
    scores: Scores | None = None

    def __init__(self, random: Random) -> None:
        self._random = random

    def choose(self, candidates: Sequence[Backend], request: RequestInfo) -> Backend:
        if len(candidates) == 1:
            self.scores = None
            return candidates[0]
        first, second = self._random.sample(candidates, 2)
        of_first, of_second = first.load, second.load
        self.scores = {first.id: of_first, second.id: of_second}
        return second if of_second < of_first else first
