"""A driver whose workers are no processes: they end when told to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from worker.drivers.base import Handle, WorkerStats
from worker.spec import WorkerEndpoint, WorkerSpec

#: Where the next worker is to listen, unless a test says otherwise.
FIRST_PORT = 20_000


class FakeHandle:
    """`alive` until `die`; ``stops`` counts how often it was asked to end, and ``on_stop`` is called then."""

    def __init__(self, pid: int = 100, endpoint: WorkerEndpoint | None = None) -> None:
        self.pid, self.endpoint = pid, endpoint or WorkerEndpoint(FIRST_PORT)
        self.alive, self.orphans, self.stops = True, 0, 0
        self.written: list[str] = []
        self.on_stop: Callable[[], None] = lambda: None
        self._status: int | None = None
        self._on_exit: Callable[[int | None], None] | None = None
        self._on_member: Callable[[], None] = lambda: None

    @property
    def identity(self) -> dict[str, Any]:
        return {"pid": self.pid, "start_ticks": 1}

    def watch(self, on_exit: Callable[[int | None], None]) -> None:
        self._on_exit = on_exit
        if not self.alive:
            asyncio.get_running_loop().call_soon(self._tell)

    def watch_members(self, on_exit: Callable[[], None]) -> None:
        self._on_member = on_exit

    def unwatch(self) -> None:
        self._on_exit, self._on_member = None, lambda: None

    def stop(self) -> None:
        if self.alive:
            self.stops += 1
            self.on_stop()

    def destroy(self) -> bool:
        there = not self.empty()
        self.orphans = 0
        if self.alive:
            self.die(-signal.SIGKILL)
        return there

    def empty(self) -> bool:
        return not self.alive and not self.orphans

    def logs(self, lines: int) -> list[str]:
        return self.written[-lines:] if lines > 0 else []

    async def provide(self, folder: Path, held: Collection[Path]) -> Path:
        return folder

    def origin(self, path: str) -> str:
        return path

    def die(self, status: int | None, orphans: int = 0) -> None:
        """Ends its main process; so many others live on."""
        self.alive, self.orphans, self._status = False, orphans, status
        self._tell()

    def lose_member(self) -> None:
        self._on_member()

    def _tell(self) -> None:
        on_exit, self._on_exit = self._on_exit, None
        if on_exit is not None:
            on_exit(self._status)


class FakeDriver:
    """``refuse`` makes the next starts fail; ``started`` and ``handles`` are in the order of the starts; ``on_start``
    is called with each."""

    waits = False

    def __init__(self) -> None:
        self.started: list[WorkerSpec] = []
        self.handles: list[FakeHandle] = []
        self.refuse: OSError | None = None
        self.on_start: Callable[[WorkerSpec, FakeHandle], None] = lambda spec, handle: None
        self.boots, self.expected = 1, 0
        self._records: dict[Path, dict[str, Any] | None] = {}
        self._runs: dict[Path, FakeHandle] = {}

    def boot(self) -> str:
        return f"boot {self.boots}"

    def reserve(self, taken: Collection[WorkerEndpoint]) -> WorkerEndpoint:
        ports = {endpoint.port for endpoint in taken}
        return WorkerEndpoint(next(port for port in range(FIRST_PORT, 65536) if port not in ports))

    def prepare(self, path: Path, record: Mapping[str, Any] | None = None) -> None:
        self._records[path] = None if record is None else dict(record)
        self._runs.pop(path, None)

    def prepared(self, path: Path) -> dict[str, Any] | None:
        return self._records.get(path)

    def start(self, spec: WorkerSpec, title: str) -> FakeHandle:
        if self.refuse is not None:
            raise self.refuse
        self.started.append(spec)
        handle = self.make(spec)
        handle.written.append(f"--- {title}")
        self.handles.append(handle)
        self._runs[spec.run_file] = handle
        self.on_start(spec, handle)
        return handle

    def make(self, spec: WorkerSpec) -> FakeHandle:
        return FakeHandle(100 * len(self.started), spec.endpoint)

    def recover(self, spec: WorkerSpec, identity: Mapping[str, Any] | None) -> FakeHandle | None:
        if identity is None:
            return self._runs.get(spec.run_file)
        return next((handle for handle in self.handles if handle.identity == identity), None)

    def stats(self, handles: Mapping[str, Handle]) -> dict[str, WorkerStats]:
        return {name: WorkerStats(name, {} if h.empty() else {name: 0.0}, 0, 0) for name, h in handles.items()}

    def expect(self, workers: int) -> None:
        self.expected = workers

    def end(self) -> None: ...

    def close(self) -> None: ...
