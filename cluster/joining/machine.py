"""One machine that has joined, as the supervisor sees it: told what balancers are told, heard what they say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from cluster.joining.reach import reachable, reachable_change
from config.link import encode

#: Bytes that may lie here for a machine that reads too slowly; more, and it has to come again.
_MOST_BUFFERED = 64 * 1024 * 1024


class JoinedMachine:
    """``name`` at ``address``; ``here``: it is this machine, which reaches what listens on loopback.
    ``engaged``: it has confirmed a backend set, so requests may be in flight there. ``hears_changes``: it is told what
    is new of a set in place of the whole."""

    def __init__(
        self, name: str, address: str, here: bool, writer: asyncio.StreamWriter, now: float, hears_changes: bool = False
    ) -> None:
        self.name, self.address, self._here, self._writer = name, address, here, writer
        self.hears_changes = hears_changes
        self.since = now
        self.engaged = False
        self.version: tuple[int, int] = (0, 0)
        self.in_flight: Mapping[str, int] = {}
        self.waiting: Mapping[str, tuple[int, int]] = {}
        self.queued, self.unread = 0, 0.0
        self.models: Mapping[str, list[float]] = {}

    def tell(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "set" and not self._here:
            message = {"type": "set", "set": reachable(message["set"])}
        elif message["type"] == "change" and not self._here:
            message = reachable_change(message)
        if self._writer.transport.get_write_buffer_size() > _MOST_BUFFERED:
            self.drop()
            return
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._writer.write(encode(message))

    def drop(self) -> None:
        """Ends the connection at once; the machine serves on with what it knows."""
        self.engaged = False
        self._writer.transport.abort()

    def report(self, message: Mapping[str, Any]) -> None:
        """Raises KeyError, TypeError, ValueError for what is no report."""
        epoch, revision = message["version"]
        self.version, self.in_flight = (int(epoch), int(revision)), _counts(message["in_flight"])
        self.waiting = {str(name): (int(n), int(size)) for name, (n, size) in message["waiting"].items()}
        self.queued, self.unread = int(message["queued"]), float(message["unread"])
        self.models = {str(name): [float(value) for value in values] for name, values in message["models"].items()}
        self.engaged = self.version > (0, 0)

    def describe(self) -> dict[str, Any]:
        """For status and metrics."""
        return {
            "name": self.name, "address": self.address, "in_flight": sum(self.in_flight.values()),
            "revision": self.version[1],
        }  # fmt: skip


def _counts(told: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in told.items()}
