"""The one with the fewest requests in flight."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from lb.routing.backend import Backend
from lb.routing.strategies.base import Choice, Features, NoParams, Strategy
from lb.routing.strategies.round_robin import Turn


class LeastConnections(Strategy):
    """Among equals each in turn: an idle cluster would otherwise send everything to the first."""

    rule, measure = "the fewest requests in flight; among equals in turn", "requests in flight"

    def __init__(self, random: Random, params: NoParams | None = None) -> None:
        super().__init__(random, params)
        self._turn = Turn()

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        loads = [b.load for b in candidates]
        fewest = min(loads)
        return self._turn.next([b for b, load in zip(candidates, loads, strict=True) if load == fewest]), loads
