"""Each in turn."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from lb.backend import Backend
from lb.strategies.base import RequestInfo


class RoundRobin:
    """The candidate after the one chosen last, by id: a backend that comes or goes moves nobody else's turn."""

    def __init__(self, random: Random) -> None:
        self._last: tuple[int, str] = (-1, "")

    def choose(self, candidates: Sequence[Backend], request: RequestInfo) -> Backend:
        ordered = sorted(candidates, key=_order)
        chosen = next((b for b in ordered if _order(b) > self._last), ordered[0])
        self._last = _order(chosen)
        return chosen


def _order(backend: Backend) -> tuple[int, str]:
    """instance_10 comes after instance_9."""
    return (len(backend.id), backend.id)
