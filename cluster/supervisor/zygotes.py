"""Keeps the zygotes that workers are forked from (`worker.zygote`): one for each environment that plans ask for.

A zygote is as any other process of the cluster: it outlives the supervisor and is adopted by the next one, is started
again when it ends, and made anew when what it has imported is not what is installed any more. No worker needs it: while
there is none a worker is started plainly. Only while one is importing, which is quicker than a plain start, does a
start wait for it.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.deployment import forks
from cluster.deployment.forks import reason_against
from cluster.deployment.revisions import Revisions
from cluster.events import Emit
from cluster.fleet.fleet import Fleet
from cluster.fleet.restart import Backoff
from cluster.supervisor.zygote_process import PREFIX, ask, end, end_left, key_of, kill, left
from config.aio import Tasks
from config.paths import StateDir
from worker.drivers import fingerprint, run_file
from worker.drivers.forked import ForkFailed
from worker.drivers.process import Process, spawn
from worker.spec import Fork

#: A zygote holds what an engine is in memory: not more of them than this.
_MOST = 3

#: How long (s) importing may take: some 6 s for vLLM alone on two cores, seven times that where others compute.
_IMPORT_S = 180.0

#: How long (s) a worker waits for that before it is started plainly.
PATIENCE_S = 90.0

#: Seconds between two looks at what is wanted and what is installed.
_EVERY_S = 2.0

#: How long (s) one that did not fork what it was asked for is left alone.
_DISTRUST_S = 300.0

#: How long (s) one is kept that no plan asks for any more.
_UNWANTED_S = 300.0


@dataclass(eq=False)
class KeptZygote:
    """One zygote, over all its processes. ``ready``: it forks. Seconds, monotonic: its process was started at
    ``since``; it is left alone until ``distrusted``; it was ``wanted`` last. ``obstacle``: why it forks nothing, in
    words. ``over``: its process has ended."""

    name: str
    fork: Fork
    handle: Process | None = None
    ready: bool = False
    since: float = 0.0
    distrusted: float = 0.0
    wanted: float = 0.0
    failures: int = 0
    starts: int = 0
    obstacle: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)


def wanted_forks(fleet: Fleet, revisions: Revisions) -> list[Fork | str]:
    """What the workers that there should be could be forked from, or why they cannot be."""
    groups = fleet.intent.desired.groups
    wanted = [plan for name, plan in revisions.plans.items() if name in groups and groups[name].wanted]
    return [forks.of(plan) for plan in wanted if not plan.broken]


class Zygotes:
    """``mode``: the setting in force. ``wanted``: what the workers that there should be could be forked from.
    ``changed`` is called when one is ready, or is not any more. More methods than a class should have: each zygote is
    started, watched, asked and ended, and adopted or left behind, as the table of all of them says."""

    def __init__(
        self, state: StateDir, mode: Callable[[], str], wanted: Callable[[], Iterable[Fork | str]], emit: Emit,
        changed: Callable[[], None], now: Callable[[], float],
    ) -> None:
        self._state, self._mode, self._wanted = state, mode, wanted
        self._emit, self._changed, self._now = emit, changed, now
        self._kept: dict[Fork, KeptZygote] = {}
        self._left: dict[str, tuple[str, Process]] = {}
        self._tasks = Tasks()
        self._said: set[str] = set()
        #: Names that are not free yet.
        self._ending: set[str] = set()
        self._reasons: list[str] = []
        self._installed = ""
        self._backoff = Backoff()
        self._loop: asyncio.AbstractEventLoop | None = None

    # for whoever starts workers

    def waits(self, fork: Fork | str) -> bool:
        """Whether a start should wait: the zygote is importing what a plain start would have to import as well."""
        kept = self._usable(fork)
        if kept is not None:
            self._renew(fingerprint.installed())  # what it would load later has to be of what it has imported
        return (
            kept is not None and not kept.ready and not kept.obstacle and kept.handle is not None
            and self._now() - kept.since < PATIENCE_S
        )  # fmt: skip

    def ready(self, fork: Fork | str) -> Path | None:
        """Where the one listens that a worker is to be forked from; None: start it plainly."""
        kept = self._usable(fork)
        return self._socket(kept) if kept is not None and kept.ready else None

    def failed(self, path: Path, error: ForkFailed) -> None:
        """One that did not fork what it was asked for; called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._on_failure, path, error)

    def _usable(self, fork: Fork | str) -> KeptZygote | None:
        if isinstance(fork, str) or self._loop is None or reason_against(self._mode(), fork):
            return None
        if fork not in self._kept and len(self._kept) < _MOST:
            self._keep(fork)
        kept = self._kept.get(fork)
        return kept if kept is not None and self._now() >= kept.distrusted else None

    def _on_failure(self, path: Path, error: ForkFailed) -> None:
        kept = next((one for one in self._kept.values() if self._socket(one) == path), None)
        self._emit(
            kept.name if kept else PREFIX, f"forked no worker ({error}): it is started plainly", kind="zygote.refused",
            data={"reason": str(error)},
        )
        if kept is None:
            return
        if error.refused or error.hung:
            kept.distrusted = self._now() + _DISTRUST_S
        if error.hung and kept.handle is not None:
            kept.ready = False
            self._tasks.start(kill(kept.handle), f"end {kept.name}")

    # what there is

    @property
    def pids(self) -> dict[str, int]:
        return {one.name: one.handle.pid for one in self._kept.values() if one.handle is not None}

    @property
    def logs(self) -> list[str]:
        return [one.name for one in self._kept.values()]

    def describe(self, used: Mapping[str, Any]) -> dict[str, Any]:
        """By name, for status. ``used``: as `UsageSampler.latest` has it by process."""
        return {
            "mode": self._mode(),
            "plain": "; ".join(self._reasons),
            "processes": [
                {
                    "name": one.name, "pid": one.handle.pid if one.handle else None, "ready": one.ready,
                    "reason": one.obstacle, "restarts": max(0, one.starts - 1),
                    "memory_mb": round(used.get(one.name, {}).get("memory_bytes", 0) / 1e6, 1),
                }
                for one in self._kept.values()
            ],
        }  # fmt: skip

    # as long as the supervisor runs

    def begin(self) -> None:
        """Finds what an earlier supervisor left, and starts what is wanted: what is imported meanwhile need not be
        waited for later."""
        self._loop = asyncio.get_running_loop()
        self._installed = fingerprint.installed()
        self._left = left(self._state)
        self._look()
        self._tasks.start(self._watch(), "which zygotes are wanted")

    async def stop(self) -> None:
        """Ends them all. Their workers would go on."""
        await self._tasks.close()
        kept, self._kept = list(self._kept.values()), {}
        for one in kept:  # by what is known here: it may not have written itself down yet
            if one.handle is not None:
                one.handle.unwatch()
                await end(self._state, one.name, one.handle)
                if one.handle.popen is not None:
                    await asyncio.to_thread(one.handle.popen.wait)
        await end_left(self._state)

    async def close(self) -> None:
        """Leaves them running."""
        await self._tasks.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            before = self._installed
            found = await asyncio.to_thread(fingerprint.installed)
            if self._installed == before:  # a start may have looked meanwhile, and later than this
                self._renew(found)
            self._look()

    def _renew(self, installed: str) -> None:
        """Those that have imported something else than what is ``installed`` now."""
        if installed == self._installed:
            return
        self._installed = installed
        for one in self._kept.values():
            if one.handle is not None:
                self._emit(one.name, "what is installed has changed: it is made anew", kind="zygote.renewed")
                one.ready, one.failures, one.since = False, 0, self._now()
                self._tasks.start(kill(one.handle), f"renew {one.name}")

    def _look(self) -> None:
        wanted, mode, now = set(self._wanted()), self._mode(), self._now()
        self._reasons = sorted({why for fork in wanted if (why := reason_against(mode, fork))})
        for why in self._reasons if mode == "on" else ():
            if why not in self._said:
                self._said.add(why)
                self._emit(PREFIX, f"workers are started plainly: {why}", kind="zygote.plain")
        for fork in wanted:
            if (one := self._usable(fork)) is not None:
                one.wanted = now
        for one in list(self._kept.values()):
            if mode == "off" or now - one.wanted > _UNWANTED_S:
                self._dismiss(one)
        for name, (_, process) in self._left.items():
            self._end(name, process)
        self._left = {}

    def _keep(self, fork: Fork) -> None:
        adopted = next((name for name, (key, _) in self._left.items() if key == self._key(fork)), None)
        taken = {one.name for one in self._kept.values()} | self._left.keys() | self._ending
        free = (PREFIX if n == 0 else f"{PREFIX}-{n}" for n in itertools.count())
        one = KeptZygote(adopted or next(name for name in free if name not in taken), fork, wanted=self._now())
        self._kept[fork] = one
        if adopted is not None:
            one.handle, one.since, one.starts = self._left.pop(adopted)[1], self._now(), 1
            self._emit(one.name, f"adopted (pid {one.handle.pid})", kind="zygote.adopted", data={"pid": one.handle.pid})
        else:
            self._try_to_start(one)
        self._tasks.start(self._run(one), f"keep {one.name}")

    def _dismiss(self, one: KeptZygote) -> None:
        del self._kept[one.fork]
        if one.handle is not None:
            self._end(one.name, one.handle)

    def _end(self, name: str, process: Process) -> None:
        async def ending() -> None:
            await end(self._state, name, process)
            self._ending.discard(name)

        self._ending.add(name)
        self._tasks.start(ending(), f"end {name}")

    def _key(self, fork: Fork) -> str:
        """Also of what is installed: one that has imported something else is no match."""
        return f"{key_of(fork)}.{self._installed}"

    def _socket(self, one: KeptZygote) -> Path:
        return self._state.root / f"{one.name}.sock"

    def _try_to_start(self, one: KeptZygote) -> None:
        path = self._state.run(one.name)
        one.since, one.ready, one.obstacle, one.handle = self._now(), False, "", None
        one.over.clear()
        one.starts += 1
        try:
            run_file.prepare(path, {"zygote": self._key(one.fork)})
            one.handle = spawn(
                (sys.executable, "-m", "worker.zygote", f"{one.name}.sock", one.fork.module),
                env=dict(one.fork.environment), cwd=self._state.root, log=self._state.log(one.name), run_file=path,
            )
        except OSError as error:
            one.obstacle = str(error)

    async def _run(self, one: KeptZygote) -> None:
        """Until it is dismissed."""
        while self._kept.get(one.fork) is one:
            handle, status = one.handle, list[int | None]()
            if handle is not None:
                def ended(code: int | None, seen: list[int | None] = status) -> None:
                    seen.append(code)
                    one.ready = False
                    one.over.set()

                handle.watch(ended)
                await self._introduce(one)
                await one.over.wait()
                if self._kept.get(one.fork) is not one:
                    return
                code, one.handle = status[0] if status else None, None
                self._emit(one.name, f"ended (pid {handle.pid}, status {code}); another is started",
                           kind="zygote.ended", data={"pid": handle.pid, "status": code})  # fmt: skip
                self._changed()
            await asyncio.sleep(self._backoff.delay(one.failures - 1, lambda: 0.0))
            if self._kept.get(one.fork) is one:
                one.failures += 1
                self._try_to_start(one)

    async def _introduce(self, one: KeptZygote) -> None:
        """Waits until it has imported everything; ends it where it does not in time, or is somebody else."""
        asking = self._tasks.start(ask(self._socket(one)), f"introduce {one.name}")
        over = self._tasks.start(one.over.wait(), f"end of {one.name}")
        await asyncio.wait({asking, over}, return_when=asyncio.FIRST_COMPLETED, timeout=_IMPORT_S)
        over.cancel()
        answer = asking.result() if asking.done() and not asking.cancelled() else None
        asking.cancel()
        if one.over.is_set() or one.handle is None:
            return
        if answer is None or answer.get("identity") != one.handle.identity:
            await kill(one.handle)
            return
        one.obstacle = answer.get("obstacle") or ""
        one.ready = not one.obstacle
        seconds, data = self._now() - one.since, {"pid": one.handle.pid, "reason": one.obstacle}
        if one.obstacle:
            self._emit(one.name, f"cannot be forked: {one.obstacle}", kind="zygote.obstacle", data=data)
        else:
            self._emit(one.name, f"ready after {seconds:.1f} s (pid {one.handle.pid})", kind="zygote.ready", data=data)
            one.failures = 0
        self._changed()
