"""What can happen to one worker. Each fault is begun by `start` and over with `finish`; times in seconds of the
monotonic clock."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Any, ClassVar

import psutil

from chaos.arena import Arena, Status

#: How long anything may take to be whole again.
PATIENCE = {"sim": 45.0, "vllm": 300.0}
#: A worker that dies sooner after it was ready is on its way to a crash loop, and rightly so.
SERVED = 3.2


class Fault:
    """One thing that goes wrong, once. ``problem`` says in words what was promised and did not come."""

    name: ClassVar[str]
    #: Possible with the simulated worker only.
    sim_only: ClassVar[bool] = False
    #: Not at the same time as another one of this group.
    group: ClassVar[str] = ""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.began = 0.0
        self.detected: float | None = None
        self.restored: float | None = None
        self.ended: float | None = None
        self.problem = ""
        self.note = ""

    @property
    def patience(self) -> float:
        return PATIENCE[self.arena.engine]

    async def start(self) -> None:
        self.began = time.monotonic()

    async def finish(self) -> None:
        """Waits until what was hit is whole again."""
        self.restored = await self.arena.until(self.arena.whole, self.patience)
        if self.restored is None:
            self.blame(f"not whole again within {self.patience:g} s")

    async def clear(self) -> None:
        """Takes back what is left of it; called whatever happened."""
        self.ended = time.monotonic()

    def blame(self, words: str) -> None:
        self.problem = f"{self.problem}; {words}" if self.problem else words

    def late(self, words: str) -> None:
        """A promise of time, which means little on a machine that others use as well."""
        if self.arena.strict:
            self.blame(words)


class OnWorker(Fault):
    """Hits one worker that serves."""

    group = "worker"
    #: Noticed within so many seconds, where that is promised.
    notice: float | None = None

    async def start(self) -> None:
        await self.arena.until(lambda _: bool(self.arena.ready(SERVED)), self.patience)
        there = self.arena.ready(SERVED)
        if not there:
            self.began = time.monotonic()
            self.blame("no worker was there to be hit")
            return
        self.victim = self.arena.chooser.choice(there)
        self.arena.busy.add(self.victim)
        self.pid = int(self.arena.instance(self.victim)["pid"])
        self.began = time.monotonic()
        await self.strike()

    async def strike(self) -> None:
        raise NotImplementedError

    def _noticed(self, status: Status) -> bool:
        seen = status["instances"].get(self.victim)
        return seen is None or not seen["is_running"] or seen["pid"] != self.pid

    def _replaced(self, status: Status) -> bool:
        seen = status["instances"].get(self.victim)
        return seen is None or (seen["is_running"] and seen["pid"] != self.pid)

    async def finish(self) -> None:
        if self.problem:
            return
        self.detected = await self.arena.until(self._noticed, self.patience)
        if self.detected is None:
            return self.blame(f"{self.victim} was not seen to fail within {self.patience:g} s")
        self.restored = await self.arena.until(self._replaced, self.patience)
        if self.restored is None:
            self.blame(f"{self.victim} was not replaced within {self.patience:g} s")
        elif self.notice is not None and self.detected - self.began > self.notice:
            self.late(f"noticed after {self.detected - self.began:.1f} s, promised within {self.notice:g} s")

    async def clear(self) -> None:
        await super().clear()
        self.arena.busy.discard(getattr(self, "victim", ""))


class Kill(OnWorker):
    name = "kill worker"

    async def strike(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class KillEngine(OnWorker):
    """The engine's process only: the simulator's child, vLLM's EngineCore."""

    name, notice = "kill engine", 2.0

    async def strike(self) -> None:
        children = psutil.Process(self.pid).children(recursive=True)
        core = next((c for c in children if "EngineCor" in c.name()), children[0])  # the kernel keeps 15 letters
        core.kill()


class Stop(OnWorker):
    """SIGSTOP: it lives and does nothing."""

    name = "stop worker"

    async def strike(self) -> None:
        self.notice = self.arena.stall_timeout + 1
        os.kill(self.pid, signal.SIGSTOP)

    async def clear(self) -> None:
        await super().clear()
        if self.arena.instance(getattr(self, "victim", "")).get("pid") == getattr(self, "pid", 0):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Told(OnWorker):
    """A simulated worker is told to fail; it lives on, and is whole once that is used up."""

    sim_only = True
    options: ClassVar[dict[str, Any]]

    async def strike(self) -> None:
        if await self.arena.tell_worker(self.victim, "POST", "/sim/fault", self.options) is None:
            self.blame(f"{self.victim} could not be told to fail")

    async def finish(self) -> None:
        """Over when the fault is and nothing stands still because of it, or when the worker was replaced."""
        deadline = time.monotonic() + self.patience
        while not self.problem and time.monotonic() < deadline:
            state = await self.arena.tell_worker(self.victim, "GET", "/sim/state")
            if state is not None and not self._on(state) and not state["stalled"]:
                return await Fault.finish(self)
            if self.arena.instance(self.victim).get("pid") != self.pid:
                return await Fault.finish(self)
            await asyncio.sleep(0.05)
        self.blame("it was not used up: too few requests came")

    async def clear(self) -> None:
        await super().clear()
        if hasattr(self, "victim"):
            await self.arena.tell_worker(self.victim, "DELETE", f"/sim/fault?kind={self.options['kind']}")

    def _on(self, state: dict[str, Any]) -> bool:
        return any(fault["kind"] == self.options["kind"] for fault in state["faults"])


class Replaced(Told):
    """One after which the worker has to be replaced."""

    async def finish(self) -> None:
        await OnWorker.finish(self)

    async def clear(self) -> None:
        """What still has the old pid is killed: the next fault shall find a whole cluster."""
        await OnWorker.clear(self)
        if self.restored is None and hasattr(self, "pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Exit0(Replaced):
    name, options, notice = "exit 0", {"kind": "exit0"}, 2.0


class Hang(Replaced):
    """The engine stands still, while /health says that all is well."""

    name, options = "hang", {"kind": "hang"}

    async def strike(self) -> None:
        self.notice = self.arena.stall_timeout + 1
        await super().strike()


class Stall(Told):
    """Single streams stand still, the others of the worker go on."""

    name, options = "stall", {"kind": "stall", "after_chunks": 9, "count": 2}


class ErrorEvent(Told):
    name, options = "error event", {"kind": "error_event", "after_chunks": 12, "count": 3}


class Abort(Told):
    name, options = "abort", {"kind": "abort", "after_chunks": 6, "count": 3}


class Reset(Told):
    name, options = "reset", {"kind": "reset", "after_chunks": 10, "count": 3}


class Garbage(Told):
    """In the middle of a stream."""

    name, options = "garbage", {"kind": "garbage", "after_chunks": 8, "count": 3}


class GarbageFirst(Told):
    """In place of an answer."""

    name, options = "garbage first", {"kind": "garbage", "count": 3}


class Error500(Told):
    name, options = "error 500", {"kind": "error500", "count": 3}


class Slow(Told):
    name, options = "slow", {"kind": "slow", "factor": 15, "for_s": 2}


class Refused(Told):
    name, options = "refused", {"kind": "refuse", "for_s": 2}

    async def finish(self) -> None:
        """It cannot be asked: it is over when its time is."""
        self.detected = await self.arena.until(self._noticed, 2.0)
        await asyncio.sleep(max(0.0, self.began + 2.0 - time.monotonic()))
        await Fault.finish(self)
