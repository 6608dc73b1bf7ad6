"""Which adapters lie in an engine's slots and in its host memory, and what it takes to bring one there. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Container

from worker.sim.engine.costs import EngineCosts


class AdapterMemory:
    """``slots`` adapters that are computed with and ``places`` in host memory; what was used longest ago leaves first.
    ``swaps``: adapters brought into slots."""

    def __init__(self, costs: EngineCosts, slots: int, places: int) -> None:
        self._costs, self._slots, self._places = costs, slots, places
        self._resident: OrderedDict[str, None] = OrderedDict()
        self._held: OrderedDict[str, None] = OrderedDict()
        self.swaps = 0

    @property
    def resident(self) -> Collection[str]:
        """In slots, the one used longest ago first."""
        return self._resident.keys()

    @property
    def held(self) -> Collection[str]:
        """In host memory, likewise."""
        return self._held.keys()

    def use(self, adapter: str, rank: int, active: Container[str | None]) -> float:
        """Seconds for which nothing else runs while it comes into a slot that none of ``active`` has."""
        resident = self._resident
        if adapter in resident:
            resident.move_to_end(adapter)
            return 0.0
        if len(resident) >= self._slots:
            del resident[next(a for a in resident if a not in active)]
        resident[adapter] = None
        self.swaps += 1
        return self.hold(adapter, rank) + self._costs.load_time(rank)

    def hold(self, adapter: str, rank: int) -> float:
        """Seconds for which nothing else runs while it comes from disk into host memory."""
        seconds = 0.0 if adapter in self._held else self._costs.fetch_time(rank)
        self._held[adapter] = None
        self._held.move_to_end(adapter)
        if len(self._held) > self._places:
            self._held.popitem(last=False)
        return seconds

    def drop(self, adapter: str) -> None:
        """It is unloaded."""
        self._held.pop(adapter, None)
        self._resident.pop(adapter, None)
