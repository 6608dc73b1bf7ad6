"""What the peers' policies share: a view of each engine as its metrics tell it, here without any delay."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from lb.routing.strategies.base import Strategy
from worker.sim.engine.batch import BatchEngine


class MeteredPolicy(Strategy):
    """Gets access to the engines from whoever runs it (`bind`)."""

    engines: Sequence[BatchEngine] = ()
    ranks: Mapping[str, int] = {}

    def placed(self, homes: Mapping[str, Sequence[str]], ranks: Mapping[str, int]) -> None:
        self.ranks = ranks

    def engine(self, backend_id: str) -> BatchEngine:
        return self.engines[int(backend_id)]


def bind(strategy: Strategy, engines: Sequence[BatchEngine]) -> None:
    if isinstance(strategy, MeteredPolicy):
        strategy.engines = engines


def rendezvous(name: str, backend_id: str) -> int:
    """Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998."""
    return int.from_bytes(hashlib.blake2b(f"{name}\0{backend_id}".encode(), digest_size=8).digest(), "big")
