"""Each in turn."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from random import Random

from lb.routing.backend import Backend
from lb.routing.strategies.base import Choice, Features, NoParams, Strategy

_order = attrgetter("order")


class Turn:
    """Whose it is: the candidate after the one chosen last, by id. A backend that comes or goes moves nobody else's."""

    def __init__(self) -> None:
        self._last: tuple[int, str] = (-1, "")

    def next(self, candidates: Sequence[Backend]) -> Backend:
        ordered = sorted(candidates, key=_order)
        last = self._last
        for chosen in ordered:
            if chosen.order > last:
                break
        else:
            chosen = ordered[0]
        self._last = chosen.order
        return chosen


class RoundRobin(Strategy):
    rule = "its turn"

    def __init__(self, random: Random, params: NoParams | None = None) -> None:
        super().__init__(random, params)
        self._turn = Turn()

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        return self._turn.next(candidates), None
