"""Loads that take as long as a download: each is written down before it begins, and a supervisor that comes after one
that died goes on with it. What is loaded is said by the kinds of `LoadIntent`."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from cluster.events import Emit
from config.aio import Tasks

#: So many of a kind are written down; more at once are carried out all the same.
_MOST = 100

#: So many supervisors go on with one: what it was fetched for may be what ended them.
_MOST_TRIES = 3


class IntentStore(Protocol):
    """`cluster.storage.write_behind.WriteBehind`."""

    async def put(self, **values: Any) -> None: ...

    def value(self, **values: Any) -> None: ...


@dataclass(frozen=True, kw_only=True)
class LoadIntent(ABC):
    """What somebody wants loaded, in fields that JSON can hold. ``tries``: supervisors that have gone on with it."""

    tries: int = 0

    @property
    @abstractmethod
    def lasts(self) -> bool:
        """Whether a supervisor may end in the middle of it: else it is not written down."""

    @abstractmethod
    def tell_resumed(self, emit: Emit) -> None: ...

    @abstractmethod
    def tell_failed(self, emit: Emit, why: str) -> None: ...


W = TypeVar("W", bound=LoadIntent)


class IntentLog(Generic[W]):
    """Those of one ``kind``, stored under ``key``; ``do`` carries one out, and returns status and answer. All calls are
    made in the event loop."""

    def __init__(
        self, key: str, kind: type[W], do: Callable[[W], Awaitable[tuple[int, dict[str, Any]]]], store: IntentStore,
        emit: Emit,
    ) -> None:
        self.key, self._kind, self._do, self._store, self._emit = key, kind, do, store, emit
        self._open: list[W] = []
        self._tasks, self._closing = Tasks(), False

    async def carry_out(self, wanted: W) -> tuple[int, dict[str, Any]]:
        """As ``do``. Raises NotSaved besides: nothing is begun then."""
        if not wanted.lasts or self._closing or len(self._open) >= _MOST:
            return await self._do(wanted)
        self._open.append(wanted)
        try:
            await self._store.put(**self._values())
        except BaseException:
            self._open.remove(wanted)
            raise
        return await self._until_over(wanted)

    def begin(self, rows: Iterable[Mapping[str, Any]], *, ending: bool = False) -> None:
        """Goes on with what an earlier supervisor has left; with ``ending`` that is forgotten."""
        left: list[W] = []
        for row in rows:
            with contextlib.suppress(TypeError):
                left.append(self._kind(**row))
        self._open = [] if ending else [replace(one, tries=one.tries + 1) for one in left[:_MOST]]
        if left:
            self._store.value(**self._values())
        for one in list(self._open):
            self._tasks.start(self._go_on(one), f"{self.key}: goes on")

    async def close(self, *, forget: bool = False) -> None:
        """The next supervisor goes on, unless with ``forget`` the cluster is to end: then there is nothing left."""
        self._closing = True  # what ends from now on ends with us
        if forget:
            self._open.clear()
            self._store.value(**self._values())
        await self._tasks.close()

    async def _go_on(self, wanted: W) -> None:
        if wanted.tries > _MOST_TRIES:
            self._over(wanted)
            return wanted.tell_failed(self._emit, f"given up, as {_MOST_TRIES} supervisors ended meanwhile")
        wanted.tell_resumed(self._emit)
        try:
            await self._until_over(wanted)
        except Exception as error:  # whatever it is, nobody else waits for it
            wanted.tell_failed(self._emit, str(error))

    async def _until_over(self, wanted: W) -> tuple[int, dict[str, Any]]:
        """A cancellation is the end of this supervisor and not of what is wanted."""
        try:
            result = await self._do(wanted)
        except Exception:
            self._over(wanted)
            raise
        self._over(wanted)
        return result

    def _over(self, wanted: W) -> None:
        if not self._closing:
            self._open.remove(wanted)
            self._store.value(**self._values())

    def _values(self) -> dict[str, Any]:
        return {self.key: [asdict(one) for one in self._open]}
