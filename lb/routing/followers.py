"""A strategy, and the backends that it hears of. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lb.routing.backend import Backend
from lb.routing.strategies.base import Strategy

#: By adapter, the ids of the backends where it belongs, and its rank.
Placement = tuple[Mapping[str, Sequence[str]], Mapping[str, int]]


class Follower:
    """``strategy`` is told who of ``backends`` (by `Backend.key`) comes and goes."""

    def __init__(self, strategy: Strategy, backends: Mapping[tuple[str, int], Backend], placement: Placement) -> None:
        self.strategy, self._known = strategy, dict[tuple[str, int], Backend]()
        self.follow(backends, placement)

    def follow(self, backends: Mapping[tuple[str, int], Backend], placement: Placement) -> None:
        """Those are there now."""
        before, self._known = self._known, dict(backends)
        for key in before.keys() - backends.keys():
            self.strategy.left(before[key])
        for key in backends.keys() - before.keys():
            self.strategy.joined(backends[key])
        self.strategy.placed(*placement)
