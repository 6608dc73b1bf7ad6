"""What has to be saved, and what becomes of it when it cannot be: the supervisor goes on, says so once, and tries again
until it can.

What clients change is refused meanwhile (`check`, `put`): nothing is done that a supervisor after this one would not
know. What happens by itself (a worker ended, another was started) is kept here and saved later; until then the run
files tell who runs (`worker.drivers.run_file`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.adapters.registry import Adapter
from cluster.events import KEPT, Emit, Event
from cluster.storage.store import NotSaved, Store
from config.disk.files import free_bytes
from config.identity.api_keys import ApiKey

#: Bytes that have to be free on the state directory's disk for a change: what follows from it needs room as well.
HEADROOM = 1024 * 1024

#: Seconds between two tries.
_AGAIN = 1.0


class WriteBehind:
    """``emit`` hears when it begins and when it is over. ``clock`` is monotonic seconds."""

    def __init__(
        self, store: Store, emit: Emit, clock: Callable[[], float],
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._store, self._emit, self._clock, self._free = store, emit, clock, free
        self._saved: dict[str, str] = {}
        self._processes: dict[str, str | None] = {}
        self._told: dict[str, Mapping[str, Any] | None] = {}
        self._values: dict[str, Any] = {}
        self._events: list[Event] = []
        self._numbers: dict[str, int] = {}
        self._trouble: str | None = None
        self._since, self._tried = 0.0, -2 * _AGAIN

    @property
    def unsaved(self) -> str | None:
        """Why nothing can be saved; None if it can."""
        return self._trouble

    # what clients ask for

    def check(self) -> None:
        """Raises NotSaved if there is no room for a change. Looks at the disk: what failed a moment ago is no reason to
        refuse what there is room for now."""
        if not self.look():
            raise NotSaved(f"nothing was changed, as it could not be saved: {self._trouble}")

    async def put(self, **values: Any) -> None:
        """As `Store.put`, now or never. Raises NotSaved."""
        try:
            await self._store.put(**values)
        except NotSaved as error:
            self._failed(str(error))
            raise NotSaved(f"nothing was changed, as it could not be saved: {error}") from None
        for key in values:  # older ones are not to be saved any more
            self._values.pop(key, None)

    async def save_adapters(self, changed: list[Adapter], gone: list[str]) -> None:
        """As `Store.save_adapters`, now or never. Raises NotSaved."""
        self.check()
        await self._store.save_adapters(changed, gone)

    async def save_keys(self, changed: list[ApiKey], gone: list[str]) -> None:
        """As `Store.save_keys`, now or never. Raises NotSaved."""
        self.check()
        await self._store.save_keys(changed, gone)

    # what happens by itself

    def process(self, name: str, record: Mapping[str, Any] | None) -> None:
        """``record`` is what is to be known of a process; None: nothing any more."""
        if record is not None and self._told.get(name) == record:
            return  # as a text it is compared with what was saved; this is cheaper, and nearly always enough
        self._told[name] = record
        text = None if record is None else json.dumps(record, sort_keys=True)
        if self._saved.get(name) == text and name not in self._processes and text is not None:
            return
        self._processes[name] = text

    def value(self, **values: Any) -> None:
        """As `put`, when it can be."""
        self._values |= values

    def event(self, event: Event) -> None:
        self._events = [*self._events[-KEPT:], event]

    async def next_number(self, key: str) -> int:
        """As `Store.next_number`; of numbers that could not be saved it knows itself."""
        try:
            number = await self._store.next_number(key)
        except NotSaved as error:
            self._failed(str(error))
            number = int(await self._store.get(key) or 0) + 1
            self._values[key] = number
        if (least := self._numbers.get(key, 0) + 1) > number:
            number = least
            self._values[key] = number
        self._numbers[key] = number
        return number

    def known(self, key: str, number: int) -> None:
        """``number`` was given already, whatever is saved."""
        self._numbers[key] = max(number, self._numbers.get(key, 0))

    async def flush(self) -> None:
        """Saves what there is to be saved, if the last failure is not just now."""
        if not (self._processes or self._values or self._events):
            return
        if self._trouble is not None and self._clock() - self._tried < _AGAIN:
            return
        processes, values, events = dict(self._processes), dict(self._values), list(self._events)
        records = {name: None if text is None else json.loads(text) for name, text in processes.items()}
        try:
            if values:
                await self._store.put(**values)
            await self._store.save(records, [(e.id, e.to_json()) for e in events], KEPT)
        except NotSaved as error:
            self._failed(str(error))
            return
        for name, text in processes.items():  # what has come since stays
            if text is None:
                self._saved.pop(name, None)
            else:
                self._saved[name] = text
            if self._processes.get(name) == text:
                self._processes.pop(name, None)  # another flush may have been quicker
        for key, value in values.items():
            if self._values.get(key) == value:
                self._values.pop(key, None)
        done = {event.id for event in events}
        self._events = [event for event in self._events if event.id not in done]
        self.look()

    def look(self) -> bool:
        """Whether there is room: a disk is found full before something has to be written, and found free again."""
        try:
            free = self._free(self._store.path.parent)
        except OSError as error:
            self._failed(f"{self._store.path.parent}: {error.strerror}", tried=False)
            return False
        if free < HEADROOM:
            self._failed(f"the disk of {self._store.path.parent} is full ({free // 1024} KiB free)", tried=False)
        elif (
            self._trouble is not None and not (self._processes or self._values)
            and self._clock() - self._tried >= 2 * _AGAIN
        ):
            seconds = self._clock() - self._since
            self._trouble = None
            self._emit(
                "state", f"can be saved again, after {seconds:.0f} s", kind="state.saved",
                data={"seconds": round(seconds, 1)},
            )
        return free >= HEADROOM

    def trouble(self, why: str) -> None:
        """Something else could not be written."""
        self._failed(why)

    def _failed(self, why: str, tried: bool = True) -> None:
        if tried:
            self._tried = self._clock()
        if self._trouble is None:
            self._since = self._clock()
            self._emit(
                "state", f"cannot be saved: {why}; what runs goes on, changes are refused until it can",
                kind="state.unsaved", data={"reason": why},
            )
        self._trouble = why

    # as the store, for what keeps records of its own

    async def processes(self) -> dict[str, dict[str, Any]]:
        return await self._store.processes()

    async def save_process(self, name: str, record: Mapping[str, Any]) -> None:
        self.process(name, record)
        await self.flush()

    async def forget_process(self, name: str) -> None:
        self.process(name, None)
        await self.flush()
