"""`adaptive` that is told the truth of engines without any delay, in place of what it infers: what more could be had
from metrics and KV events."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from random import Random

from lb.routing.backend import Backend
from lb.routing.strategies.adaptive import Adaptive
from lb.routing.strategies.base import AttemptOutcome, Choice, Features, Strategy
from lb.routing.worker_view import WorkerView
from sim.policies.base import MeteredPolicy
from worker.sim.engine.batch import BatchEngine


class Informed(Adaptive, MeteredPolicy):
    """``prefixes``: of prompts, which beginnings are in an engine's cache, as its KV events tell (those of requests
    that it has not read yet are added to them, as what is inferred has them); ``adapters``: which are in its slots and
    in host memory; ``load``: tokens of prompts that it has not read, whoever sent them, and what runs and waits there;
    ``memory``: whether a prompt finds no room among keys and values, and then waits as for a slot."""

    prefixes = adapters = load = memory = False

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._sent: dict[tuple[str, int], Counter[int]] = {}

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        kept = []
        for backend in candidates:
            view, engine = self._view(backend), self.engine(backend.id)
            kept.append((view, view.backlog))
            self._tell(view, engine, self._sent.get(backend.key, Counter()), features)
        try:
            return super().choose(candidates, features)
        finally:
            for view, backlog in kept:
                view.backlog = backlog

    def _tell(self, view: WorkerView, engine: BatchEngine, sent: Counter[int], features: Features) -> None:
        blocks = features.blocks
        if self.prefixes:
            found = engine.matches(features.adapter, blocks)
            while found < len(blocks) and blocks[found] in sent:
                found += 1
            view.prefixes.items = OrderedDict.fromkeys(blocks[:found])
        if self.adapters:
            view.resident.items = OrderedDict.fromkeys(engine.adapters.resident)
            view.held.items = OrderedDict.fromkeys(engine.adapters.held)
        if self.load:
            view.backlog = engine.pending_tokens()
        if self.memory and view.rates.prefill.value:
            over = engine.kv + engine.pending_tokens() + features.tokens - engine.hardware.kv_tokens
            if over > 0 and engine.running:
                seconds = view.rates.decode.value * over / engine.hardware.kv_tokens
                view.backlog += int(seconds / view.rates.prefill.value)

    def sent(self, backend: Backend, features: Features) -> None:
        super().sent(backend, features)
        self._sent.setdefault(backend.key, Counter()).update(features.blocks)

    def began(self, backend: tuple[str, int], features: Features, seconds: float) -> None:
        super().began(backend, features, seconds)
        self._forget(backend, features)

    def observe(self, outcome: AttemptOutcome) -> None:
        if outcome.first_byte is None:
            self._forget(outcome.backend, outcome.features)
        super().observe(outcome)

    def _forget(self, backend: tuple[str, int], features: Features) -> None:
        counts = self._sent.get(backend, Counter())
        counts.subtract(features.blocks)
        for block in features.blocks:
            if counts[block] <= 0:
                del counts[block]


class KnowsPrefixes(Informed):
    prefixes = True


class KnowsAdapters(Informed):
    adapters = True


class KnowsLoad(Informed):
    load = True


class KnowsMemory(Informed):
    memory = True


class KnowsAll(Informed):
    prefixes = adapters = load = memory = True


#: By what they are told.
KNOWING: Mapping[str, Callable[[Random], Strategy]] = {
    "prefixes": KnowsPrefixes, "adapters": KnowsAdapters, "load": KnowsLoad, "memory": KnowsMemory, "all": KnowsAll,
}  # fmt: skip
