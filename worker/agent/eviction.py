"""Which adapters a node gives up so that another has room. Pure: times are arguments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

#: What each counts for at the least (bytes): it bounds how many there are.
LEAST = 1024 * 1024


class NoRoom(Exception):
    """What workers hold leaves too little."""


@dataclass(frozen=True, slots=True)
class CachedAdapter:
    """``size`` in bytes; ``used``: when a worker was given it last (s, of any clock)."""

    size: int
    used: float


def evicted(kept: Mapping[str, CachedAdapter], held: Collection[str], needed: int, most: int) -> tuple[str, ...]:
    """Of ``kept``, what has to go so that ``needed`` bytes more are within ``most``: nothing of ``held``, and else the
    least recently used first. Raises NoRoom where that is not enough."""
    spare = most - max(needed, LEAST) - sum(max(one.size, LEAST) for one in kept.values())
    gone = []
    for content in sorted(kept.keys() - set(held), key=lambda content: (kept[content].used, content)):
        if spare >= 0:
            break
        gone.append(content)
        spare += max(kept[content].size, LEAST)
    if spare < 0:
        raise NoRoom(f"the adapters that workers there hold leave no room for {needed} bytes more within {most}")
    return tuple(gone)
