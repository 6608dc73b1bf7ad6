"""What watches the workers, and reports into the supervisor's inbox. Nothing here changes state by itself."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

import aiohttp

from cluster.adapters.agent import AdapterAgent, Agents, Holder
from cluster.deployment.revisions import Revisions
from cluster.events import Emit
from cluster.fleet.fleet import Fleet
from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState
from cluster.models.sleep import Wakening, fall_asleep
from cluster.monitoring import probes
from cluster.monitoring.ejection_limit import EjectionLimit
from cluster.monitoring.external import ExternalBackend
from cluster.monitoring.hang_monitors import HangMonitors
from cluster.monitoring.probes import Health, ProbePlan
from cluster.monitoring.recovery_times import RecoveryTimes
from cluster.supervisor.exits import WorkerExits
from config.aio import Tasks
from config.settings import Settings
from config.topology import Capabilities
from worker.drivers.base import Handle
from worker.probe import AdapterFolders, Cards, ProbeFailed, Target
from worker.spec import WorkerSpec

Post = Callable[[Callable[[], None]], None]


class WorkerMonitors:
    """The tasks that probe, keep adapters in line and sweep. ``http`` has to be set before the first is started."""

    def __init__(
        self, fleet: Fleet, revisions: Revisions, agents: Agents, hangs: HangMonitors, exits: WorkerExits,
        limit: EjectionLimit, recovery: RecoveryTimes, emit: Emit, post: Post, now: Callable[[], float],
    ) -> None:
        self._fleet, self._revisions, self._agents, self._hangs, self._exits = fleet, revisions, agents, hangs, exits
        self._limit, self._recovery, self._emit, self._post, self._now = limit, recovery, emit, post, now
        self._tasks = Tasks()
        self._watching: dict[str, list[asyncio.Task[Any]]] = {}
        self._sweeping: set[str] = set()
        self._probing = _Probing(revisions, lambda: probes.stretch(len(self._watching)))

    def use(self, http: aiohttp.ClientSession) -> None:
        """Asks over ``http`` from now on: before the first is watched."""
        self._probing.http = http

    async def close(self) -> None:
        await self._tasks.close()

    def retime(self, settings: Settings) -> None:
        """Probes go by the settings that hold now."""
        self._probing.retime(settings)

    def watch(self, instance: Instance) -> None:
        """From its start, or its adoption, to its end."""
        handle = instance.handle
        if handle is None or instance.spec is None:
            return

        def ended(status: int | None) -> None:
            seen = self._now()
            self._post(lambda: self._ended(instance, handle, status, seen))

        handle.watch(ended)
        if instance.state is not WorkerState.ASLEEP:
            self._attend(instance, handle, instance.spec)

    def _attend(self, instance: Instance, handle: Handle, spec: WorkerSpec) -> None:
        """While it is awake."""
        incarnation = instance.incarnation
        engine = self._revisions.plans[instance.group].engine
        target = self._probing.target(handle.endpoint.url, spec.api_key, engine.capabilities, handle)
        known = {WorkerState.READY: Health.WELL, WorkerState.UNHEALTHY: Health.OUT}.get(instance.state)
        agent = self._agents.begin(instance, target)
        alarm = asyncio.Event()
        reporter = _Reporter(
            self._fleet, instance, agent, self._limit, self._recovery, self._emit, self._post, self._now, alarm
        )
        if known is not None:
            handle.watch_members(alarm.set)
            agent.dirty.set()  # what it was last seen to hold need not be what it should hold
        prepare = agent.sync
        if instance.canary:
            prepare = Wakening(target, agent, instance.canary, reporter.altered).prepare
        # Tasks of their own: a long load of an adapter must not hold up a probe, nor a slow probe a look at progress.
        probing = probes.watch(
            target, self._probing.plan(engine.startup_interval), reporter, known=known, alarm=alarm, prepare=prepare
        )
        progress = self._hangs.watch(instance, target)
        self._watching[instance.id] = [
            self._tasks.start(probing, f"probe {instance.id} #{incarnation}"),
            self._tasks.start(self._tend(instance, agent), f"adapters of {instance.id} #{incarnation}"),
            self._tasks.start(progress, f"progress of {instance.id} #{incarnation}"),
        ]

    def lay_down(self, instance: Instance) -> None:
        """Puts it to sleep: nothing else is asked of it meanwhile, and nothing until `wake`."""
        handle, spec, incarnation = instance.handle, instance.spec, instance.incarnation
        if handle is None or spec is None:
            return
        self._leave(instance.id)
        engine = self._revisions.plans[instance.group].engine
        target = self._probing.target(handle.endpoint.url, spec.api_key, engine.capabilities, handle)

        async def lay_down() -> None:
            try:
                before = await fall_asleep(target)
            except ProbeFailed as error:
                why = f"could not be put to sleep: {error}"
                self._post(lambda: self._fleet.useless(instance, why, incarnation))
            else:
                self._post(lambda: self._fleet.asleep(instance, before, self._now(), incarnation))

        self._watching[instance.id] = [self._tasks.start(lay_down(), f"lay down {instance.id} #{incarnation}")]

    def wake(self, instance: Instance) -> None:
        if instance.handle is not None and instance.spec is not None:
            self._leave(instance.id)
            self._attend(instance, instance.handle, instance.spec)

    def _leave(self, name: str) -> None:
        """Asks nothing of it any more."""
        for task in self._watching.pop(name, []):
            task.cancel()
        self._agents.end(name)

    def _ended(self, instance: Instance, handle: Handle, status: int | None, seen: float) -> None:
        if instance.handle is not handle:
            return
        self._leave(instance.id)
        self._exits.exited(instance, handle, status, seen)

    async def _tend(self, holder: Holder, agent: AdapterAgent) -> None:
        """Keeps a ready worker's adapters in line."""
        while True:
            await agent.dirty.wait()
            if holder.state is not WorkerState.READY:
                agent.dirty.clear()  # readiness will see to it
                continue
            try:
                await agent.sync()
            except ProbeFailed as error:
                self._emit(holder.id, f"adapters: {error}", kind="adapter.failed", data={"reason": str(error)})
                await asyncio.sleep(self._revisions.settings.health_interval)
                agent.dirty.set()

    def attach(self, backend: ExternalBackend) -> None:
        """Probes a server that is not ours and, if that is asked for, looks after its adapters: until `detach`."""
        backend.changed = lambda: self._post(lambda: None)  # there is something to publish
        backend.emit, backend.may_take_out = self._emit, self._limit.admits
        target = self._probing.target(backend.spec.address, backend.spec.api_key, backend.spec.capabilities)
        plan = self._probing.plan(self._revisions.latest.engine.startup_interval, health_required=False)
        watching = self._watching[backend.id] = [
            self._tasks.start(self._hangs.attend(backend, target), f"progress of {backend.id}")
        ]
        if self._revisions.settings.manage_backend_adapters:
            backend.agent = self._agents.begin(backend, target)
            watching.append(self._tasks.start(self._tend(backend, backend.agent), f"adapters of {backend.id}"))
        watching.append(self._tasks.start(backend.run(target, plan), f"probe {backend.id}"))

    def detach(self, backend: ExternalBackend) -> None:
        """Asks nothing of it any more."""
        self._leave(backend.id)

    def sweep(self, instance: Instance) -> None:
        """Kills until nothing of the worker's session is left; the process itself is gone already."""
        if instance.id in self._sweeping or instance.last_exit is None:
            return
        self._sweeping.add(instance.id)
        process = instance.swept

        async def sweep() -> None:
            while process is not None and await asyncio.to_thread(process.destroy):
                await asyncio.sleep(0.02)
            self._post(swept)

        def swept() -> None:
            """In the one task, so that no second sweep is begun before the end of this one is known: it would say of
            the next incarnation that nothing is left of it."""
            self._sweeping.discard(instance.id)
            if instance.handle is None and instance.swept is process:
                self._fleet.tree_empty(instance, self._now())

        self._tasks.start(sweep(), f"sweep {instance.id}")


class _Probing:
    """Whom to ask, how often and for how long: by the settings that hold now."""

    def __init__(self, revisions: Revisions, crowd: Callable[[], float]) -> None:
        self._revisions, self._crowd = revisions, crowd
        self.http: aiohttp.ClientSession | None = None
        self._plans: dict[tuple[float, bool], ProbePlan] = {}
        self._targets: weakref.WeakSet[Target] = weakref.WeakSet()

    def target(
        self, url: str, api_key: str | None, able: Capabilities, folders: AdapterFolders | None = None
    ) -> Target:
        assert self.http is not None
        target = Target(self.http, url, api_key, self._revisions.settings.health_timeout, able, folders)
        self._targets.add(target)
        return target

    def plan(self, startup_interval: float, health_required: bool = True) -> ProbePlan:
        settings, key = self._revisions.settings, (startup_interval, health_required)
        if key not in self._plans:
            self._plans[key] = ProbePlan(
                startup_interval=startup_interval, interval=settings.health_interval,
                failures=settings.health_failures,
                fatal=max(settings.restart_failures, settings.health_failures), health_required=health_required,
                crowd=self._crowd,
            )
        return self._plans[key]

    def retime(self, settings: Settings) -> None:
        for plan in self._plans.values():
            plan.interval, plan.failures = settings.health_interval, settings.health_failures
            plan.fatal = max(settings.restart_failures, settings.health_failures)
        for target in self._targets:
            target.timeout = settings.health_timeout


class _Reporter:
    """Brings the findings of the probes into the inbox, unless they are about an incarnation that is gone."""

    def __init__(
        self, fleet: Fleet, instance: Instance, agent: AdapterAgent, limit: EjectionLimit, recovery: RecoveryTimes,
        emit: Emit, post: Post, now: Callable[[], float], alarm: asyncio.Event,
    ) -> None:
        self._fleet, self._instance, self._agent, self._limit = fleet, instance, agent, limit
        self._recovery, self._emit, self._inbox, self._now, self._alarm = recovery, emit, post, now, alarm
        self._incarnation = instance.incarnation
        self._alive_at = now()

    def _post(self, change: Callable[[float], None]) -> None:
        def event() -> None:
            if self._instance.incarnation == self._incarnation:
                change(self._now())

        self._inbox(event)

    def phase(self, text: str) -> None:
        def phase(_: float) -> None:
            if self._instance.handle is not None:  # its end may have come first
                self._instance.phase = text

        self._post(phase)

    def not_yet(self, why: str) -> None:
        self.phase(why)

    def ready(self, cards: Cards) -> None:
        def ready(now: float) -> None:
            self._alive_at = now
            self._fleet.ready(self._instance, cards, now)
            self._recovery.ready(self._instance.id, now)
            self._agent.dirty.set()  # something may have been changed during its first token
            if self._instance.handle is not None:
                self._instance.handle.watch_members(self._alarm.set)

        self._post(ready)

    def seats(self, count: int | None) -> None:
        def seats(_: float) -> None:
            self._instance.seats = count

        self._post(seats)

    def altered(self, why: str) -> None:
        self._post(lambda _: self._fleet.useless(self._instance, why, self._incarnation))

    def looked(self, cards: Cards) -> None:
        self._alive_at = self._now()
        if self._instance.incarnation == self._incarnation and self._agent.look(cards):
            self._emit(
                self._instance.id, "had its adapters changed behind our back: repairing", kind="adapter.drift"
            )

    def unhealthy(self, why: str, lost: bool, slow: bool = False) -> None:
        def unhealthy(now: float) -> None:
            if slow and not self._limit.admits(self._instance, why):
                return
            if self._instance.state is WorkerState.READY:
                self._recovery.detected("unhealthy", now - self._alive_at)
                self._recovery.lost(self._instance.id, "unhealthy", now)
            self._fleet.unhealthy(self._instance, why, now, lost, slow)

        self._post(unhealthy)
