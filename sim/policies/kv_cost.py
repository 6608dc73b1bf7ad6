"""NVIDIA Dynamo's KV router: the least of blocks to read (of this prompt, and of those before it) and blocks in use."""

from __future__ import annotations

from collections.abc import Sequence

from lb.routing.backend import Backend
from lb.routing.strategies.base import Choice, Features
from sim.policies.base import MeteredPolicy
from worker.sim.engine.costs import BLOCK

_OVERLAP = 1.0


class KvCost(MeteredPolicy):
    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        costs = []
        for backend in candidates:
            engine = self.engine(backend.id)
            match = engine.matches(features.adapter, features.blocks) * BLOCK if features.blocks else 0
            prefill = features.tokens - match + engine.pending_tokens()
            costs.append((_OVERLAP * prefill + engine.kv) / BLOCK)
        least = min(costs)
        return self.random.choice([b for b, c in zip(candidates, costs, strict=True) if c == least]), costs
