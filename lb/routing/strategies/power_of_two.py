"""Of two at random, the one with fewer requests in flight (Mitzenmacher, "The Power of Two Choices", 2001)."""

from __future__ import annotations

from collections.abc import Sequence

from lb.routing.backend import Backend
from lb.routing.strategies.base import Choice, Features, Strategy


class PowerOfTwo(Strategy):
    rule, measure = "the one with fewer requests in flight of two drawn at random", "requests in flight"

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        if len(candidates) == 1:
            return candidates[0], None
        first, second = self.random.sample(candidates, 2)
        of_first, of_second = first.load, second.load
        return second if of_second < of_first else first, {first.id: of_first, second.id: of_second}
