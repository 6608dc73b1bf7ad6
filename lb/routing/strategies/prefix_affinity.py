"""Prompts that begin alike go to the same worker, as long as that has not much more to do than others: its prefix cache
has their beginning."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from lb.routing.backend import Backend
from lb.routing.hashing import BoundedHash
from lb.routing.strategies.base import Choice, Feature, Features, NoParams, Strategy
from lb.routing.strategies.least_connections import LeastConnections


class PrefixAffinity(Strategy):
    """By adapter and the first block; shorter prompts go where least is in flight."""

    rule = "the first in the order of the prompt's beginning that has at most 1.25 times the mean in flight"
    measure = "requests in flight"
    needs = frozenset({Feature.ADAPTER, Feature.BLOCKS})

    def __init__(self, random: Random, params: NoParams | None = None) -> None:
        super().__init__(random, params)
        self._hash, self._others = BoundedHash(), LeastConnections(random)

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        if not features.blocks:
            return self._others.choose(candidates, features)
        return self._hash.first(str(features.blocks[0]), candidates)
