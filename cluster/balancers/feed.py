"""What every balancer process is told: the API keys, the backend set, the snapshot, and what has happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cluster.balancers.process import BalancerProcess
from cluster.events import Event
from config.link import encode


class Feed:
    """To all of ``processes``, which are those that live, oldest first; one that comes, or comes back, is told the
    latest first (`greeting`). ``events()``: what it is told has happened."""

    def __init__(self, events: Callable[[], Iterable[Event]] = tuple) -> None:
        self._events = events
        self.processes: list[BalancerProcess] = []
        self._set: dict[str, Any] | None = None
        self._snapshot: dict[str, Any] | None = None
        self._keys: dict[str, Any] | None = None

    @property
    def engaged(self) -> int:
        """In how many of them requests may be in flight."""
        return sum(process.engaged for process in self.processes)

    @property
    def connected(self) -> bool:
        return self.engaged > 0

    def publish(
        self, backends: dict[str, Any] | None = None, snapshot: dict[str, Any] | None = None,
        keys: dict[str, Any] | None = None,
    ) -> None:
        """Tells them what is new, ``backends`` as `BackendSet.to_json` makes it; each is told the latest again whenever
        it comes back."""
        self._set, self._snapshot, self._keys = backends or self._set, snapshot or self._snapshot, keys or self._keys
        if keys is not None:
            self._send(encode(keys))
        if backends is not None:
            self._send(encode({"type": "set", "set": backends}))
        if snapshot is not None:
            self._send(encode({"type": "snapshot", "snapshot": snapshot}))

    def on_event(self, event: Event) -> None:
        """Passes an event on to whoever listens there."""
        self._send(_encoded([event]))

    def _send(self, message: bytes) -> None:
        for process in self.processes:
            process.send(message)

    def start(self) -> dict[str, Any]:
        """What a process is started with of it."""
        return {"set": self._set, "snapshot": self._snapshot, "keys": self._keys}

    def greeting(self) -> list[bytes]:
        """What a process that has just been connected to is told."""
        keys = [] if self._keys is None else [encode(self._keys)]
        backends = [] if self._set is None else [encode({"type": "set", "set": self._set})]
        return [
            *keys, *backends, encode({"type": "snapshot", "snapshot": self._snapshot or {}}), _encoded(self._events()),
        ]  # fmt: skip


def _encoded(events: Iterable[Event]) -> bytes:
    return encode({"type": "events", "events": [event.wire() for event in events]})
