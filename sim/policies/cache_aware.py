"""SGLang's and vllm-router's cache-aware policy: where the loads differ by more than 64 and by more than a half, the
shortest queue; else the longest match of the prompt in an approximate tree a worker, if it is more than half of the
prompt, else the worker with the smallest tree."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from lb.routing.backend import Backend
from lb.routing.strategies.base import Choice, Features, Strategy
from worker.sim.engine.costs import BLOCK

_MATCH, _ABSOLUTE, _RELATIVE, _TREE = 0.5, 64, 1.5, 420_000 // BLOCK


class CacheAware(Strategy):
    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        trees = self.__dict__.setdefault("_trees", {b.id: OrderedDict() for b in candidates})
        loads = [b.load for b in candidates]
        if max(loads) - min(loads) > _ABSOLUTE and max(loads) > _RELATIVE * min(loads):
            chosen = candidates[loads.index(min(loads))]
        else:
            keys = [(features.adapter, block) for block in features.blocks]
            matches = [_match(trees[b.id], keys) for b in candidates]
            best = max(matches)
            if keys and best / len(keys) > _MATCH:
                chosen = candidates[matches.index(best)]
            else:
                least = min(len(trees[b.id]) for b in candidates)
                chosen = self.random.choice([b for b in candidates if len(trees[b.id]) == least])
        tree = trees[chosen.id]
        for block in features.blocks:
            tree[(features.adapter, block)] = None
            tree.move_to_end((features.adapter, block))
        if not features.blocks:
            tree[(features.adapter, -len(tree) - 1)] = None
        while len(tree) > _TREE:
            tree.popitem(last=False)
        return chosen, None


def _match(tree: OrderedDict[tuple[str | None, int], None], keys: Sequence[tuple[str | None, int]]) -> int:
    found = 0
    for key in keys:
        if key not in tree:
            break
        found += 1
    return found
