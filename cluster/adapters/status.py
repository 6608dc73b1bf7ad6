"""How many workers hold an adapter, and how many should and do not: for the metrics. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.adapters.registry import Registry

#: Adapters that are named; the rest is counted together.
MOST = 100
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Held:
    """Of one ready worker: names of what it should hold, what it holds, what it refuses and what it is just being
    changed in."""

    wanted: Collection[str]
    loaded: Collection[str]
    refused: Collection[str]
    withheld: Collection[str]

    def state(self, name: str) -> str:
        """``loaded``, ``loading``, ``refused``, or ``lazy``: until somebody asks for it."""
        if name in self.loaded:
            return "loading" if name in self.withheld else "loaded"
        if name in self.refused:
            return "refused"
        return "loading" if name in self.wanted else "lazy"


def states(registry: Registry, used: Mapping[str, float], workers: Collection[Held]) -> dict[str, dict[str, Any]]:
    """By adapter the active version and the number of ``workers`` in each state; first those that are refused
    somewhere, then the most recently ``used`` (s since the epoch). Above `MOST` they are `OTHER`, without a version."""
    counts = {name: Counter(worker.state(name) for worker in workers) for name in registry.adapters}
    names = sorted(counts, key=lambda name: (not counts[name]["refused"], -used.get(name, 0.0)))
    result: dict[str, dict[str, Any]] = {
        name: {"version": registry.adapters[name].active, "states": dict(counts[name])} for name in names[:MOST]
    }
    if rest := sum((counts[name] for name in names[MOST:]), Counter[str]()):
        result[OTHER] = {"version": None, "states": dict(rest)}
    return result
