"""New tokens of prompts times batch: the least of (tokens to read there, this prompt's included) x (requests there + 1)
(LMETRIC, 2025)."""

from __future__ import annotations

from collections.abc import Sequence

from lb.routing.backend import Backend
from lb.routing.strategies.base import Choice, Features
from sim.policies.base import MeteredPolicy
from worker.sim.engine.costs import BLOCK


class TokensTimesBatch(MeteredPolicy):
    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        costs = []
        for backend in candidates:
            engine = self.engine(backend.id)
            match = engine.matches(features.adapter, features.blocks) * BLOCK if features.blocks else 0
            costs.append((features.tokens - match + engine.pending_tokens()) * (backend.load + 1))
        least = min(costs)
        return self.random.choice([b for b, c in zip(candidates, costs, strict=True) if c == least]), costs
