"""What fits on a machine, and what would make it fit. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cluster.fleet.placement import CPU_MOST
from cluster.tools.sizing import memory
from cluster.tools.sizing.memory import GIB, UTILIZATION, Cache, Weights
from cluster.tools.sizing.model import ModelShape

#: Of main memory; the rest is the system's (`cluster.fleet.placement` counts the same).
CPU_SHARE = 0.9

_MOST_RANKS = 64


@dataclass(frozen=True, slots=True)
class Load:
    """``concurrency`` requests of ``context`` tokens each at the same time, over all instances. ``adapters`` are in use
    at the same time on each instance, of up to ``rank``. ``cpu_kv``: the cache of an instance on a CPU, bytes; None:
    what is needed."""

    adapters: int
    rank: int
    context: int
    concurrency: int
    kv_dtype: str = "auto"
    cpu_kv: int | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """``gpus`` of ``memory`` bytes each or, with none, main memory and the ``cores`` beside it. ``process``: bytes that
    an engine without GPU takes for itself; ``share``: of a GPU's memory, what its workers may take."""

    gpus: int
    memory: int
    cores: int = 1
    process: int = 0
    share: float = UTILIZATION


@dataclass(frozen=True, slots=True)
class Fit:
    """``instances`` over ``ranks`` GPUs each. Bytes are of one GPU, or of one instance on a CPU: ``room`` is what is
    left for the cache, ``kv`` what of it the cache takes."""

    ranks: int
    instances: int
    budget: int
    weights: int
    adapters: int
    overhead: int
    kv: int
    cache: Cache
    ask: Load

    @property
    def room(self) -> int:
        return self.budget - self.weights - self.adapters - self.overhead

    @property
    def runs(self) -> bool:
        """vLLM starts only if one request of the longest context fits."""
        return self.instances > 0 and self.kv <= self.room and self.blocks >= self.cache.request_blocks(
            self.ask.context
        )

    @property
    def blocks(self) -> int:
        return self.cache.blocks(self.kv)

    @property
    def tokens(self) -> int:
        return self.cache.tokens(self.kv, self.ask.context)

    @property
    def holds(self) -> int:
        """Requests of the whole context at the same time, on all instances."""
        return self.instances * int(self.cache.at_once(self.kv, self.ask.context)) if self.runs else 0

    @property
    def enough(self) -> bool:
        return self.holds >= self.ask.concurrency

    @property
    def needed(self) -> int:
        """Bytes of one GPU, or of one instance, for what was asked."""
        each = -(-self.ask.concurrency // max(1, self.instances))
        return self.weights + self.adapters + self.overhead + each * self.cache.request_bytes(self.ask.context)

    @property
    def least(self) -> int:
        """The same for a single request."""
        return self.weights + self.adapters + self.overhead + self.cache.request_bytes(self.ask.context)


def on_gpus(model: ModelShape, weights: Weights, ask: Load, place: Hardware, ranks: int) -> Fit:
    """With ``ranks`` GPUs an instance, and as many instances as there are GPUs for."""
    budget = int(place.memory * place.share)
    cache = memory.cache(model, ranks, ask.kv_dtype, on_gpu=True, gpu_memory=place.memory)
    fit = Fit(
        ranks, place.gpus // ranks, budget, weights.each(model, ranks),
        memory.adapters(model, ranks, ask.adapters, ask.rank), memory.gpu_overhead(model, ranks, place.memory), 0,
        cache, ask,
    )  # fmt: skip
    return replace(fit, kv=max(0, fit.room))


def on_cpu(model: ModelShape, weights: Weights, ask: Load, place: Hardware, instances: int) -> Fit:
    """Adapters are there twice: as they were read, and in the room set aside for those in use."""
    cache = memory.cache(model, 1, ask.kv_dtype, on_gpu=False)
    fit = Fit(
        1, instances, int(place.memory * CPU_SHARE) // instances, weights.bytes,
        2 * memory.adapters(model, 1, ask.adapters, ask.rank), place.process, 0, cache, ask,
    )  # fmt: skip
    wanted = -(-ask.concurrency // instances) * cache.request_bytes(ask.context)
    wanted = math.ceil(wanted / (GIB // 4)) * (GIB // 4)
    if wanted > fit.room >= cache.request_bytes(ask.context):
        wanted = fit.room // (GIB // 100) * (GIB // 100)  # as much as there is, in a number that can be typed
    return replace(fit, kv=wanted if ask.cpu_kv is None else ask.cpu_kv)


def tensor_sizes(model: ModelShape, gpus: int) -> Iterator[int]:
    """Powers of two that divide the attention heads, as vLLM wants it."""
    ranks = 1
    while ranks <= min(gpus, _MOST_RANKS) and model.heads % ranks == 0:
        yield ranks
        ranks *= 2


def best(model: ModelShape, weights: Weights, ask: Load, place: Hardware, ranks: int | None = None) -> Fit:
    """The most instances that hold what was asked; else what holds most; else what comes nearest to one request."""
    if place.gpus:
        sizes = [ranks] if ranks else list(tensor_sizes(model, place.gpus))
        fits = [on_gpus(model, weights, ask, place, size) for size in sizes]
    else:
        most = max(1, min(place.cores, CPU_MOST))
        fits = [on_cpu(model, weights, ask, place, number) for number in range(most, 0, -1)]
    enough = next((fit for fit in fits if fit.enough), None)
    if enough is not None:
        return enough
    return max(fits, key=lambda fit: (fit.holds, fit.budget - fit.least))
