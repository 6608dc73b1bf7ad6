"""Does a worker answer after a sleep as it did before? Pure: numbers that it was asked for, compared.

Two answers need not be the same to the last digit: what is computed beside them changes that. Weights that were lost,
or an adapter that is not applied any more, change far more. An adapter of little effect is held to less than half of
what tells it from the base model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Of the largest number of an answer, what another may differ by.
_TOLERANCE = 0.01

#: The name of the base model's answer: no adapter is called so.
BASE = ""


@dataclass(frozen=True, slots=True)
class AnswerSample:
    """``numbers``: as `worker.probe.Target.numbers` has them, None where there are none. ``path``: of the adapter's
    files, which tells its version; empty for the base model."""

    path: str
    numbers: Any


#: What a worker answered, by adapter, and the base model's under `BASE`.
Canaries = Mapping[str, AnswerSample]


def altered(before: Canaries, after: Canaries) -> list[str]:
    """The names under which it answers otherwise; of adapters, those that are the same version as before."""
    base, found = before.get(BASE), []
    for name, now in after.items():
        was = before.get(name)
        if was is None or was.path != now.path or was.numbers is None:
            continue
        tolerance = _TOLERANCE
        if name != BASE and base is not None:
            tolerance = min(tolerance, _difference(was.numbers, base.numbers) / 2)
        if now.numbers is None or _difference(was.numbers, now.numbers) > tolerance:
            found.append(name)
    return found


def to_json(canaries: Canaries) -> dict[str, Any]:
    return {name: [canary.path, canary.numbers] for name, canary in canaries.items()}


def from_json(kept: Mapping[str, Any]) -> dict[str, AnswerSample]:
    """Inverse of `to_json`."""
    return {name: AnswerSample(path, numbers) for name, (path, numbers) in kept.items()}


def _difference(one: Any, other: Any) -> float:
    """The largest between numbers in the same place of two answers, as a share of the largest number of ``one``.
    Infinite where they are not of the same form."""
    scale = max(map(abs, _numbers(one)), default=0.0) or 1.0
    return _largest(one, other) / scale


def _numbers(found: Any) -> Iterator[float]:
    if isinstance(found, int | float):
        yield float(found)
    elif isinstance(found, dict | list):
        for value in found.values() if isinstance(found, dict) else found:
            yield from _numbers(value)


def _largest(one: Any, other: Any) -> float:
    """As `_difference`, not as a share. Of the likeliest tokens those that are in both answers count, if they are half
    of them: the last of the list may be others by little. Which token was taken tells nothing: two may be as likely."""
    if isinstance(one, dict) and isinstance(other, dict):
        common = one.keys() & other.keys()
        if 2 * len(common) < len(one):
            return math.inf
        return max((_largest(one[key], other[key]) for key in common), default=0.0)
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return math.inf
        return max((_largest(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other)
    return 0.0 if type(one) is type(other) else math.inf
