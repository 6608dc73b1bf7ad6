"""An event loop in a thread of its own, for what is asked from programs that have none, or another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any, TypeVar

T = TypeVar("T")


class OfflineLoop:
    """Runs until `close`. Everything here may be called from any thread but its own."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._begun = set[Future[Any]]()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Waits for it. Whatever ends the wait, such as Ctrl-C, cancels it."""
        future = self.start(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Raises RuntimeError once it is closed."""
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise
        self._begun.add(future)
        future.add_done_callback(self._begun.discard)
        return future

    def cancel(self) -> None:
        """Cancels what was begun and has not ended."""
        for future in list(self._begun):
            future.cancel()

    async def iterate(self, make: Callable[[], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """What ``make`` gives in our loop, in the caller's; closed early, it is cancelled in ours."""
        here, items = asyncio.get_running_loop(), asyncio.Queue[T | Future[None]]()

        async def pump() -> None:
            async with aclosing(make()) as made:
                async for item in made:
                    here.call_soon_threadsafe(items.put_nowait, item)

        done = self.start(pump())
        done.add_done_callback(lambda future: _tell(here, items, future))
        try:
            while (item := await items.get()) is not done:
                yield item  # type: ignore[misc]
            done.result()
        finally:
            done.cancel()

    def close(self) -> None:
        """Cancels what still runs, and ends the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()


def _tell(loop: asyncio.AbstractEventLoop, items: asyncio.Queue[Any], done: Future[None]) -> None:
    if not loop.is_closed() and not done.cancelled():
        loop.call_soon_threadsafe(items.put_nowait, done)
