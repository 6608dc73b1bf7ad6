"""Who waits for a place in the batch, in a line for each adapter. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar


class InLine(Protocol):
    """``sequence``: lower came first; ``prompt``: tokens."""

    adapter: str | None
    sequence: int
    prompt: int


J = TypeVar("J", bound=InLine)


class Lines(Generic[J]):
    """``by_adapter`` has no empty line. ``count`` wait, with so many ``tokens`` of prompts."""

    def __init__(self) -> None:
        self.by_adapter: dict[str | None, deque[J]] = {}
        self.count = self.tokens = 0
        self._oldest: list[tuple[int, str | None]] = []  # of adapters that wait, lazily

    def enter(self, job: J) -> None:
        line = self.by_adapter.get(job.adapter)
        if line is None:
            line = self.by_adapter[job.adapter] = deque()
        if not line or job.sequence < line[0].sequence:
            line.appendleft(job)
            heappush(self._oldest, (job.sequence, job.adapter))
        else:
            line.append(job)
        self.count += 1
        self.tokens += job.prompt

    def first(self, active: Mapping[str | None, int], slots: int) -> J | None:
        """The oldest that may run now, while ``active`` adapters have slots."""
        best: J | None = None
        waiting = self.by_adapter
        for adapter in active if len(active) <= len(waiting) else [a for a in waiting if a in active]:
            line = waiting.get(adapter)
            if line and (best is None or line[0].sequence < best.sequence):
                best = line[0]
        if (line := waiting.get(None)) and (best is None or line[0].sequence < best.sequence):
            best = line[0]
        if len(active) < slots:
            oldest = self._oldest
            while oldest:
                sequence, adapter = oldest[0]
                line = waiting.get(adapter)
                if line and line[0].sequence == sequence and adapter not in active:
                    if best is None or sequence < best.sequence:
                        best = line[0]
                    break
                heappop(oldest)
        return best

    def leave(self, job: J) -> None:
        line = self.by_adapter[job.adapter]
        line.remove(job)
        self.count -= 1
        self.tokens -= job.prompt
        if line:
            heappush(self._oldest, (line[0].sequence, job.adapter))
        else:
            del self.by_adapter[job.adapter]

    def released(self, adapter: str | None) -> None:
        """It has no slot any more: who waits for it has to wait for one like any other again."""
        if line := self.by_adapter.get(adapter):
            heappush(self._oldest, (line[0].sequence, adapter))
