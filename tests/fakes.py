"""What the unit tests share: a clock, seeded randomness, workers that are no processes, and real tiny processes that
are gone after the test."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from config.settings import PLAIN_NAMES, PREFIX
from worker.drivers.local import Handle, spawn
from worker.spec import ProcessId, WorkerSpec

T = TypeVar("T")

#: Seconds that a condition may take to come true. Reached only by a failing test.
DEADLINE_S = 10.0


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        self.now += seconds
        return self.now


def rng(seed: int = 7) -> Random:
    """The same numbers in every run."""
    return Random(seed)


class FakeHandle(Handle):
    """A worker that is no process: it ends when told to."""

    def __init__(self, process: ProcessId) -> None:
        super().__init__(process)
        self.alive = True
        self.orphans: list[ProcessId] = []
        self.signals: list[signal.Signals] = []
        self._on_exit: Callable[[int | None], None] = lambda status: None

    def watch(self, on_exit: Callable[[int | None], None]) -> None:
        self._on_exit = on_exit

    def unwatch(self) -> None:
        self._on_exit = lambda status: None

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def survivors(self) -> list[ProcessId]:
        return [*([self.process] if self.alive else []), *self.orphans]

    def kill_tree(self) -> list[ProcessId]:
        found = self.survivors()
        self.orphans = []
        if self.alive:
            self.die(-signal.SIGKILL)
        return found

    def die(self, status: int | None, orphans: int = 0) -> None:
        """Ends the main process; ``orphans`` of its session live on."""
        self.alive = False
        self.orphans = [ProcessId(self.pid + 1 + n, self.process.start_ticks) for n in range(orphans)]
        self._on_exit(status)


class FakeLauncher:
    """Starts workers that are none. ``refuse`` makes the next starts fail."""

    def __init__(self) -> None:
        self.started: list[WorkerSpec] = []
        self.handles: dict[ProcessId, FakeHandle] = {}
        self.refuse: OSError | None = None

    def start(self, spec: WorkerSpec) -> FakeHandle:
        if self.refuse is not None:
            raise self.refuse
        self.started.append(spec)
        handle = FakeHandle(ProcessId(100 * len(self.started), 1))
        self.handles[handle.process] = handle
        return handle

    def adopt(self, process: ProcessId) -> FakeHandle | None:
        handle = self.handles.get(process)
        return handle if handle is not None and handle.alive else None


class Processes:
    """Real processes by `worker.drivers.local.spawn`; `end` leaves none of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handles: list[Handle] = []

    def start(self, *argv: str, name: str = "worker", env: dict[str, str] | None = None, **options: object) -> Handle:
        cwd = options.pop("cwd", self.folder)
        handle = spawn(
            argv, env={"PATH": os.environ["PATH"], **(env or {})}, cwd=cwd, log=self.log(name),  # type: ignore[arg-type]
            run_file=self.run_file(name), **options,  # type: ignore[arg-type]
        )
        self._handles.append(handle)
        return handle

    def shell(self, script: str, name: str = "worker", **options: object) -> Handle:
        return self.start("sh", "-c", script, name=name, **options)  # type: ignore[arg-type]

    def own(self, process: ProcessId) -> Handle:
        """A handle of a process that came to be another way, ended with the others."""
        handle = Handle(process)
        self._handles.append(handle)
        return handle

    def log(self, name: str = "worker") -> Path:
        return self.folder / f"{name}.log"

    def run_file(self, name: str = "worker") -> Path:
        return self.folder / f"{name}.run"

    def end(self) -> None:
        for handle in self._handles:
            eventually(lambda h=handle: not h.kill_tree())  # type: ignore[misc]
            if handle._popen is not None:
                handle._popen.kill()  # whatever became of its session
                handle._popen.wait(timeout=DEADLINE_S)


def eventually(condition: Callable[[], T]) -> T:
    """The first true value of ``condition``, looked at until the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < end, "the deadline has passed"
        time.sleep(0.005)
    return value


async def soon(condition: Callable[[], T]) -> T:
    """`eventually`, while the event loop goes on."""
    end = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < end, "the deadline has passed"
        await asyncio.sleep(0.005)
    return value


def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody had set anything for us."""
    for name in list(os.environ):
        if name.startswith(PREFIX) or name in {*PLAIN_NAMES.values(), "CUDA_VISIBLE_DEVICES"}:
            monkeypatch.delenv(name)
