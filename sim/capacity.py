"""How many workers carry a load within its goals, and what memory their adapters take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, cycle, islice
from random import Random

from lb.routing.strategies.adaptive import Adaptive
from sim.comparison import TPOT, TTFT
from sim.scenarios import Workload
from sim.simulation import Result, Setting, run
from sim.traces import TraceRow

#: More workers than this are not tried.
_MOST = 1024

#: What a worker keeps in host memory, for each of its slots: four times as many adapters.
_HELD = 4


@dataclass(frozen=True, slots=True)
class Capacity:
    """The fewest ``workers`` with so many ``slots`` that do; None: not even the most that are tried. ``gpu_bytes`` are
    those of a worker's slots, each for the largest rank as vLLM has it, ``host_bytes`` those of the adapters that a
    worker keeps in host memory."""

    slots: int
    held: int
    gpu_bytes: float
    host_bytes: float
    workers: int | None
    result: Result | None


def arrivals(rows: Sequence[TraceRow], rate: float, count: int, seed: int) -> list[TraceRow]:
    """``count`` requests with the lengths of ``rows`` in turn, ``rate`` a second, as a Poisson process."""
    random = Random(seed)
    times = accumulate(random.expovariate(rate) for _ in range(count))
    return [replace(row, at=at) for row, at in zip(islice(cycle(rows), count), times, strict=True)]


def capacities(workload: Workload, setting: Setting, slots: Sequence[int], share: float) -> Iterator[Capacity]:
    """For each of ``slots``: what keeps ``share`` of the requests within the goals, routed by `adaptive`."""
    ranks, each = [a.rank for a in workload.adapters], setting.hardware.adapter_bytes_rank
    for number in slots:
        held = min(workload.count, _HELD * number)
        machine = replace(setting, slots=number, host_adapters=max(1, held))
        workers, result = _fewest(workload, machine, share)
        gpu, host = number * max(ranks, default=0) * each, held * sum(ranks) / max(1, len(ranks)) * each
        yield Capacity(number, held, gpu, host, workers, result)


def _fewest(workload: Workload, setting: Setting, share: float) -> tuple[int | None, Result | None]:
    def carried(workers: int) -> Result | None:
        result = run(workload.at(1.0), Adaptive, replace(setting, workers=workers))
        return result if result.goodput(TTFT, TPOT) >= share else None

    high, found = 1, carried(1)
    while found is None:
        if high >= _MOST:
            return None, None
        high *= 2
        found = carried(high)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if (result := carried(middle)) is None:
            low = middle
        else:
            high, found = middle, result
    return high, found
