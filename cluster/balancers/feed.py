"""What every balancer is told: the API keys, the backend set, the snapshot, and what has happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from cluster.balancers import set_changes
from cluster.balancers.process import BalancerProcess
from cluster.balancers.reports import LatestReport
from cluster.events import Event
from config.link import encode

#: A message of which the latest says all: those before it need not be heard. So is a set.
_REPLACED = "snapshot"


class Joined(LatestReport, Protocol):
    """The balancers of another machine, as one."""

    @property
    def hears_changes(self) -> bool:
        """Whether it is told what is new of a backend set in place of the whole."""

    def tell(self, message: Mapping[str, Any]) -> None: ...

    def describe(self) -> dict[str, Any]:
        """For status and metrics."""


class Feed:
    """To all of ``processes``, which are those that live, oldest first, and to the machines that have ``joined``; one
    that comes, or comes back, is told the latest first (`greeting`). ``events()``: what it is told has happened."""

    def __init__(self, events: Callable[[], Iterable[Event]] = tuple) -> None:
        self._events = events
        self.processes: list[BalancerProcess] = []
        self.joined: list[Joined] = []
        #: Where what a process here says to balancers of other machines goes.
        self.pass_on: Callable[[Mapping[str, Any]], None] = self._tell_joined
        self._alone = False
        self._set: dict[str, Any] | None = None
        self._whole: bytes | None = None
        self._snapshot: dict[str, Any] | None = None
        self._keys: dict[str, Any] | None = None

    @property
    def engaged(self) -> int:
        """In how many of them requests may be in flight."""
        return sum(each.engaged for each in (*self.processes, *self.joined))

    @property
    def connected(self) -> bool:
        return self.engaged > 0

    def publish(
        self, backends: dict[str, Any] | None = None, snapshot: dict[str, Any] | None = None,
        keys: dict[str, Any] | None = None,
    ) -> None:
        """Tells them what is new, ``backends`` as `BackendSet.to_json` makes it; each is told the latest again whenever
        it comes back."""
        self._snapshot, self._keys = snapshot or self._snapshot, keys or self._keys
        if keys is not None:
            self.tell(keys)
        if backends is not None:
            self._publish_set(backends)
        if snapshot is not None:
            self.tell({"type": "snapshot", "snapshot": snapshot})

    def _publish_set(self, backends: dict[str, Any]) -> None:
        """What is new of it to those that know the one before, as all do that have been greeted."""
        before, self._set, self._whole = self._set, backends, None
        hear = any(each.hears_changes for each in self.processes) or any(each.hears_changes for each in self.joined)
        new = set_changes.change(before, backends) if before is not None and hear else None
        encoded = None if new is None else encode(new)
        for process in self.processes:
            if encoded is not None and process.hears_changes:
                process.send(encoded, "set", self.whole)
            else:
                process.send(self.whole(), "set")
        for each in self.joined:
            each.tell(new if new is not None and each.hears_changes else {"type": "set", "set": backends})

    def whole(self) -> bytes:
        """The latest backend set, as it is told who does not know the one before."""
        if self._whole is None:
            self._whole = encode({"type": "set", "set": self._set})
        return self._whole

    def on_event(self, event: Event) -> None:
        """Passes an event on to whoever listens there."""
        self.tell(_told([event]))

    def presence(self, there: bool) -> None:
        """Whether the supervisor whose words these are can be reached: not told where it is us."""
        self._alone = not there
        self.tell({"type": "supervisor", "there": there})

    def tell(self, message: Mapping[str, Any]) -> None:
        """All of them."""
        if self.processes:
            encoded, kind = encode(message), str(message["type"])
            for process in self.processes:
                process.send(encoded, kind if kind == _REPLACED else "")
        for each in self.joined:
            each.tell(message)

    def _tell_joined(self, message: Mapping[str, Any]) -> None:
        for each in self.joined:
            each.tell(message)

    def start(self) -> dict[str, Any]:
        """What a process is started with of it."""
        return {"set": self._set, "snapshot": self._snapshot, "keys": self._keys}

    def greeting(self) -> list[bytes]:
        """What a process that has just been connected to is told."""
        return [self.whole() if message["type"] == "set" else encode(message) for message in self.latest()]

    def latest(self) -> list[Mapping[str, Any]]:
        """The messages that say all there is."""
        keys = [] if self._keys is None else [self._keys]
        backends = [] if self._set is None else [{"type": "set", "set": self._set}]
        alone: list[Mapping[str, Any]] = [{"type": "supervisor", "there": False}] if self._alone else []
        snapshot = {"type": "snapshot", "snapshot": self._snapshot or {}}
        return [*keys, *backends, snapshot, _told(self._events()), *alone]


def _told(events: Iterable[Event]) -> dict[str, Any]:
    return {"type": "events", "events": [event.wire() for event in events]}
