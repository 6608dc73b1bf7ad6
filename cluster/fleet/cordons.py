"""Who is kept out of rotation because a person drained it. Pure: the time is an argument.

A drained worker lives and is probed like any other; what changes is what the balancer is told of it: ``draining``
(nothing new, what runs may finish) and, when nothing runs there any more or the grace is over, ``drained`` (what is
left goes on elsewhere).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from cluster.fleet.states import WorkerState

DRAINING, DRAINED = "draining", "drained"


@dataclass(slots=True)
class _Cordon:
    """``grace`` and ``since`` in seconds; ``in_flight`` is None until the balancer has confirmed ``version``."""

    grace: float
    since: float
    version: tuple[int, int]
    in_flight: int | None
    over: bool = False


class Cordons:
    """By name of the instance or of the server that is not ours."""

    def __init__(self) -> None:
        self._held: dict[str, _Cordon] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def begin(self, name: str, grace: float, now: float, version: tuple[int, int], in_flight: int | None) -> None:
        """From now on; of one that is held already only the grace may become shorter or longer. ``version`` is the
        first backend set that says so."""
        old = self._held.get(name)
        if old is None:
            self._held[name] = _Cordon(grace, now, version, in_flight)
        else:
            old.grace = grace

    def end(self, name: str) -> bool:
        """False if it was not held."""
        return self._held.pop(name, None) is not None

    def over(self, name: str) -> bool:
        """Nothing is to run there any more."""
        return name in self._held and self._held[name].over

    def advance(self, now: float) -> list[tuple[str, int]]:
        """Those whose drain has just come to its end, each with how much still ran there."""
        ended = []
        for name, hold in self._held.items():
            if not hold.over and (hold.in_flight == 0 or now - hold.since >= hold.grace):
                hold.over = True
                ended.append((name, hold.in_flight or 0))
        return ended

    def shown(self, name: str, state: str) -> str:
        """The state as the balancer and people are told it; ``state`` is the one it is in by itself."""
        hold = self._held.get(name)
        if hold is None or state not in (WorkerState.READY, WorkerState.UNHEALTHY):
            return state
        return DRAINED if hold.over else DRAINING

    def in_flight(self, version: tuple[int, int], counts: Mapping[str, int]) -> None:
        """What the balancer reports as of the backend set ``version``."""
        for name, hold in self._held.items():
            if version >= hold.version:
                hold.in_flight = counts.get(name, 0)

    def balancer_lost(self) -> None:
        """What ran died with it."""
        for hold in self._held.values():
            hold.in_flight = 0

    def copy(self) -> Cordons:
        made = Cordons()
        made._held = {name: replace(hold) for name, hold in self._held.items()}
        return made

    def durable(self) -> dict[str, float]:
        """Names and graces, for the store."""
        return {name: hold.grace for name, hold in self._held.items()}
