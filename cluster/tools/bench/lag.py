"""Whether the client itself was late: how much later than planned its event loop wakes, and how busy its process is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from cluster.tools.bench.stats import percentile

#: How often (s) it is looked at.
_EVERY = 0.02

#: From here on the client's own figures are to be doubted: milliseconds, and the share of one core.
_LATE_MS, _BUSY = 10.0, 0.9


@dataclass
class Lag:
    """Of one event loop, from `watch` on."""

    _late: list[float] = field(default_factory=list)
    _wall: float = field(default_factory=time.perf_counter)
    _cpu: float = field(default_factory=time.process_time)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_EVERY)
            self._late.append(time.perf_counter() - before - _EVERY)

    def to_json(self) -> dict[str, float | None]:
        """``cpu_share``: of one core."""
        late = sorted(max(0.0, each) * 1000 for each in self._late)
        wall = time.perf_counter() - self._wall
        return {
            "lag_p99_ms": round(percentile(late, 99), 3) if late else None,
            "lag_max_ms": round(late[-1], 3) if late else None,
            "cpu_share": round((time.process_time() - self._cpu) / wall, 3) if wall > 0 else None,
        }


def doubt(client: dict[str, float | None]) -> str | None:
    """A sentence, where the client was too late or too busy for its figures to be the server's."""
    lag, busy = client["lag_p99_ms"] or 0.0, client["cpu_share"] or 0.0
    if lag <= _LATE_MS and busy <= _BUSY:
        return None
    return (
        f"the client itself was late by up to {lag:.1f} ms (p99) and took {busy:.0%} of a core: its figures are too "
        "high by about as much; fewer requests at a time, or another machine for it, will tell more"
    )
