"""A request that workers die of is not given to one after the other: what it has done to them, and what follows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from lb.protocol.errors import ProxyError, Source
from lb.routing.notifier import Notifier
from lb.routing.pool import Pool
from lb.routing.strategies.base import RequestInfo

log = logging.getLogger(__name__)

#: Deaths of workers after which a request is not given to another one.
MOST_DEATHS = 2

#: How long (s) the word that a worker has died may take after its connection broke.
_WORD_S = 0.5

#: How long (s) a request that may kill workers waits for one that has no other such request, and between two looks.
_APART_S, _LOOK_S = 2.0, 0.02


class Place(Protocol):
    """A worker. ``suspects``: requests there which may have killed another one, and have not got anything yet."""

    suspects: int


class Record:
    """The incarnations of workers (id, incarnation) on which one request failed in such a way that it may have been
    what killed them: nothing of its answer had been sent by then."""

    __slots__ = ("_place", "_suspected")

    def __init__(self) -> None:
        self._suspected: list[tuple[str, int]] = []
        self._place: Place | None = None

    def failed(self, worker: tuple[str, int]) -> None:
        if worker not in self._suspected:
            self._suspected.append(worker)

    def enter(self, place: Place) -> None:
        """It is given to another worker: until `leave`, no other suspect should be."""
        self.leave()
        if self._suspected:
            self._place = place
            place.suspects += 1

    def leave(self) -> None:
        """It got something there, or is not there any more. May be called again."""
        if self._place is not None:
            self._place.suspects -= 1
            self._place = None

    def __len__(self) -> int:
        return len(self._suspected)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._suspected)


class PoisonRules:
    """``refused`` is called for each request that no other worker is given. ``clock``: s, monotonic."""

    def __init__(
        self, pool: Pool, changes: Notifier, refused: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._pool, self._changes, self._refused, self._clock = pool, changes, refused, clock

    async def check(self, record: Record, request: str) -> None:
        """Raises ProxyError (500) for a request, by its id, that so many workers have died of that no other is given
        it."""
        if await self._has_killed(record):
            self._refused()
            died = f"{len(record)} workers have died while they worked on this request"
            log.error("request %s is not retried: %d workers died while processing it", request, len(record))
            raise ProxyError(500, f"{died}; it is not given to another one", source=Source.UPSTREAM)

    async def apart(
        self, info: RequestInfo, excluded: frozenset[str], failed: frozenset[str], record: Record
    ) -> frozenset[str]:
        """The workers that a request should not be given to, as it may be what killed one and they have another of
        which that is true: when such a worker dies, it is known which of them it was. Waits a moment for one that has
        none; together is better than never. ``failed``: those of the ``excluded`` on which it is really lost."""
        deadline = self._clock() + _APART_S
        while record:
            avoided = frozenset(b.id for b in self._pool.backends.values() if b.suspects)
            if any(
                self._pool.candidates(info.model, left | avoided, self._clock(), info.root)
                for left in (excluded, failed)
            ):
                return avoided
            if not avoided or self._clock() >= deadline:
                break
            await asyncio.sleep(_LOOK_S)
        return frozenset()

    async def _has_killed(self, record: Record) -> bool:
        """Waits a moment for the supervisor's word: a connection breaks before anybody knows why."""
        deadline = self._clock() + _WORD_S
        while len(record) >= MOST_DEATHS:
            if sum(self._has_died(*worker) for worker in record) >= MOST_DEATHS:
                return True
            if (left := deadline - self._clock()) <= 0:
                break
            changed = self._changes.next()
            try:
                async with asyncio.timeout(left):
                    await changed
            except TimeoutError:
                break
        return False

    def _has_died(self, name: str, incarnation: int) -> bool:
        backend = self._pool.backends.get(name)
        if backend is None or backend.spec.incarnation != incarnation or backend.spec.state in ("backoff", "failed"):
            return True
        return backend.ejection.dying(self._clock())
