"""What watches the workers, and reports into the supervisor's inbox. Nothing here changes state by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import aiohttp

from cluster import monitor
from cluster.adapter_agent import AdapterAgent
from cluster.attached import Attached
from cluster.fleet import Fleet
from cluster.instance import Instance
from cluster.liveness import Health
from cluster.monitor import ProbePlan
from cluster.rollout import Holder
from cluster.state import WorkerState
from config.aio import Tasks
from worker.probe import ProbeFailed, Readiness, Target

if TYPE_CHECKING:
    from cluster.supervisor import Supervisor

#: Seconds that one load or unload of an adapter may take.
_ADAPTER_S = 120.0

#: Seconds that the balancer may take to confirm a backend set.
_CONFIRM_S = 1.0


class Watchers:
    """The tasks that probe, keep adapters in line and sweep. ``http`` has to be set before the first is started."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._tasks = Tasks()
        self._watching: dict[str, list[asyncio.Task[Any]]] = {}
        self._sweeping: set[str] = set()
        self.http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        await self._tasks.close()

    def forget(self, instance: Instance) -> None:
        """It has ended: there is nothing to watch any more."""
        for task in self._watching.pop(instance.id, []):
            task.cancel()

    def watch(self, instance: Instance) -> None:
        """From its start, or its adoption, to its end."""
        supervisor = self._supervisor
        handle, spec, incarnation = instance.handle, instance.spec, instance.incarnation
        if handle is None or spec is None:
            return

        def ended(status: int | None) -> None:
            seen = supervisor.now()
            supervisor.post(lambda: supervisor.exited(instance, handle, status, seen))

        handle.watch(ended)
        settings = self._supervisor.plan.settings
        target = Target(self._session(), spec.url, spec.api_key, settings.health_timeout)
        known = {WorkerState.READY: Health.WELL, WorkerState.UNHEALTHY: Health.OUT}.get(instance.state)
        agent = self._agent(instance, target)
        agent.loaded = dict(instance.held)
        instance.agent = agent
        alarm = asyncio.Event()
        reporter = _Report(supervisor, instance, incarnation, alarm)
        if known is not None:
            handle.watch_members(alarm.set)
            agent.dirty.set()  # what it was last seen to hold need not be what it should hold
        # Two tasks: a long load of an adapter must not hold up a probe.
        watching = monitor.watch(
            target, self._probe_plan(), reporter, known=known, alarm=alarm, prepare=agent.sync
        )
        self._watching[instance.id] = [
            self._tasks.start(watching, f"probe {instance.id} #{incarnation}"),
            self._tasks.start(self._tend(instance, agent), f"adapters of {instance.id} #{incarnation}"),
        ]

    async def _tend(self, instance: Holder, agent: AdapterAgent) -> None:
        """Keeps a ready worker's adapters in line."""
        while True:
            await agent.dirty.wait()
            if instance.state is not WorkerState.READY:
                agent.dirty.clear()  # readiness will see to it
                continue
            try:
                await agent.sync()
            except ProbeFailed as error:
                self._supervisor.events.tell(
                    instance.id, f"adapters: {error}", kind="adapter.failed", data={"reason": str(error)}
                )
                await asyncio.sleep(self._supervisor.plan.settings.health_interval)
                agent.dirty.set()

    async def _withheld(self, name: str) -> None:
        """Returns when the balancer has confirmed that it sends the worker nothing for that adapter any more."""
        supervisor = self._supervisor
        await supervisor.command(lambda: None)  # publishes what is withheld now
        version = (supervisor.epoch, supervisor.revision)
        deadline = supervisor.now() + _CONFIRM_S
        balancer = supervisor.balancer
        while balancer.connected and supervisor.confirmed < version and supervisor.now() < deadline:
            await asyncio.sleep(0.002)

    def attach(self, attached: Attached) -> None:
        """Probes a server that is not ours and, if that is asked for, looks after its adapters."""
        timeout = self._supervisor.plan.settings.health_timeout
        if self._supervisor.plan.settings.manage_backend_adapters:
            target = Target(self._session(), attached.spec.address, attached.spec.api_key, timeout)
            attached.agent = self._agent(attached, target)
            self._tasks.start(self._tend(attached, attached.agent), f"adapters of {attached.id}")
        plan = self._probe_plan(health_required=False)
        self._tasks.start(attached.run(self._session(), plan, timeout), f"probe {attached.id}")

    def _agent(self, holder: Holder, target: Target) -> AdapterAgent:
        supervisor = self._supervisor
        return AdapterAgent(
            target, lambda: supervisor.rollouts.wanted(holder.id), self._withheld,
            supervisor.wake, supervisor.now, _ADAPTER_S, supervisor.plan.foreign_adapters,
        )

    def _probe_plan(self, health_required: bool = True) -> ProbePlan:
        settings = self._supervisor.plan.settings
        return ProbePlan(
            startup_interval=self._supervisor.plan.engine.startup_interval, interval=settings.health_interval,
            failures=settings.health_failures,
            fatal=max(settings.restart_failures, settings.health_failures), health_required=health_required,
        )

    def sweep(self, instance: Instance) -> None:
        """Kills until nothing of the worker's session is left; the process itself is gone already."""
        if instance.id in self._sweeping or instance.last_exit is None:
            return
        supervisor = self._supervisor
        self._sweeping.add(instance.id)
        process = instance.swept

        async def sweep() -> None:
            while process is not None and len(await asyncio.to_thread(process.kill_tree)):
                await asyncio.sleep(0.02)
            self._sweeping.discard(instance.id)
            supervisor.post(lambda: supervisor.fleet.tree_empty(instance, supervisor.now()))

        self._tasks.start(sweep(), f"sweep {instance.id}")

    def _session(self) -> aiohttp.ClientSession:
        assert self.http is not None
        return self.http


class _Report:
    """Brings a monitor's findings into the inbox, unless they are about an incarnation that is gone."""

    def __init__(self, supervisor: Supervisor, instance: Instance, incarnation: int, alarm: asyncio.Event) -> None:
        self._supervisor, self._instance, self._incarnation = supervisor, instance, incarnation
        self._alarm = alarm
        self._alive_at = supervisor.now()

    def _post(self, change: Callable[[Fleet, float], None]) -> None:
        def event() -> None:
            if self._instance.incarnation == self._incarnation:
                change(self._supervisor.fleet, self._supervisor.now())

        self._supervisor.post(event)

    def phase(self, text: str) -> None:
        if self._instance.incarnation == self._incarnation:
            self._instance.phase = text

    def ready(self, result: Readiness) -> None:
        def ready(fleet: Fleet, now: float) -> None:
            self._alive_at = now
            fleet.ready(self._instance, result, now)
            self._supervisor.recovery.ready(self._instance.id, now)
            if self._instance.agent is not None:
                self._instance.agent.dirty.set()  # something may have been changed during its first token
            if self._instance.handle is not None:
                self._instance.handle.watch_members(self._alarm.set)

        self._post(ready)

    def looked(self, cards: tuple[dict[str, Any], ...]) -> None:
        self._alive_at = self._supervisor.now()
        agent = self._instance.agent
        if agent is not None and self._instance.incarnation == self._incarnation and agent.look(cards):
            self._supervisor.events.tell(
                self._instance.id, "had its adapters changed behind our back: repairing", kind="adapter.drift"
            )

    def unhealthy(self, why: str, lost: bool) -> None:
        def unhealthy(fleet: Fleet, now: float) -> None:
            if self._instance.state is WorkerState.READY:
                self._supervisor.recovery.detected("unhealthy", now - self._alive_at)
                self._supervisor.recovery.lost(self._instance.id, "unhealthy", now)
            fleet.unhealthy(self._instance, why, now, lost)

        self._post(unhealthy)
