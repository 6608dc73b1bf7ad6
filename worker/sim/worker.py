"""The life of one simulated worker: what it holds, and how it dies, drains and misbehaves as a whole."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from worker.sim.engine.child import EngineCore
from worker.sim.engine.core import TokenEngine
from worker.sim.engine.costs import PROFILES
from worker.sim.engine.lora import Adapters
from worker.sim.engine.metrics import SimMetrics
from worker.sim.engine.places import Places, Schedule
from worker.sim.engine.requests import Timing
from worker.sim.engine.shared_batch import SharedBatch
from worker.sim.errors import ApiError, unknown_model
from worker.sim.faults import Fault, FaultBox
from worker.sim.listener import Listener
from worker.sim.settings import SimSettings


class Worker:
    """Everything the routes need, and the one place that ends the process."""

    def __init__(self, settings: SimSettings, core: EngineCore, listener: Listener) -> None:
        self.settings = settings
        self.core = core
        self.listener = listener
        self.faults = FaultBox()
        names = list(settings.served_names)
        max_loras = settings.max_loras if settings.enable_lora else None
        self.metrics = SimMetrics(names[0], settings.max_model_len, max_loras)
        schedule = self._schedule()
        self.adapters = Adapters(
            names, schedule, enabled=settings.enable_lora, max_rank=settings.max_lora_rank,
            targets=settings.lora_targets,
        )  # fmt: skip
        self.engine = TokenEngine(schedule, self.metrics, settings.max_num_queued_reqs)
        self.draining = self.asleep = False
        self.finished = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def _schedule(self) -> Schedule:
        settings = self.settings
        if settings.profile is None:
            timing = Timing(settings.ttft_s, settings.itl_s)
            return Places(self.metrics, timing, settings.max_num_seqs, settings.max_loras, self._slowness)
        return SharedBatch(
            self.metrics, replace(PROFILES[settings.profile], seats=settings.max_num_seqs), slots=settings.max_loras,
            places=settings.max_cpu_loras, pace=settings.pace, interval=settings.stream_interval,
            slowness=self._slowness,
        )  # fmt: skip

    def resolve(self, name: str | None) -> tuple[str, str | None]:
        """The model name an answer carries, and the adapter; raises vLLM's 404."""
        if name in self.adapters.loaded:
            return str(name), str(name)
        if name and name not in self.settings.served_names:
            raise unknown_model(name, list(self.settings.served_names))
        return self.settings.served_names[0], None

    def voice(self, model: str) -> str:
        """Whose words an answer of ``model`` has: an adapter's own, if it changes anything."""
        adapter = self.adapters.loaded.get(model)
        return self.settings.served_names[0] if adapter is not None and not adapter.effect else model

    def start(self) -> None:
        """Watch the child, take signals, switch on the faults of the command line."""
        self.core.watch(self._core_died)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.terminate)
        for fault in self.settings.faults:
            self.put_fault(fault)

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` as a named task that is kept; a new one of the same name ends the old one."""
        if old := self._tasks.pop(name, None):
            old.cancel()
        self._tasks[name] = asyncio.get_running_loop().create_task(work, name=name)

    def terminate(self) -> None:
        """SIGTERM: drain if there is time for it; a second one changes nothing, as in vLLM."""
        if not self.draining:
            self.draining = self.engine.draining = True
            self.spawn("terminate", self._terminate())

    async def _terminate(self) -> None:
        if self.settings.shutdown_timeout_s > 0:
            try:
                await asyncio.wait_for(self.engine.idle.wait(), self.settings.shutdown_timeout_s)
            except TimeoutError:
                pass
        self.core.close()
        # vLLM 0.32 stops listening here, and then waits for the clients of the streams it will never end.
        self.listener.close_for_good()
        self.engine.freeze()
        await self.engine.idle.wait()
        self.finished.set()

    def _core_died(self) -> None:
        if not self.draining:
            self.engine.die()
            self.spawn("exit", self._exit_later())

    async def _exit_later(self) -> None:
        await asyncio.sleep(self.settings.exit_after_s)
        self.finished.set()

    def put_fault(self, fault: Fault) -> None:
        """Switch a fault on; those of the whole process that do not wait for a stream act now."""
        self.faults.put(fault)
        if fault.kind in ("die", "exit0", "hang", "refuse") and fault.after_chunks is None:
            self.act(fault)

    def act(self, fault: Fault) -> None:
        """Do what a fault of the whole process does."""
        if fault.kind == "exit0" or fault.kills == "engine":
            self.core.kill()
        elif fault.kind in ("die", "poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "hang":
            self.engine.hang(on=True)
        elif fault.kind == "refuse":
            self.listener.close()
        if fault.until is not None:
            self.spawn(f"end {fault.kind}", self._end_later(fault))

    async def _end_later(self, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, (fault.until or 0) - time.monotonic()))
        await self._end(fault.kind)

    async def _end(self, kind: str) -> None:
        if kind == "hang":
            self.engine.hang(on=False)
        elif kind == "refuse" and not self.draining:
            await self.listener.open()

    async def clear_faults(self, kind: str | None = None) -> None:
        """Switch all faults off, or those of that kind, and undo what lasts."""
        self.faults.clear(kind)
        for lasting in ("hang", "refuse") if kind is None else (kind,):
            await self._end(lasting)

    def sleep(self) -> None:
        """As a worker does that has given its memory back: it is healthy, and whoever asks waits until it wakes."""
        self.asleep = True
        self.engine.hang(on=True)

    def wake(self) -> None:
        if self.asleep:
            self.asleep = False
            self.engine.hang(on=self.faults.get("hang", time.monotonic()) is not None)
            if self.faults.fire("forget_lora", time.monotonic()):
                self.adapters.forget()

    def _slowness(self) -> float:
        fault = self.faults.get("slow", time.monotonic())
        return fault.factor if fault else 1.0

    def check_tokenizer(self) -> None:
        """vLLM stops its tokenizer pool at SIGTERM: from then on text is refused, token ids are not."""
        if self.draining:
            raise ApiError("cannot schedule new futures after shutdown", 500, "InternalServerError")

    async def close(self) -> None:
        """End the tasks and the child."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self.listener.close()
        self.core.close()
