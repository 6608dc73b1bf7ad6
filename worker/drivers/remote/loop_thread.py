"""An event loop in a thread of its own: leases are renewed, and ends are heard of, whatever the supervisor does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, TypeVar

from config.aio import Tasks

T = TypeVar("T")


class LoopThread:
    """Runs from the start until `close`."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._tasks = Tasks()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
        """Its result, from another thread. Raises OSError where there is none in ``timeout`` seconds."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout)
        except NotInTime:
            future.cancel()
            raise TimeoutError(f"no answer within {timeout:g} s") from None

    async def awaited(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result, in another loop that goes on meanwhile."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def begin(self, make: Callable[[], Coroutine[Any, Any, Any]], name: str) -> None:
        """A task there, which nobody waits for."""
        self.loop.call_soon_threadsafe(lambda: self._tasks.start(make(), name))

    def close(self) -> None:
        """Ends its tasks."""
        asyncio.run_coroutine_threadsafe(self._tasks.close(), self.loop).result(5.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)
        self.loop.close()
