"""What one balancer process is told, in order. While it does not keep up, what a later word replaces is not kept for
it, and what a word leaves out that builds on the one before is told at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

#: Bytes on their way after which it counts as not keeping up.
_BEHIND = 256 * 1024


class LinkWriter:
    """Writes into ``writer``; `run` sends what had to wait."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        #: The latest of each kind, in the order in which they came.
        self._late: dict[str, Callable[[], bytes]] = {}
        self._waiting = asyncio.Event()

    def send(self, message: bytes, kind: str = "", latest: Callable[[], bytes] | None = None) -> None:
        """``kind``: of a word that replaces the one of that kind before it, or builds on it: then ``latest()`` makes
        one that says as much without."""
        if kind and (self._late or self._writer.transport.get_write_buffer_size() > _BEHIND):
            self._late.pop(kind, None)
            self._late[kind] = latest or (lambda: message)
            self._waiting.set()
        else:
            self._write(message)

    async def run(self) -> None:
        """Until cancelled, or the other side is gone."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self._waiting.wait()
                await self._writer.drain()
                self._waiting.clear()
                late, self._late = self._late, {}
                for made in late.values():
                    self._write(made())

    def _write(self, message: bytes) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._writer.write(message)
