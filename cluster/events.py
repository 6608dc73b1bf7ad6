"""What happened, in sentences: kept for a while, written to the log, passed on to whoever listens."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

log = logging.getLogger(__name__)

#: Events that are kept, here and in the state file.
KEPT = 1000

#: Ids of one supervisor's run begin at its epoch times this: they never go back, even if the last events of the run
#: before could not be saved.
EPOCH_IDS = 100_000


#: Kinds that somebody should hear of who only hears of trouble.
_WARNINGS = frozenset({
    "worker.unhealthy", "worker.killed", "worker.exited", "worker.altered", "adapter.failed", "adapter.drift",
    "balancer.restarted", "balancer.lost", "balancer.failed", "certificate.refused", "standby.ended", "balancer.away",
    "zygote.ended", "zygote.refused", "node.lost", "worker.unplaced",
    "discovery.failed", "discovery.left_out", "job.failed", "model.failed", "restart.stopped",
    "state.unsaved", "key.unread", "limits.local",
})  # fmt: skip

#: Subjects without which a sentence is whole.
_UNSAID = frozenset({"cluster", "adapters", "discovery", "engine"})


class Emit(Protocol):
    """``kind`` is for programs: it stays the same when the words change; so are the names in ``data``."""

    def __call__(
        self, subject: str, text: str, kind: str = "note", data: Mapping[str, Any] | None = None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Event:
    """``at``: seconds since the epoch. ``text`` is a sentence of its own or, of a process, what it did."""

    id: int
    at: float
    subject: str
    text: str
    kind: str = "note"
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        return self.text if self.subject in _UNSAID else f"{self.subject} {self.text}"

    def wire(self) -> dict[str, Any]:
        """For clients: ``text`` is the whole sentence."""
        return {
            "id": self.id, "at": self.at, "subject": self.subject, "kind": self.kind, "text": self.sentence,
            "data": self.data,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class EventLog:
    """The last ``keep`` events. ``listeners`` are told of each new one."""

    def __init__(self, wall: Callable[[], float], keep: int = KEPT) -> None:
        self._wall = wall
        self.events: deque[Event] = deque(maxlen=keep)
        self.listeners: list[Callable[[Event], None]] = []
        self._next = 1
        self._held: list[tuple[str, str, str, Mapping[str, Any]]] | None = None

    def begin(self, epoch: int, before: Iterable[Mapping[str, Any]]) -> None:
        """Goes on after the events ``before``, in the supervisor's run ``epoch``."""
        own = list(self.events)
        self.events.clear()
        self.events.extend(Event(**event) for event in before)
        last = self.events[-1].id if self.events else 0
        self._next = max(last, epoch * EPOCH_IDS) + 1
        for event in own:
            self._add(event.subject, event.text, event.kind, event.data)

    def emit(self, subject: str, text: str, kind: str = "note", data: Mapping[str, Any] | None = None) -> None:
        if self._held is not None:
            self._held.append((subject, text, kind, data or {}))
            return
        event = self._add(subject, text, kind, data or {})
        level = logging.WARNING if kind in _WARNINGS else logging.INFO
        log.log(level, "%s: %s", subject, text, extra={"event": kind, "data": {"subject": subject, **event.data}})
        for listener in self.listeners:
            listener(event)

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """What is told meanwhile is told only when what it yields is called."""
        before, held = self._held, []  # type: ignore[var-annotated]
        self._held = held

        def release() -> None:
            for words in held:
                self.emit(*words)

        try:
            yield release
        finally:
            self._held = before

    def _add(self, subject: str, text: str, kind: str, data: Mapping[str, Any]) -> Event:
        event = Event(self._next, self._wall(), subject, text, kind, dict(data))
        self._next += 1
        self.events.append(event)
        return event
