"""Other processes in the place of those that serve, because somebody asked for it: one replacement at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from cluster.balancers.slot import ReplacementFailed
from cluster.events import Emit
from config.aio import Tasks
from config.topology import BalancerConfig


class Replacements:
    """``replace_all(config)`` does one, and raises ReplacementFailed; ``changed`` is called when `under_way` or
    `failure`, what became of the last one, says something else."""

    def __init__(
        self, replace_all: Callable[[BalancerConfig | None], Awaitable[None]], emit: Emit, changed: Callable[[], None]
    ) -> None:
        self._replace_all, self._emit, self._changed = replace_all, emit, changed
        self.failure = ""
        self._asked = 0
        self._one_at_a_time = asyncio.Lock()
        self._tasks = Tasks()

    @property
    def under_way(self) -> bool:
        """Whether one that was asked for has not come to its end; the old processes may finish later."""
        return self._asked > 0

    async def replace(self, config: BalancerConfig | None = None) -> None:
        """Replaces every process, one after the other, by one that is started with ``config`` (default: the same as
        before; host, port and descriptor of the listening socket stay what they are). Connections wait in the socket at
        worst; the old ones finish what they have. Raises ReplacementFailed: those that were not yet replaced go on."""
        with self._announced():
            async with self._one_at_a_time:
                await self._replace_all(config)

    def request(self, config: BalancerConfig | None = None) -> None:
        """`replace`, in the background; `failure` says what became of it."""
        self._asked += 1  # at once: whoever asked sees it in the next snapshot
        self._tasks.start(self._requested(config), "replace the balancer")

    async def close(self) -> None:
        await self._tasks.close()

    async def _requested(self, config: BalancerConfig | None) -> None:
        try:
            with contextlib.suppress(ReplacementFailed):
                await self.replace(config)
        finally:
            self._asked -= 1
            self._changed()

    @contextlib.contextmanager
    def _announced(self) -> Iterator[None]:
        self._asked += 1
        self.failure = ""
        self._changed()
        try:
            yield
        except ReplacementFailed as error:
            self.failure = str(error)
            self._emit("load_balancer", f"could not be replaced: {error}; the old one goes on", kind="balancer.failed")
            raise
        finally:
            self._asked -= 1
            self._changed()
