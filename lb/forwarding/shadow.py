"""Copies of requests for another model: their answers are measured and dropped. A copy is made only where there is
room to spare, and given up as soon as a real request has to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from config.aio import Tasks
from lb.protocol.errors import AttemptFailed
from lb.protocol.messages import Request
from lb.routing.backend import Backend
from lb.routing.pool import Pool
from lb.telemetry.metrics import Metrics
from lb.upstream.client import WorkerClient

#: Copies under way at the same time, and the s that one may take.
_MOST, _LONGEST_S = 16, 300.0

#: What a worker may have in flight for a copy to go there too, where nobody says how many requests it works on.
_SPARE = 4


class Shadows:
    """``clock``: s, monotonic."""

    def __init__(
        self, pool: Pool, client: WorkerClient, metrics: Metrics, tasks: Tasks, clock: Callable[[], float]
    ) -> None:
        self._pool, self._client, self._metrics, self._clock = pool, client, metrics, clock
        self._tasks, self._running = tasks, set[asyncio.Task[None]]()

    def send(self, alias: str, model: str, request: Request) -> None:
        """A copy of ``request`` to ``model``, a side of ``alias``, once this turn of the event loop is over: the real
        one goes first."""
        if len(self._running) >= _MOST or request.head.method != "POST":
            self._metrics.shadowed(alias, model, "skipped")
            return
        path, body = request.head.path, request.renamed(model)
        task = self._tasks.start(self._copy(alias, model, path, body), "ask a shadow")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def give_up(self) -> None:
        """A real request waits."""
        for task in self._running:
            task.cancel()

    async def _copy(self, alias: str, model: str, path: str, body: bytes) -> None:
        backend = self._spare(model)
        if backend is None:
            self._metrics.shadowed(alias, model, "skipped")
            return
        began, task = self._clock(), asyncio.current_task()
        assert task is not None

        def lost(reason: str) -> None:
            task.cancel()

        lease = backend.lease(lost)
        outcome = "given up"
        try:
            status, _ = await self._client.post(backend.spec, path, body, _LONGEST_S)
            outcome = str(status)
        except AttemptFailed:
            outcome = "failed"
        finally:
            lease.release()
            self._metrics.shadowed(alias, model, outcome, self._clock() - began)

    def _spare(self, model: str) -> Backend | None:
        """The one with the least to do, if that leaves it half of its places."""
        found = min(self._pool.candidates(model, (), self._clock()), key=lambda b: b.load, default=None)
        if found is None or 2 * found.load >= (2 * _SPARE if found.limit is None else found.limit):
            return None
        return found
