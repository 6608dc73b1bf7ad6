"""What would make it fit: each remedy is tried with the same arithmetic before it is named. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cluster.tools.sizing.fit import Fit, Hardware, Load, best
from cluster.tools.sizing.memory import GIB, Weights
from cluster.tools.sizing.model import DTYPE_BYTES, ModelShape

_MOST_GPUS = 64
_LEAST_CONTEXT = 128

#: GiB of the GPUs that there are.
_GPU_SIZES = (16, 24, 32, 40, 48, 64, 80, 96, 141, 180, 192, 288)
_MAIN_SIZES = tuple(8 << step for step in range(10))


@dataclass(frozen=True, slots=True)
class Case:
    """A question put to `best`."""

    model: ModelShape
    weights: Weights
    ask: Load
    place: Hardware
    ranks: int | None = None

    def answer(self) -> Fit:
        return best(self.model, self.weights, self.ask, self.place, self.ranks)


def find(case: Case) -> list[str]:
    """Sentences without a full stop, cheapest first; [] where nothing helps."""
    now = case.answer()
    first = [f"--concurrency {now.holds}; more requests at a time wait for each other"] if now.holds else []
    found = (_first(options) for options in (
        _contexts(case), _adapters(case), _caches(case), _gpus(case), _memories(case), _weights(case),
    ))  # fmt: skip
    return [*first, *(text for text in found if text)]


def _first(options: Iterator[tuple[str, Case]]) -> str | None:
    return next((text for text, case in options if case.answer().enough), None)


def _contexts(case: Case) -> Iterator[tuple[str, Case]]:
    context = case.ask.context // 2
    while context >= _LEAST_CONTEXT:
        yield f"--context {context}", replace(case, ask=replace(case.ask, context=context))
        context //= 2


def _adapters(case: Case) -> Iterator[tuple[str, Case]]:
    number = case.ask.adapters // 2
    while number:
        yield f"--adapters {number} in use at a time on an instance", replace(
            case, ask=replace(case.ask, adapters=number)
        )
        number //= 2


def _caches(case: Case) -> Iterator[tuple[str, Case]]:
    if case.ask.kv_dtype == "auto" and case.place.gpus:
        yield "--kv-cache-dtype fp8: a cache of half the size, a little less exact", replace(
            case, ask=replace(case.ask, kv_dtype="fp8")
        )
    if case.ask.cpu_kv is not None:
        yield "another size of the cache: leave --cpu-kv-gib away to have it computed", replace(
            case, ask=replace(case.ask, cpu_kv=None)
        )


def _gpus(case: Case) -> Iterator[tuple[str, Case]]:
    number = case.place.gpus * 2
    while 0 < number <= _MOST_GPUS:
        yield f"{number} GPUs of {_whole(case.place.memory)} GiB", replace(
            case, place=replace(case.place, gpus=number), ranks=None
        )
        number *= 2


def _memories(case: Case) -> Iterator[tuple[str, Case]]:
    """More of it in each GPU, or in the machine."""
    gpus = case.place.gpus
    plural = "GPU" if gpus == 1 else "GPUs"
    for size in _GPU_SIZES if gpus else _MAIN_SIZES:
        if size * GIB > case.place.memory:
            text = f"{gpus} {plural} of {size} GiB" if gpus else f"{size} GiB of main memory"
            yield text, replace(case, place=replace(case.place, memory=size * GIB))


def _weights(case: Case) -> Iterator[tuple[str, Case]]:
    if case.model.quantization is not None:
        return
    for bits in (8, 4):
        smaller = Weights(case.weights.bytes * bits // (8 * DTYPE_BYTES[case.model.dtype]), None, False)
        yield f"a checkpoint of the model with weights of {bits} bits (about {smaller.bytes / GIB:.1f} GiB)", replace(
            case, weights=smaller
        )


def _whole(number: int) -> int:
    return round(number / GIB)


