"""Writes the history of this balancer process (`lb.telemetry.history`) to a file beside its counters, and reads those
of all.

A file is mapped and of fixed size: what is in it outlives the process, and the next one that takes its name goes on in
it. Who holds the counters' lock is its only writer."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from config.aio import Tasks
from config.disk import private
from config.disk.files import allocate
from lb.telemetry.history import BYTES, SLOTS, STEP, Ring, merged
from lb.telemetry.metrics import Metrics
from lb.telemetry.shared_counters import Counters

log = logging.getLogger(__name__)

#: Seconds between two looks.
EVERY = 1.0


class Recorder:
    """``made()``: the tokens that each engine says it has made. ``wall``: seconds since the epoch."""

    def __init__(
        self, state: Path, counters: Counters, metrics: Metrics, made: Callable[[], Mapping[str, float]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Where the disk has no room for a file, the hour is kept in memory, and ends with the process."""
        self._state, self._metrics, self._made, self._wall = state, metrics, made, wall
        self._path = counters.path and counters.path.with_name(counters.path.name.replace("counters", "history", 1))
        self._memory = _memory(self._path)
        self._ring = Ring(self._memory)
        self._tasks = Tasks()

    def start(self) -> None:
        self._tasks.start(self._record(), "keep the last hour")

    async def close(self) -> None:
        await self._tasks.close()
        self._ring.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()

    async def _record(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(EVERY)

    def look(self) -> None:
        self._ring.add(self._wall(), self._metrics.totals(), self._made())

    async def samples(self, seconds: float = SLOTS * STEP) -> list[dict[str, Any]]:
        """See `lb.telemetry.history.merged`: of all balancer processes that there are or were."""
        now, own = self._wall(), bytes(self._memory)
        return await asyncio.to_thread(lambda: merged([own, *self._others()], now, seconds))

    def _others(self) -> list[bytes]:
        found = []
        for path in self._state.glob("history*.bin"):
            if path != self._path:
                try:
                    found.append(private.read(path))
                except OSError as error:
                    log.warning("%s is left out: %s", path, error)
        return found


def _memory(path: Path | None) -> mmap.mmap | bytearray:
    if path is None:
        return bytearray(BYTES)
    try:
        descriptor = private.descriptor(path, os.O_RDWR | os.O_CREAT)
        try:
            if os.fstat(descriptor).st_size != BYTES:
                os.ftruncate(descriptor, 0)
            allocate(descriptor, BYTES)
            return mmap.mmap(descriptor, BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        log.warning("%s: %s; the last hour is kept in memory until this process ends", path, error.strerror)
        return bytearray(BYTES)
