"""Toppings' rank-aware scheduler: where the request costs those that are there the least, by a model of the step's time
that knows the ranks (Li et al., "Toppings: CPU-assisted, rank-aware adapter serving", 2025)."""

from __future__ import annotations

from collections.abc import Sequence

from lb.routing.backend import Backend
from lb.routing.strategies.base import Choice, Features
from sim.policies.base import MeteredPolicy
from worker.sim.engine.batch import BatchEngine


class RankAware(MeteredPolicy):
    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        costs = [self._cost(self.engine(b.id), features) for b in candidates]
        least = min(costs)
        return self.random.choice([b for b, c in zip(candidates, costs, strict=True) if c == least]), costs

    def _cost(self, engine: BatchEngine, features: Features) -> float:
        hardware, batch = engine.hardware, engine.running + engine.lines.count
        before = max((self.ranks.get(a, 0) for a in engine.active if a), default=0)
        after = max(before, self.ranks.get(features.adapter or "", 0))

        def step(sequences: int, rank: int) -> float:
            context = engine.kv * hardware.context_token
            return (hardware.step + sequences * hardware.sequence + context) * hardware.tax(rank)

        prefill = (features.tokens + engine.pending_tokens()) * hardware.prefill_token * hardware.prefill_tax(after)
        return prefill + (step(batch + 1, after) - step(batch, before)) * max(1, batch)
