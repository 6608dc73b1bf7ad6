"""What the unit tests share: a clock, seeded randomness, and real tiny processes that
are gone after the test."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from config.sources.names import ALL_PLAIN, PREFIX
from worker.drivers.proc import ProcessId
from worker.drivers.process import Process, spawn

T = TypeVar("T")

#: Seconds that a condition may take to come true. Reached only by a failing test.
DEADLINE_S = 20.0


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


class Processes:
    """Real processes by `worker.drivers.process.spawn`; `end` leaves none of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handles: list[Process] = []

    def start(self, *argv: str, name: str = "worker", env: dict[str, str] | None = None, **options: object) -> Process:
        cwd = options.pop("cwd", self.folder)
        handle = spawn(
            argv, env={"PATH": os.environ["PATH"], **(env or {})}, cwd=cwd, log=self.log(name),  # type: ignore[arg-type]
            run_file=self.run_file(name), **options,  # type: ignore[arg-type]
        )
        self._handles.append(handle)
        return handle

    def shell(self, script: str, name: str = "worker", **options: object) -> Process:
        return self.start("sh", "-c", script, name=name, **options)  # type: ignore[arg-type]

    def own(self, process: ProcessId) -> Process:
        """A handle of a process that came to be another way, ended with the others."""
        handle = Process(process)
        self._handles.append(handle)
        return handle

    def log(self, name: str = "worker") -> Path:
        return self.folder / f"{name}.log"

    def run_file(self, name: str = "worker") -> Path:
        return self.folder / f"{name}.run"

    def end(self) -> None:
        for handle in self._handles:
            eventually(lambda h=handle: not h.kill_tree())  # type: ignore[misc]
            if handle.popen is not None:
                handle.popen.kill()  # whatever became of its session
                handle.popen.wait(timeout=DEADLINE_S)


#: Between the first two looks at what most often is there at once, and then twice as long each time, up to 5 ms.
FIRST_PAUSE_S = 0.0005


def longer(pause: float) -> float:
    return min(2 * pause, 0.005)


def eventually(condition: Callable[[], T], seconds: float = DEADLINE_S) -> T:
    """The first true value of ``condition``, looked at until the deadline."""
    end, pause = time.monotonic() + seconds, FIRST_PAUSE_S
    while not (value := condition()):
        assert time.monotonic() < end, "the deadline has passed"
        time.sleep(pause)
        pause = longer(pause)
    return value


async def soon(condition: Callable[[], T], what: str = "it", seconds: float = DEADLINE_S) -> T:
    """`eventually`, while the event loop goes on. ``what`` has not happened if it fails."""
    end, pause = time.monotonic() + seconds, FIRST_PAUSE_S
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        await asyncio.sleep(pause)
        pause = longer(pause)
    return value


def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody had set anything for us."""
    for name in list(os.environ):
        if name.startswith(PREFIX) or name in {*ALL_PLAIN, "CUDA_VISIBLE_DEVICES"}:
            monkeypatch.delenv(name)
