"""What watches the workers, and reports into the supervisor's inbox. Nothing here changes state by itself."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import aiohttp

from cluster.adapters.agent import AdapterAgent
from cluster.adapters.rollout import Holder
from cluster.fleet.fleet import Fleet
from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState
from cluster.monitoring import probes as monitor
from cluster.monitoring.external import ExternalBackend
from cluster.monitoring.liveness import Health
from cluster.monitoring.probes import ProbePlan
from config.aio import Tasks
from worker.drivers.base import Handle
from worker.probe import ProbeFailed, Readiness, Target

if TYPE_CHECKING:
    from cluster.supervisor.loop import Supervisor

#: Seconds that one load or unload of an adapter may take.
_ADAPTER_S = 120.0

#: Seconds that the balancer may take to confirm a backend set.
_CONFIRM_S = 1.0


class WorkerMonitors:
    """The tasks that probe, keep adapters in line and sweep. ``http`` has to be set before the first is started."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._tasks = Tasks()
        self._watching: dict[str, list[asyncio.Task[Any]]] = {}
        self._sweeping: set[str] = set()
        self.http: aiohttp.ClientSession | None = None
        self._plans: dict[bool, ProbePlan] = {}
        self._targets: weakref.WeakSet[Target] = weakref.WeakSet()

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
        target = self._target(handle.endpoint.url, spec.api_key)
        target.tells_progress = supervisor.plan.engine.capabilities.progress
        known = {WorkerState.READY: Health.WELL, WorkerState.UNHEALTHY: Health.OUT}.get(instance.state)
        agent = self._agent(instance, target)
        agent.loaded = dict(instance.held)
        instance.agent = agent
        alarm = asyncio.Event()
        reporter = _Report(supervisor, instance, incarnation, alarm)
        if known is not None:
            handle.watch_members(alarm.set)
            agent.dirty.set()  # what it was last seen to hold need not be what it should hold
        # Tasks of their own: a long load of an adapter must not hold up a probe, nor a slow probe a look at progress.
        watching = monitor.watch(
            target, self._probe_plan(), reporter, known=known, alarm=alarm, prepare=agent.sync
        )
        self._watching[instance.id] = [
            self._tasks.start(watching, f"probe {instance.id} #{incarnation}"),
            self._tasks.start(self._tend(instance, agent), f"adapters of {instance.id} #{incarnation}"),
            self._tasks.start(supervisor.stalls.watch(instance, target), f"progress of {instance.id} #{incarnation}"),
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
                self._supervisor.events.emit(
                    instance.id, f"adapters: {error}", kind="adapter.failed", data={"reason": str(error)}
                )
                await asyncio.sleep(self._supervisor.plan.settings.health_interval)
                agent.dirty.set()

    async def _withheld(self, name: str) -> None:
        """Returns when the balancer has confirmed that it sends the worker nothing for that adapter any more."""
        supervisor = self._supervisor
        await supervisor.command(lambda: None)  # publishes what is withheld now
        await self._confirmed(supervisor.version)

    async def _confirmed(self, version: tuple[int, int]) -> None:
        """Returns when the balancer works by ``version``, if there is one; after a second at the latest."""
        supervisor = self._supervisor
        deadline = supervisor.now() + _CONFIRM_S
        balancer = supervisor.balancer
        while balancer.connected and supervisor.confirmed < version and supervisor.now() < deadline:
            await asyncio.sleep(0.002)

    async def end_after_word(self, handle: Handle, version: tuple[int, int]) -> None:
        """Asks a worker to end, once the balancer has taken from it what still ran there, as ``version`` says."""
        await self._confirmed(version)
        handle.stop()

    def attach(self, external: ExternalBackend) -> None:
        """Probes a server that is not ours and, if that is asked for, looks after its adapters."""
        target = self._target(external.spec.address, external.spec.api_key)
        if self._supervisor.plan.settings.manage_backend_adapters:
            external.agent = self._agent(external, target)
            self._tasks.start(self._tend(external, external.agent), f"adapters of {external.id}")
        self._tasks.start(self._supervisor.stalls.attend(external, target), f"progress of {external.id}")
        plan = self._probe_plan(health_required=False)
        self._tasks.start(external.run(target, plan), f"probe {external.id}")

    def _agent(self, holder: Holder, target: Target) -> AdapterAgent:
        supervisor = self._supervisor
        return AdapterAgent(
            target, lambda: supervisor.rollouts.wanted(holder.id), self._withheld,
            supervisor.wake, supervisor.now, _ADAPTER_S, supervisor.plan.foreign_adapters,
            supervisor.rollouts.effects.asked_of(holder.settings),
        )

    def _target(self, url: str, api_key: str | None) -> Target:
        target = Target(self._session(), url, api_key, self._supervisor.plan.settings.health_timeout)
        self._targets.add(target)
        return target

    def retime(self) -> None:
        """Probes go by the settings that hold now."""
        settings = self._supervisor.plan.settings
        for plan in self._plans.values():
            plan.interval, plan.failures = settings.health_interval, settings.health_failures
            plan.fatal = max(settings.restart_failures, settings.health_failures)
        for target in self._targets:
            target.timeout = settings.health_timeout

    def _probe_plan(self, health_required: bool = True) -> ProbePlan:
        settings = self._supervisor.plan.settings
        if health_required not in self._plans:
            self._plans[health_required] = ProbePlan(
                startup_interval=self._supervisor.plan.engine.startup_interval, interval=settings.health_interval,
                failures=settings.health_failures,
                fatal=max(settings.restart_failures, settings.health_failures), health_required=health_required,
            )
        return self._plans[health_required]

    def sweep(self, instance: Instance) -> None:
        """Kills until nothing of the worker's session is left; the process itself is gone already."""
        if instance.id in self._sweeping or instance.last_exit is None:
            return
        supervisor = self._supervisor
        self._sweeping.add(instance.id)
        process = instance.swept

        async def sweep() -> None:
            while process is not None and await asyncio.to_thread(process.destroy):
                await asyncio.sleep(0.02)
            supervisor.post(swept)

        def swept() -> None:
            """In the one task, so that no second sweep is begun before the end of this one is known: it would say of
            the next incarnation that nothing is left of it."""
            self._sweeping.discard(instance.id)
            if instance.handle is None and instance.swept is process:
                supervisor.fleet.tree_empty(instance, supervisor.now())

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

    def not_yet(self, why: str) -> None:
        self.phase(why)

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
            self._supervisor.events.emit(
                self._instance.id, "had its adapters changed behind our back: repairing", kind="adapter.drift"
            )

    def unhealthy(self, why: str, lost: bool, slow: bool = False) -> None:
        def unhealthy(fleet: Fleet, now: float) -> None:
            if slow and not self._supervisor.stalls.admits(self._instance, why):
                return
            if self._instance.state is WorkerState.READY:
                self._supervisor.recovery.detected("unhealthy", now - self._alive_at)
                self._supervisor.recovery.lost(self._instance.id, "unhealthy", now)
            fleet.unhealthy(self._instance, why, now, lost, slow)

        self._post(unhealthy)
