"""Background tasks that are named, referenced and whose failure is logged: never a bare ``create_task``. And a timeout
that blames nobody for a time in which we did not look."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """The background tasks of one owner; `close` ends them all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s failed", task.get_name(), exc_info=error)

    async def close(self) -> None:
        # Again and again: a task that was just being woken by something else may miss its cancellation.
        while tasks := {task for task in self._tasks if task is not asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.5)


#: A timer that comes later than this (s) says that the loop stood still: no processor, a stopped process, a long step.
_LATE_S = 0.05


class patience:
    """``async with patience(seconds)``: as `asyncio.timeout`, but where the event loop itself stood still at the end of
    that time, what was waited for gets as much time again, at most ``seconds``: its answer may lie there unread.
    None: without end. Raises TimeoutError."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._limit = seconds, asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> patience:
        await self._limit.__aenter__()
        if self._seconds is not None:
            self._wait(self._seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._over, loop.time() + seconds)

    def _over(self, due: float) -> None:
        now = asyncio.get_running_loop().time()
        if now - due > _LATE_S and self._seconds is not None:
            self._wait(min(now - due, self._seconds))
        else:
            self._limit.reschedule(now)
