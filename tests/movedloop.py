"""An event loop whose time is moved: whoever waits until a time makes it so late, once nothing can be read any more."""

from __future__ import annotations

import asyncio
import functools
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P, T = ParamSpec("P"), TypeVar("T")


class MovedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.moved = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.moved


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: MovedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if found or timeout == 0:
            return found
        if timeout is None:
            found = super().select(5.0)  # a thread, or nobody
            assert found, "everybody waits for somebody"
            return found
        self._loop.moved += timeout
        return found


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=MovedLoop) as runner:
        return runner.run(main)


def stand_still(seconds: float) -> None:
    """This loop, in which nobody looks for so long: one of these is moved, in any other the time passes."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, MovedLoop):
        loop.moved += seconds
    else:
        time.sleep(seconds)


def moved(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test whose loop is such a one. Fixtures that are asynchronous themselves have another."""

    @functools.wraps(test)
    def in_moved_loop(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return in_moved_loop
