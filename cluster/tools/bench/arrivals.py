"""When the requests of an open loop begin. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, count, takewhile
from random import Random


def poisson(rate: float, chance: Random, requests: int | None, duration: float | None) -> Iterator[float]:
    """Seconds from the beginning to each arrival of a Poisson process of ``rate`` a second, ascending: the first
    ``requests``, those within ``duration`` seconds, or what is less.

    Of ``requests`` alone the arrivals are stretched so that the last falls on ``requests / rate``, as `vllm bench
    serve` does: a short run offers the rate it was asked for, whatever the seed."""
    if requests is not None and duration is None:
        times = list(accumulate(chance.expovariate(rate) for _ in range(requests)))
        return (time * (requests / rate) / times[-1] for time in times)
    numbers = count() if requests is None else range(requests)
    endless = accumulate(chance.expovariate(rate) for _ in numbers)
    return takewhile(lambda time: duration is None or time < duration, endless)
