"""The state of an adapter on all workers together, and how many of them are in which. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Mapping
from typing import Any

from cluster.adapters.registry import Registry
from cluster.fleet.held_adapters import HeldAdapters

#: Adapters that are named; the rest is counted together.
MOST = 100
OTHER = "other"


def overall(states: Collection[str]) -> str:
    """Of an adapter that is in these states on the ready workers."""
    if not states:
        return "registered"
    return next((state for state in ("refused", "loading", "lazy") if state in states), "loaded")


def states(
    registry: Registry, used: Mapping[str, float], workers: Collection[tuple[HeldAdapters, Container[str]]]
) -> dict[str, dict[str, Any]]:
    """By adapter the active version and the number of ``workers`` (what each holds, and should) in each state; first
    those that are refused somewhere, then the most recently ``used`` (s since the epoch). Above `MOST` they are
    `OTHER`, without a version."""
    counts = {name: Counter(held.state(name, wanted) for held, wanted in workers) for name in registry.adapters}
    names = sorted(counts, key=lambda name: (not counts[name]["refused"], -used.get(name, 0.0)))
    result: dict[str, dict[str, Any]] = {
        name: {"version": registry.adapters[name].active, "states": dict(counts[name])} for name in names[:MOST]
    }
    if rest := sum((counts[name] for name in names[MOST:]), Counter[str]()):
        result[OTHER] = {"version": None, "states": dict(rest)}
    return result
