"""The workers of one node, by their starts: `worker.drivers.local`, as a supervisor elsewhere is told of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from worker import logfile
from worker.drivers.local import LocalDriver, free_ports
from worker.drivers.proc import ProcessId
from worker.drivers.process import LocalHandle
from worker.drivers.remote import protocol
from worker.drivers.remote.protocol import Order, StartReport
from worker.spec import WorkerEndpoint, WorkerSpec

#: What of the supervisor's own order is kept with each start, for an agent that comes after this one.
_KEPT = ("start", "file", "incarnation", "port")


class Busy(Exception):
    """Something of an earlier start of that worker still runs."""


class Starts:
    """Those below the folder ``home``, with their workers at ``host``. ``changed`` is called when there is news.
    ``environment``: what workers get beside what they are started with."""

    def __init__(
        self, home: Path, host: str, changed: Callable[[], None], environment: Mapping[str, str] | None = None
    ) -> None:
        self._home, self._host, self._changed, self._environment = home, host, changed, environment or {}
        self._driver, self._random = LocalDriver(), Random()
        self._known: dict[str, AgentStart] = {}
        for folder in ("run", "logs", "work"):
            (home / folder).mkdir(mode=0o700, parents=True, exist_ok=True)

    def boot(self) -> str:
        return self._driver.boot()

    def recover(self) -> None:
        """What an earlier agent of this home started. Needs a running event loop, as does `start`."""
        for path in sorted((self._home / "run").iterdir()):
            kept = self._driver.prepared(path)
            if kept is None or not all(name in kept for name in _KEPT):
                continue
            spec = self._spec(Order(**kept, argv=(), env={}, title=""))
            if (handle := self._driver.recover(spec, None)) is not None:
                self._watch(kept["start"], handle, spec, _size(spec.log))

    def start(self, order: Order) -> StartReport:
        """Raises OSError where it cannot be started, and Busy."""
        for start, one in list(self._known.items()):
            if one.spec.run_file.name == order.file:
                if not one.handle.empty():
                    raise Busy(f"{order.file}: its start before this one has not ended")
                one.handle.unwatch()
                del self._known[start]
        spec = self._spec(order)
        before = _size(spec.log)
        self._driver.prepare(spec.run_file, {name: getattr(order, name) for name in _KEPT})
        handle = self._driver.start(spec, order.title)
        self._watch(order.start, handle, spec, before)
        return StartReport(handle.pid, order.file)

    def stop(self, start: str) -> None:
        if (one := self._known.get(start)) is not None:
            one.handle.stop()

    def stop_all(self) -> None:
        for one in self._known.values():
            one.handle.stop()

    def endpoints(self) -> list[WorkerEndpoint]:
        """Of those that have not ended."""
        return [one.spec.endpoint for one in self._known.values() if not one.ended]

    def destroy(self, start: str) -> bool:
        """As `Handle.destroy`; False for one that is not known here."""
        one = self._known.get(start)
        return one is not None and one.handle.destroy()

    def destroy_all(self) -> bool:
        """Whether there was anything."""
        return True in [one.handle.destroy() for one in self._known.values()]

    def empty(self, start: str) -> bool:
        one = self._known.get(start)
        return one is None or one.handle.empty()

    def living(self) -> set[str]:
        """Those of which something runs. Reads /proc."""
        return {start for start, one in list(self._known.items()) if not one.handle.empty()}

    def watch_members(self, start: str) -> None:
        """Counts from now on which of its present processes end."""
        if (one := self._known.get(start)) is not None and not one.ended:
            one.handle.watch_members(lambda: self._member_ended(one))

    def describe(self) -> dict[str, StartReport]:
        """Reads /proc: call it off the event loop."""
        known = dict(self._known)
        stats = self._driver.stats({start: one.handle for start, one in known.items()})
        return {
            start: StartReport(
                one.handle.pid, one.spec.run_file.name, one.ended, one.status, not stats[start].cpu, one.members,
                {_name(process): cpu for process, cpu in stats[start].cpu.items()}, stats[start].memory_bytes,
                stats[start].open_files,
            )
            for start, one in known.items()
        }  # fmt: skip

    def written(self, taken: Mapping[str, int]) -> dict[str, tuple[int, str]]:
        """What each wrote to its log since the bytes that were ``taken``. Reads files."""
        found = {}
        for start, one in list(self._known.items()):
            one.taken = max(one.taken, taken.get(start, 0))
            at, text = _read(one.spec.log, one.taken)
            if text:
                found[start] = at, text
            elif at < one.taken:
                one.taken = at  # it was rotated
        return found

    def rotate(self) -> None:
        for one in list(self._known.values()):
            logfile.rotate(one.spec.log)

    def ports(self, most: int) -> tuple[int, ...]:
        """Some on which a worker could listen."""
        return free_ports(most, self._random, self._host)

    def _spec(self, order: Order) -> WorkerSpec:
        return WorkerSpec(
            order.file, order.incarnation, order.argv, {**self._environment, **order.env}, self._home / "work",
            self._home / "logs" / f"{order.file}.log", self._home / "run" / order.file,
            WorkerEndpoint(order.port, self._host), "",
        )  # fmt: skip

    def _watch(self, start: str, handle: LocalHandle, spec: WorkerSpec, taken: int) -> None:
        one = self._known[start] = AgentStart(handle, spec, taken)

        def ended(status: int | None) -> None:
            one.ended, one.status = True, status
            self._changed()

        handle.watch(ended)
        self._changed()

    def _member_ended(self, one: AgentStart) -> None:
        one.members += 1
        self._changed()


class AgentStart:
    def __init__(self, handle: LocalHandle, spec: WorkerSpec, taken: int) -> None:
        self.handle, self.spec, self.taken = handle, spec, taken
        self.ended, self.members = False, 0
        self.status: int | None = None


def _name(process: Any) -> str:
    assert isinstance(process, ProcessId)
    return f"{process.pid}.{process.start_ticks}"


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0


def _read(log: Path, start: int) -> tuple[int, str]:
    """From ``start`` on, or the last of it where that is more than one answer holds; where that is, and the text."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < start:
                start = 0
            start = file.seek(max(start, size - protocol.LOG_CHUNK))
            raw = file.read(protocol.LOG_CHUNK)
    except OSError:
        return start, ""
    return start, raw.decode("utf-8", errors="surrogateescape")
