"""What the peers' policies share: a view of each engine as its metrics tell it, here without any delay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lb.routing.strategies.base import Strategy
from worker.sim.engine.batch import BatchEngine


class MeteredPolicy(Strategy):
    """``engines`` are given to it by whoever runs it."""

    engines: Sequence[BatchEngine] = ()
    ranks: Mapping[str, int] = {}

    def placed(self, homes: Mapping[str, Sequence[str]], ranks: Mapping[str, int]) -> None:
        self.ranks = ranks

    def engine(self, backend_id: str) -> BatchEngine:
        return self.engines[int(backend_id)]
