"""How requests spread over adapters. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from config.errors import nearest

_KINDS = ("zipf", "uniform")


@dataclass(frozen=True, slots=True)
class Mix:
    """The n-th of the adapters is asked in proportion to ``1 / n ** exponent``; 0: all alike."""

    exponent: float

    def weights(self, count: int) -> list[float]:
        """The share of each of ``count`` adapters; they add up to 1."""
        raw = [(number + 1) ** -self.exponent for number in range(count)]
        return [weight / sum(raw) for weight in raw]

    def choose(self, names: Sequence[str], chance: Random) -> Iterator[str]:
        """Endless."""
        sums = list(accumulate(self.weights(len(names))))
        while True:
            yield chance.choices(names, cum_weights=sums)[0]


def parse_mix(text: str) -> Mix:
    """`uniform`, `zipf` or `zipf:EXPONENT`. Raises ValueError with a sentence."""
    kind, colon, exponent = text.partition(":")
    if kind not in _KINDS:
        raise ValueError(f"{text!r} is neither uniform nor zipf:EXPONENT{nearest(kind, _KINDS)}")
    if kind == "uniform":
        if colon:
            raise ValueError(f"{text!r}: uniform takes no exponent")
        return Mix(0.0)
    try:
        value = float(exponent) if colon else 1.0
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise ValueError(f"{text!r}: the exponent has to be a number from 0 to 100, as in zipf:1.0")
    return Mix(value)
