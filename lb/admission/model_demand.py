"""What is asked of each model, loaded or not: by that the supervisor decides which ones are up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lb.admission.request_admission import Ticket
from lb.routing.pool import Pool


class ModelDemand:
    """``waiting()``: those that wait for a worker; ``clock``: s, monotonic; ``wall``: s since the epoch."""

    def __init__(
        self, pool: Pool, waiting: Callable[[], Iterable[Ticket]], clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._pool, self._waiting, self._clock, self._wall = pool, waiting, clock, wall
        self._latest: dict[str, float] = {}

    def asked(self, model: str | None) -> None:
        """A request for it has come."""
        if (needed := self._pool.offered.of(model)) is not None:
            self._latest[needed.name] = self._wall()

    def told(self) -> dict[str, Any]:
        """``models`` of a report (`config.link`); nothing where there is one model."""
        offers, now = self._pool.offered, self._clock()
        if not offers:
            return {}
        lines: dict[str, list[float]] = {}
        for ticket in self._waiting():
            if (needed := offers.of(ticket.info.model)) is not None:
                lines.setdefault(needed.name, []).append(now - ticket.came)
        running: dict[str, int] = {}
        for backend in self._pool.backends.values():
            if (served := offers.of_group(backend.spec.group)) is not None and backend.spec.managed:
                running[served.name] = running.get(served.name, 0) + backend.in_flight
        self._latest = {model.name: at for model in offers.models if (at := self._latest.get(model.name))}
        return {
            "models": {
                model.name: [
                    running.get(model.name, 0), len(line := lines.get(model.name, [])),
                    round(max(line, default=0.0), 3), self._latest.get(model.name, 0.0),
                ]
                for model in offers.models
            }
        }  # fmt: skip
