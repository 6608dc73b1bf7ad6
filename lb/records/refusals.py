"""Who was refused for want of a right, for the supervisor's audit. Pure.

The same refusal over and over is told once a while, with a count: nobody fills a disk by asking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Seconds for which the same is counted together, and different ones that are kept meanwhile.
_TOGETHER_S, _MOST = 10.0, 100

#: Characters of a path and of a reason.
_LONGEST = 200


@dataclass(slots=True)
class _Repeated:
    at: float
    count: int = 0


class Refusals:
    """``wall()``: seconds since the epoch; ``clock()``: monotonic ones."""

    def __init__(self, wall: Callable[[], float], clock: Callable[[], float]) -> None:
        self._wall, self._clock = wall, clock
        self._found: dict[tuple[str, str, str, int, str], _Repeated] = {}
        self._more = 0
        self._since = clock()

    def note(self, peer: str, method: str, path: str, status: int, reason: str) -> None:
        """``reason``: what was answered, which repeats nothing of a key."""
        key = (peer, method[:_LONGEST], path[:_LONGEST], status, reason[:_LONGEST])
        known = self._found.get(key)
        if known is None:
            if len(self._found) >= _MOST:
                self._more += 1
                return
            known = self._found[key] = _Repeated(self._wall())
        known.count += 1

    def due(self) -> list[dict[str, Any]]:
        """What there is to be told by now, once."""
        now = self._clock()
        if not self._found or now - self._since < _TOGETHER_S:
            return []
        told: list[dict[str, Any]] = [
            {"at": each.at, "from": peer, "method": method, "path": path, "status": status, "reason": reason,
             "count": each.count}
            for (peer, method, path, status, reason), each in self._found.items()
        ]  # fmt: skip
        if self._more:
            told.append({"at": self._wall(), "reason": "others, too many to be told apart", "count": self._more})
        self._found, self._more, self._since = {}, 0, now
        return told
