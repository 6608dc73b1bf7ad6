"""The one whose first byte is expected soonest: Peak EWMA of the time to first byte, times what is in flight."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from lb.routing.backend import Backend
from lb.routing.strategies.base import Choice, Features, NoParams, Strategy
from lb.routing.strategies.round_robin import Turn

#: Requests that went elsewhere are counted so many at a time.
_AT_ONCE = 4


class ResponseTime(Strategy):
    """cost = latency x (in-flight + 1), as in Finagle's and tower's Peak EWMA. A backend not measured yet is taken
    for as quick as the quickest, so that it is tried, but not flooded; one that was slow is tried again after a number
    of requests. Among equals each in turn."""

    rule = "the least time to first byte x (requests in flight + 1); among equals in turn"
    measure = "time to first byte (s) x (requests in flight + 1)"

    def __init__(self, random: Random, params: NoParams | None = None) -> None:
        super().__init__(random, params)
        self._turn = Turn()
        self._choices = 0

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        measured = [b.latency.estimate for b in candidates if b.latency.estimate is not None]
        quickest = min(measured, default=1.0)

        def cost(backend: Backend) -> float:
            latency = backend.latency.estimate
            return (quickest if latency is None else latency) * (backend.load + 1)

        costs = [cost(b) for b in candidates]
        least = min(costs)
        chosen = self._turn.next([b for b, c in zip(candidates, costs, strict=True) if c == least])
        self._choices += 1
        if self._choices % _AT_ONCE == 0:  # counted now and then only: it is done for every request otherwise
            for backend in candidates:
                if backend is not chosen and not backend.in_flight:
                    backend.latency.passed_over(_AT_ONCE)
        return chosen, costs
