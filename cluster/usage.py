"""CPU and memory of whole process trees, from /proc. Call it off the event loop: it reads every process."""

from __future__ import annotations

from collections.abc import Iterable

from worker import proc


class UsageSampler:
    """Remembers the CPU time of the sample before: a percentage needs two."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[float, float]] = {}

    def sample(self, sessions: Iterable[int], now: float) -> dict[int, tuple[float, float]]:
        """For each session (by its leader's pid) CPU in percent of one core since the sample before, and resident
        memory in MB (pages that its processes share are counted in each). ``now``: s, monotonic."""
        result = {}
        before, self._before = self._before, {}
        for session, processes in proc.sessions(sessions).items():
            cpu = sum(p.cpu for p in processes)
            memory = sum(p.rss for p in processes) / 1e6
            self._before[session] = (now, cpu)
            at, was = before.get(session, (now, cpu))
            # A process that ended takes its CPU time out of the sum: never below nothing.
            percent = max(0.0, (cpu - was) / (now - at) * 100.0) if now > at else 0.0
            result[session] = (round(percent, 1), round(memory, 1))
        return result
