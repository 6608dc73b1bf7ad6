"""The one with the fewest requests in flight."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from lb.routing.backend import Backend
from lb.routing.strategies.base import RequestInfo, Scores
from lb.routing.strategies.round_robin import RoundRobin


class LeastConnections:
    """Among equals each in turn: an idle cluster would otherwise send everything to the first."""

    name = "least_connections"
    rule, measure = "the fewest requests in flight; among equals in turn", "requests in flight"
    scores: Scores | None = None

    def __init__(self, random: Random) -> None:
        self._turn = RoundRobin(random)

    def choose(self, candidates: Sequence[Backend], request: RequestInfo) -> Backend:
        self.scores = loads = [b.load for b in candidates]
        fewest = min(loads)
        return self._turn.choose([b for b, load in zip(candidates, loads, strict=True) if load == fewest], request)
