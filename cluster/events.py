"""What happened, in sentences: kept for a while, and written to the log."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("clusterctl")


@dataclass(frozen=True, slots=True)
class Event:
    """``at``: seconds since the epoch."""

    id: int
    at: float
    subject: str
    text: str


class EventLog:
    """The last ``keep`` events."""

    def __init__(self, wall: Callable[[], float], keep: int = 1000) -> None:
        self._wall = wall
        self.events: deque[Event] = deque(maxlen=keep)
        self._next = 1

    def tell(self, subject: str, text: str) -> None:
        self.events.append(Event(self._next, self._wall(), subject, text))
        self._next += 1
        log.info("%s: %s", subject, text)
