"""How many failed probes in a row mean what. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    WELL = "well"
    OUT = "out of rotation"
    LOST = "to be restarted"


@dataclass(slots=True)
class Liveness:
    """``failures`` in a row take a worker out of rotation, ``fatal`` in a row give it up; one success clears the
    count. `observe` returns the new health if it changed, so that a change is acted on and logged once."""

    failures: int
    fatal: int
    health: Health = Health.WELL
    in_row: int = 0

    def observe(self, ok: bool) -> Health | None:
        self.in_row = 0 if ok else self.in_row + 1
        before = self.health
        if ok:
            self.health = Health.WELL
        elif self.in_row >= self.fatal:
            self.health = Health.LOST
        elif self.in_row >= self.failures:
            self.health = Health.OUT
        return self.health if self.health is not before else None
