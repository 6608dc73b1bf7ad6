"""Any one."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random as Source

from lb.routing.backend import Backend
from lb.routing.strategies.base import RequestInfo, Scores


class Random:
    name = "random"
    rule, measure = "drawn at random", ""
    scores: Scores | None = None

    def __init__(self, random: Source) -> None:
        self._random = random

    def choose(self, candidates: Sequence[Backend], request: RequestInfo) -> Backend:
        return self._random.choice(candidates)
