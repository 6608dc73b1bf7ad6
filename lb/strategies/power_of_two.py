"""Of two at random, the one with fewer requests in flight (Mitzenmacher, "The Power of Two Choices", 2001)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from lb.backend import Backend
from lb.strategies.base import RequestInfo


class PowerOfTwo:
    def __init__(self, random: Random) -> None:
        self._random = random

    def choose(self, candidates: Sequence[Backend], request: RequestInfo) -> Backend:
        if len(candidates) == 1:
            return candidates[0]
        first, second = self._random.sample(candidates, 2)
        return second if second.load < first.load else first
