"""Where what is in flight on a backend is written and read: by this process, by others on this machine (their mapped
files), and on other machines, as their supervisor tells it a few times a second. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

#: What was told longer ago (s) says nothing any more: a machine that nobody hears from, or no supervisor to tell.
_FRESH_S = 1.0

#: Where a count lies: the cells, and the index of an incarnation, behind which the count itself is.
Place = tuple[memoryview, int]


class InFlightCell:
    """One incarnation's in-flight count: ours is written as a whole, so that nothing can add up wrongly. It is the one
    ``at`` that index of ``cells``."""

    __slots__ = ("_incarnation", "at", "cells", "elsewhere")

    def __init__(
        self, cells: memoryview, at: int, incarnation: int, others: list[tuple[memoryview, int]]
    ) -> None:
        self.cells, self.at, self._incarnation, self.elsewhere = cells, at, incarnation, others

    def put(self, own: int) -> None:
        self.cells[self.at] = own

    def others(self) -> int:
        """What the other processes have in flight on the same incarnation."""
        incarnation, total = self._incarnation, 0
        for cells, at in self.elsewhere:
            if cells[at] == incarnation:
                total += cells[at + 1]
        return total


class RemoteLoads:
    """Counts in the form of those of other processes here (`lb.telemetry.shared_counters`), by backend."""

    def __init__(self) -> None:
        self._cells: dict[str, memoryview] = {}
        self._at = 0.0

    def put(self, loads: Mapping[str, int], incarnations: Mapping[str, int], now: float) -> bool:
        """``loads`` are requests by backend, all there are elsewhere; ``incarnations``: of which start of each backend
        they are taken to be; ``now``: s, monotonic. Whether there are more places than before."""
        self._at, before = now, len(self._cells)
        for backend in {*loads, *self._cells}:
            cells = self._cells.get(backend)
            if cells is None:
                cells = self._cells[backend] = memoryview(array("Q", (0, 0)))
            cells[1] = 0  # first, see `Counters.share`
            cells[0] = incarnations.get(backend, 0)
            cells[1] = max(0, loads.get(backend, 0))
        return len(self._cells) > before

    def expire(self, now: float) -> None:
        """Forgets what is old."""
        if self._cells and now - self._at > _FRESH_S:
            self._cells.clear()

    def places(self) -> dict[str, Place]:
        """Where they are read, by backend."""
        return {backend: (cells, 0) for backend, cells in self._cells.items()}
