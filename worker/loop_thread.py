"""An event loop in a thread of its own, for programs that have none, or another, and for what goes on beside them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import aclosing
from typing import Any, TypeVar

from config.aio import Tasks

T = TypeVar("T")

#: How long `LoopThread.close` waits (s) for what does not end.
_END_S = 5.0


class LoopThread:
    """Runs from the start until `close`. Everything here may be called from any thread but its own."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._begun, self._tasks = set[Future[Any]](), Tasks()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Its result. Whatever ends the wait, such as Ctrl-C, cancels it. Raises TimeoutError, an OSError, where there
        is none in ``timeout`` seconds (None: waits for ever)."""
        future = self.start(coroutine)
        try:
            return future.result(timeout)
        except NotInTime:
            if future.done():
                raise
            raise TimeoutError(f"no answer within {timeout:g} s") from None
        finally:
            future.cancel()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Raises RuntimeError once it is closed."""
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            coroutine.close()
            raise
        self._begun.add(future)
        future.add_done_callback(self._begun.discard)
        return future

    async def awaited(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result, in another loop that goes on meanwhile."""
        return await asyncio.wrap_future(self.start(coroutine))

    def begin(self, make: Callable[[], Coroutine[Any, Any, Any]], name: str) -> None:
        """A task there, which nobody waits for."""
        self.loop.call_soon_threadsafe(lambda: self._tasks.start(make(), name))

    def cancel(self) -> None:
        """Cancels what was started or called and has not ended."""
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
        """Cancels what still runs, and ends the thread. May be called again."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_END_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.get_loop().run_forever()
            runner.run(self._tasks.close())


def _tell(loop: asyncio.AbstractEventLoop, items: asyncio.Queue[Any], done: Future[None]) -> None:
    if not loop.is_closed() and not done.cancelled():
        loop.call_soon_threadsafe(items.put_nowait, done)
