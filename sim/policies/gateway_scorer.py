"""The scorers of the Gateway API inference extension (llm-d): queue depth, KV use, prefix match and LoRA affinity, each
0 to 1, weighted 2 : 2 : 3 : 1; a LoRA scores 1 where it is active, 0.8 where a slot is free, 0.6 where it waits."""

from __future__ import annotations

from collections.abc import Sequence

from lb.routing.backend import Backend
from lb.routing.strategies.base import Choice, Features
from sim.policies.base import MeteredPolicy
from worker.sim.engine.batch import BatchEngine

_QUEUE, _KV, _PREFIX, _LORA = 2.0, 2.0, 3.0, 1.0


class GatewayScorer(MeteredPolicy):
    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        engines = [self.engine(b.id) for b in candidates]
        queues = [e.lines.count for e in engines]
        low, high = min(queues), max(queues)
        scores = []
        for engine, queue in zip(engines, queues, strict=True):
            score = _QUEUE * (1.0 if high == low else (high - queue) / (high - low))
            score += _KV * (1.0 - min(1.0, engine.kv / engine.hardware.kv_tokens))
            if features.blocks:
                score += _PREFIX * engine.matches(features.adapter, features.blocks) / len(features.blocks)
            if (adapter := features.adapter) is not None:
                score += _LORA * _affinity(engine, adapter)
            scores.append(score)
        best = max(scores)
        return self.random.choice([b for b, s in zip(candidates, scores, strict=True) if s == best]), scores


def _affinity(engine: BatchEngine, adapter: str) -> float:
    if adapter in engine.active:
        return 1.0
    if len(engine.active) < engine.slots:
        return 0.8
    return 0.6 if adapter in engine.lines.by_adapter else 0.0
