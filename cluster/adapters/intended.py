"""Loads of adapters from references, which take as long as a download: each is written down before it begins, and a
supervisor that comes after one that died goes on with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from cluster.adapters.rollout import Rollouts
from cluster.events import Emit
from config.aio import Tasks
from config.values.references import is_reference

#: Under which they are stored.
LOADS = "adapter_loads"

#: So many are written down; more at once are carried out all the same.
_MOST = 100

#: So many supervisors go on with one: what it was fetched for may be what ended them.
_MOST_TRIES = 3


class LoadStore(Protocol):
    """`cluster.storage.write_behind.WriteBehind`."""

    async def put(self, **values: Any) -> None: ...

    def value(self, **values: Any) -> None: ...


@dataclass(frozen=True)
class LoadIntent:
    """What `Rollouts.load` is given. ``tries``: supervisors that have gone on with it."""

    name: str
    source: str
    replaces: bool = False
    description: str | None = None
    allow_no_effect: bool = False
    model: str | None = None
    tries: int = 0


class IntendedLoads:
    """All calls are made in the event loop."""

    def __init__(self, rollouts: Rollouts, store: LoadStore, emit: Emit) -> None:
        self._rollouts, self._store, self._emit = rollouts, store, emit
        self._open: list[LoadIntent] = []
        self._tasks, self._closing = Tasks(), False

    async def load(self, wanted: LoadIntent) -> tuple[int, dict[str, Any]]:
        """As `Rollouts.load`. Raises NotSaved besides: nothing is begun then."""
        if not is_reference(wanted.source) or self._closing or len(self._open) >= _MOST:
            return await self._carry_out(wanted)
        self._open.append(wanted)
        try:
            await self._store.put(**self._values())
        except BaseException:
            self._open.remove(wanted)
            raise
        return await self._until_over(wanted)

    def begin(self, rows: Iterable[Mapping[str, Any]], *, ending: bool = False) -> None:
        """Goes on with what an earlier supervisor has left; with ``ending`` that is forgotten."""
        left: list[LoadIntent] = []
        for row in rows:
            with contextlib.suppress(TypeError):
                left.append(LoadIntent(**row))
        self._open = [] if ending else [replace(one, tries=one.tries + 1) for one in left[:_MOST]]
        if left:
            self._store.value(**self._values())
        for one in list(self._open):
            self._tasks.start(self._go_on(one), f"load {one.name}")

    async def close(self, *, forget: bool = False) -> None:
        """The next supervisor goes on, unless with ``forget`` the cluster is to end: then there is nothing left."""
        self._closing = True  # what ends from now on ends with us
        if forget:
            self._open.clear()
            self._store.value(**self._values())
        await self._tasks.close()

    async def _go_on(self, wanted: LoadIntent) -> None:
        if wanted.tries > _MOST_TRIES:
            self._over(wanted)
            return self._failed(wanted, f"given up, as {_MOST_TRIES} supervisors ended meanwhile")
        data = {"adapter": wanted.name, "source": wanted.source}
        self._emit("adapters", f"goes on loading {wanted.name} from {wanted.source}", kind="adapter.resumed", data=data)
        try:
            await self._until_over(wanted)
        except Exception as error:  # whatever it is, nobody else waits for it
            self._failed(wanted, str(error))

    async def _until_over(self, wanted: LoadIntent) -> tuple[int, dict[str, Any]]:
        """A cancellation is the end of this supervisor and not of what is wanted."""
        try:
            result = await self._carry_out(wanted)
        except Exception:
            self._over(wanted)
            raise
        self._over(wanted)
        return result

    async def _carry_out(self, wanted: LoadIntent) -> tuple[int, dict[str, Any]]:
        return await self._rollouts.load(
            wanted.name, wanted.source, wanted.replaces, wanted.description, wanted.allow_no_effect, wanted.model
        )

    def _over(self, wanted: LoadIntent) -> None:
        if not self._closing:
            self._open.remove(wanted)
            self._store.value(**self._values())

    def _failed(self, wanted: LoadIntent, why: str) -> None:
        words = f"{wanted.name} could not be loaded from {wanted.source}: {why}"
        self._emit("adapters", words, kind="adapter.failed", data={"reason": why})

    def _values(self) -> dict[str, Any]:
        return {LOADS: [asdict(one) for one in self._open]}
