"""What clients are shown of adapters: each with its state on every ready worker, and on all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping
from typing import Any

from cluster.adapters.agent import Agents, Holder
from cluster.adapters.inventory import Inventory
from cluster.adapters.registry import Adapter, Registry
from cluster.fleet.groups import DEFAULT
from cluster.fleet.instance import HeldAdapters

#: Adapters that are named; the rest is counted together.
MOST = 100
OTHER = "other"


class AdapterReport:
    def __init__(self, inventory: Inventory, agents: Agents) -> None:
        self._inventory, self._agents = inventory, agents

    def every(self) -> list[dict[str, Any]]:
        return [self.describe(adapter) for adapter in self._inventory.registry.adapters.values()]

    def find(self, name: str) -> dict[str, Any]:
        """With its versions. Raises Refused."""
        return self.describe(self._inventory.known(name), versions=True)

    def answer(self, name: str) -> dict[str, Any]:
        """To whoever changed that one. Raises Refused."""
        adapter = self._inventory.known(name)
        instances = {i: s["state"] for i, s in self._instances(adapter).items()}
        return {
            "lora_name": name, "version": adapter.active, "state": overall(instances.values()),
            "instances": instances,
        }  # fmt: skip

    def describe(self, adapter: Adapter, versions: bool = False) -> dict[str, Any]:
        """One entry of `GET /v1/lora_adapters`."""
        current, instances = adapter.current, self._instances(adapter)
        states = {i["state"] for i in instances.values()}
        shown: dict[str, Any] = {
            "lora_name": adapter.name, "version": adapter.active,
            "state": "rolling" if adapter.name in self._inventory.trials else overall(states),
            "description": adapter.description, "rank": current.rank, "size": current.size,
            "base_model": current.base_model, "auto_load": adapter.auto_load, "instances": instances,
            **({} if adapter.group == DEFAULT else {"model": adapter.group}),
        }  # fmt: skip
        if versions:
            shown["versions"] = [
                {"version": v.number, "hash": v.hash, "rank": v.rank, "target_modules": list(v.target_modules),
                 "base_model": v.base_model, "source": v.source, "size": v.size, "created": v.created,
                 "active": v.number == adapter.active}
                for v in adapter.versions
            ]  # fmt: skip
        return shown

    def states(self) -> dict[str, dict[str, Any]]:
        """For `/metrics`: see `states`."""
        workers = [
            (holder.group, holder.adapters, self._inventory.wanted(holder.id))
            for holder, _ in self._agents.ready()
        ]
        return states(self._inventory.registry, self._inventory.used, workers)

    def totals(self, workers: Iterable[str]) -> dict[str, float]:
        """For `/metrics`, see `Agents.totals`."""
        totals = self._agents.totals(workers)
        return {
            "adapters": len(self._inventory.registry.adapters), "rollbacks": self._inventory.rollbacks,
            "loads": totals.loads, "load_failures": totals.failures, "drift_repairs": totals.drift_repairs,
            "load_seconds": round(totals.load_seconds, 3),
        }  # fmt: skip

    def _instances(self, adapter: Adapter) -> dict[str, dict[str, Any]]:
        """State, version and reason by ready worker."""
        numbers = adapter.numbers()
        ready = self._agents.ready(adapter.group)
        return {holder.id: self._on(holder, adapter.name, numbers) for holder, _ in ready}

    def _on(self, holder: Holder, name: str, numbers: Mapping[str, int]) -> dict[str, Any]:
        path, refusal = holder.adapters.loaded.get(name), holder.adapters.refused.get(name)
        return {
            "state": holder.adapters.state(name, self._inventory.wanted(holder.id)),
            "version": numbers.get(path) if path is not None else None,
            "reason": refusal.reason if refusal else "",
        }  # fmt: skip


def overall(states: Collection[str]) -> str:
    """Of an adapter that is in these states on the ready workers."""
    if not states:
        return "registered"
    return next((state for state in ("refused", "loading", "loaded") if state in states), "lazy")


def states(
    registry: Registry, used: Mapping[str, float], workers: Collection[tuple[str, HeldAdapters, Container[str]]]
) -> dict[str, dict[str, Any]]:
    """By adapter the active version and the number of ``workers`` of its model (the group of each, what it holds, and
    should) in each state; first those that are refused somewhere, then the most recently ``used`` (s since the epoch).
    Above `MOST` they are `OTHER`, without a version."""
    counts = {
        name: Counter(held.state(name, wanted) for group, held, wanted in workers if group == adapter.group)
        for name, adapter in registry.adapters.items()
    }
    names = sorted(counts, key=lambda name: (not counts[name]["refused"], -used.get(name, 0.0)))
    result: dict[str, dict[str, Any]] = {
        name: {"version": registry.adapters[name].active, "states": dict(counts[name])} for name in names[:MOST]
    }
    if rest := sum((counts[name] for name in names[MOST:]), Counter[str]()):
        result[OTHER] = {"version": None, "states": dict(rest)}
    return result
