"""Each in turn."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from random import Random

from lb.routing.backend import Backend
from lb.routing.strategies.base import RequestInfo, Scores

_order = attrgetter("order")


class RoundRobin:
    """The candidate after the one chosen last, by id: a backend that comes or goes moves nobody else's turn."""

    name = "round_robin"
    rule, measure = "its turn", ""
    scores: Scores | None = None

    def __init__(self, random: Random) -> None:
        self._last: tuple[int, str] = (-1, "")

    def choose(self, candidates: Sequence[Backend], request: RequestInfo) -> Backend:
        ordered = sorted(candidates, key=_order)
        last = self._last
        for chosen in ordered:
            if chosen.order > last:
                break
        else:
            chosen = ordered[0]
        self._last = chosen.order
        return chosen
