"""Any one."""

from __future__ import annotations

from collections.abc import Sequence

from lb.routing.backend import Backend
from lb.routing.strategies.base import Choice, Features, Strategy


class Random(Strategy):
    rule = "drawn at random"

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        return self.random.choice(candidates), None
