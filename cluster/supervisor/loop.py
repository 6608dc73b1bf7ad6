"""The supervisor: one task owns the state. Event -> fleet -> reconcile -> perform -> publish.

Everything that happens (an exit, a probe's finding, a command, a report of the balancer) is put in one inbox as a
function and run by that one task; after each, the reconciler says what to do next. Nothing else changes state, so
nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import aiohttp

from cluster.adapters.registry import Adapter
from cluster.adapters.rollout import Holder, Rollouts
from cluster.api.status import backend_set, snapshot, stopped
from cluster.balancers.config import balancer_config, is_outdated
from cluster.balancers.group import BalancerGroup
from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions
from cluster.events import Event, EventLog
from cluster.fleet import rolling
from cluster.fleet.exit_report import ExitReports, Outcome, WorkerExit, requests_in_words, sentence
from cluster.fleet.fleet import Fleet, instance_name
from cluster.fleet.instance import Instance
from cluster.fleet.reconciler import Admit, Exit, reconcile
from cluster.fleet.restart import Backoff, RestartPolicy
from cluster.fleet.states import DesiredState, InstanceDesired, WorkerState
from cluster.monitoring.ejection_limit import Stalls
from cluster.monitoring.external import ExternalBackend
from cluster.monitoring.recovery_times import RecoveryTimes
from cluster.monitoring.usage import Usage, UsageSampler
from cluster.storage.store import Store
from cluster.storage.write_behind import WriteBehind
from cluster.supervisor import bootstrap as bootstrap
from cluster.supervisor.executor import Executor
from cluster.supervisor.transactions import Transactions
from cluster.supervisor.workers import WorkerMonitors
from config.aio import Tasks
from config.errors import UsageError
from config.paths import StateDir
from config.settings import Settings, visible_gpus
from config.strategy_file import StrategyWriter
from worker import logfile
from worker.drivers.base import Driver, Handle
from worker.drivers.process import usage_of
from worker.gpus import Monitor

_T = TypeVar("_T")

#: Seconds between two looks at the clock: deadlines of drains, stops and starts are kept to this.
TICK = 0.2

#: Seconds between two tries to start a worker for which there is no room on the disk.
_NO_ROOM_S = 1.0

#: Lines of a worker's log kept with its end.
_LOG_LINES = 20


class Supervisor:
    """Use `prepare`, then `run`. ``clock`` is monotonic seconds, ``wall`` seconds since the epoch."""

    def __init__(
        self, plan: Plan, state: StateDir, store: Store, driver: Driver, external: list[ExternalBackend], *,
        clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        self.revisions, self.state = Revisions(plan), state
        self.events = EventLog(wall)
        self.external = external
        self._store, self.driver, self._clock, self._wall = store, driver, clock, wall
        self._random = random or Random()
        settings = plan.settings
        self.strategy: str = settings.strategy
        desired = _with_times(DesiredState(
            instances={instance_name(n): InstanceDesired() for n in range(settings.instances)},
            starts_at_once=len(plan.placement.machine.cores) or 1 if plan.engine.busy_start else None,
        ), settings)  # fmt: skip
        policy = RestartPolicy(Backoff(first=settings.restart_delay))
        self.write_behind = WriteBehind(store, self.events.emit, clock)
        self.recovery = RecoveryTimes()
        self.exit_reports = ExitReports(self._tell_loss)
        self.fleet = Fleet(desired, policy, self._random.random, self.events.emit, self._lost)
        self.balancer = BalancerGroup(
            state, balancer_config(plan, state), self.write_behind, self._reported, self._balancer_lost,
            self.events.emit,
            lambda name: self.rollouts.want(name), lambda: self.post(self.announce),
            lambda message: self.post(lambda: self._outcome(message)),
            drain_timeout=settings.drain_timeout, standby=settings.lb_standby and plan.most > 0,
        )
        self.balancer.events = lambda: self.events.events
        self.epoch = 0
        self._revision = 0
        self._switch: StrategyWriter | None = None
        self._published: dict[str, Any] = {}
        self._noted: set[str] = set()
        self._inbox: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._tasks = Tasks()
        self.usage = UsageSampler(Monitor(visible_gpus()))
        self.started_at = wall()
        self.transactions = Transactions(self)
        self.sequence = 0
        self._exit = False
        self._confirmed = (0, 0)
        self._stopped_by: str | None = None
        self.rollouts = Rollouts(self, state.adapters, wall)
        self.stalls = Stalls(self)
        self.monitors = WorkerMonitors(self)
        self._executor = Executor(self, driver)

    # for whoever runs it

    async def prepare(self, epoch: int, adopt: bool) -> None:
        """Reads the state and takes over what runs; the balancer's ``listener`` has to be set before `run`. Raises
        UsageError."""
        self.epoch = epoch
        await bootstrap.prepare(self, self._store, self.driver, adopt)

    def take_room(self) -> None:
        """Before the first start: for what has to be written on a full disk too. Raises UsageError where there is
        none."""
        try:
            self.transactions.take_room()
            StrategyWriter(self.state.strategy).close()
        except OSError as error:
            raise UsageError(f"no cluster can be started on {self.state.root}: {error}") from None

    async def run(self) -> None:
        """Until the cluster has been shut down."""
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as http:
            self.monitors.http = http
            try:
                await self._run()
            finally:
                await self.monitors.close()
                await self._executor.close()
                await self._tasks.close()

    async def command(self, change: Callable[[], _T]) -> _T:
        """Runs ``change`` in the task that owns the state. Returns what it returns (or raises what it raises) once
        it is stored and the balancer has been sent what follows from it. Raises NotSaved where it cannot be stored:
        then it was not done."""
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

        self._inbox.put_nowait(lambda: self.transactions.carry_out(change, done))
        return await done

    def shut_down(self, now: bool = False) -> None:
        """Safe to call from a signal handler of the loop."""
        self._inbox.put_nowait(lambda: self._begin_shutdown(now))

    def now(self) -> float:
        return self._clock()

    def wall(self) -> float:
        return self._wall()

    def post(self, event: Callable[[], None]) -> None:
        self._inbox.put_nowait(event)

    def snapshot(self) -> dict[str, Any]:
        return snapshot(self)

    # for changes, in the task that owns the state

    @property
    def plan(self) -> Plan:
        """What new workers are started by, and what everything else goes by."""
        return self.revisions.latest

    def use(self, checked: Plan, workers: bool, before: Mapping[str, Any]) -> None:
        """``checked`` holds from now on; see `Revisions.change`."""
        self.revisions.forget({i.settings for i in self.fleet.instances.values()})
        self.revisions.change(checked, workers, before)
        self.hold()

    def hold(self) -> None:
        """What goes by the settings goes by those that hold now."""
        settings = self.plan.settings
        self.fleet.desired = _with_times(self.fleet.desired, settings)
        self.fleet.policy = replace(self.fleet.policy, backoff=Backoff(first=settings.restart_delay))
        self.monitors.retime()
        self.stalls.retime()
        logging.getLogger().setLevel(settings.log_level.upper())

    def drain_by_hand(self, name: str, grace: float) -> None:
        self.fleet.drain_by_hand(name, grace, self._clock(), self.next_version, self.balancer.connected)

    def replace_balancer(self) -> None:
        """By one that knows the settings that hold now."""
        self.balancer.request_replacement(balancer_config(self.plan, self.state))

    # the one task

    async def _run(self) -> None:
        if self.balancer.listener is not None:
            self._switch = StrategyWriter(self.state.strategy)  # before any balancer looks for it
            config = balancer_config(self.plan, self.state)
            outdated = any(is_outdated(process, config) for process in self.balancer.processes)
            self.balancer.start()
            if outdated or self.balancer.unfinished:
                self.replace_balancer()
        for instance in self.fleet.instances.values():
            self.monitors.watch(instance)
        for external in self.external:
            external.changed, external.emit = self.wake, self.events.emit
            external.may_take_out = self.stalls.admits
            self.monitors.attach(external)
        self._tasks.start(self._sample(), "usage")
        while not self._exit:
            self.exit_reports.due(self._clock(), everything=self.fleet.desired.shutting_down)
            await self._step()
            try:
                async with asyncio.timeout(TICK):
                    event = await self._inbox.get()
            except TimeoutError:
                continue
            event()
            while not self._inbox.empty():
                self._inbox.get_nowait()()

    async def _step(self) -> None:
        for name, left in self.fleet.cordons.advance(self._clock()):
            rest = f"; {left} still running there {'goes' if left == 1 else 'go'} on elsewhere" if left else ""
            self.events.emit(name, f"drained{rest}", kind="worker.drained", data={"left": left})
        await self.transactions.keep()
        for _ in range(2):  # a second round, as what was admitted in the first is started in the second
            actions = reconcile(self.fleet.desired, self.fleet.observed(), self._clock())
            for action in actions:
                if isinstance(action, Exit):
                    self._exit = True
                else:
                    await self._executor.perform(action)
            if not any(isinstance(action, Admit) for action in actions):
                break
        self._look_at_rolling()
        await self.publish()
        if self.transactions.unanswered:
            self.announce()
            self.transactions.answer()

    def adapters_changed(self) -> None:
        """What workers should hold is not what it was."""
        holders: list[Holder] = [*self.fleet.instances.values(), *self.external]
        for holder in holders:
            if holder.agent is not None:
                holder.agent.dirty.set()
        self.wake()

    async def keep_adapters(self, changed: list[Adapter], gone: list[str]) -> None:
        """Makes a change of the registry durable, then true. Raises NotSaved."""
        self.write_behind.check()
        await self._store.save_adapters(changed, gone)
        registry = self.rollouts.registry
        for adapter in changed:
            registry = registry.with_adapter(adapter)
        for name in gone:
            registry = registry.without(name)
        self.rollouts.registry = registry
        self.adapters_changed()

    def exited(self, instance: Instance, handle: Handle, status: int | None, seen: float | None = None) -> None:
        """The main process of a worker is gone, as was ``seen`` at that time."""
        if instance.handle is not handle:
            return
        failed, now = instance.failure is not None, self._clock()
        served = instance.state in (WorkerState.READY, WorkerState.UNHEALTHY) or failed
        self.monitors.forget(instance)
        if instance.agent is not None:
            self.rollouts.past += instance.agent.totals()
        instance.agent, instance.held = None, {}
        lines = handle.logs(_LOG_LINES)
        instance.swept = handle
        self.fleet.exited(instance, status, lines, now, self._wall())
        if instance.state is not WorkerState.BACKOFF:
            self.recovery.forget(instance.id)  # it is not to come back
        elif served:
            if not failed:
                self.recovery.detected("exit", now - (now if seen is None else seen))
            self.recovery.lost(instance.id, "killed" if failed else "exit", now)

    def _lost(self, loss: WorkerExit) -> None:
        self.exit_reports.lost(loss, self._clock(), self.balancer.engaged)

    def _tell_loss(self, loss: WorkerExit, outcome: Outcome | None) -> None:
        data = {**loss.data, **(outcome.to_json() if outcome else {})}
        self.events.emit(loss.instance, sentence(loss, outcome), kind="worker.exited", data=data)

    def _outcome(self, message: Mapping[str, Any]) -> None:
        """A balancer says what became of the requests on a worker that it was told is lost."""
        instance = self.fleet.instances.get(message["backend"])
        wanted = instance is None or (instance.state is WorkerState.STOPPING and instance.failure is None)
        if not wanted:
            self.exit_reports.outcome(message, self._clock())
            return
        outcome = Outcome()
        outcome.add(message)
        if outcome.requests:
            many = "requests were" if outcome.requests > 1 else "request was"
            words = "; ".join(filter(None, (f"ends while {outcome.requests} {many} on it", requests_in_words(outcome))))
            data = {"incarnation": message["incarnation"], **outcome.to_json()}
            self.events.emit(message["backend"], words, kind="worker.moved", data=data)

    def happened(self, event: Event) -> None:
        """Something that is told is kept, and passed on to whoever listens."""
        self.write_behind.event(event)
        self.balancer.happened(event)

    def _sample_once(self, handles: Mapping[str, Handle], balancers: Mapping[str, int], now: float) -> dict[str, Usage]:
        own = usage_of({"supervisor": os.getpid(), **balancers})
        return self.usage.sample({**self.driver.stats(handles), **own}, now)

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            handles = {i.id: i.handle for i in self.fleet.instances.values() if i.handle is not None}
            used = await asyncio.to_thread(self._sample_once, handles, self.balancer.pids, self._clock())
            for name, instance in self.fleet.instances.items():
                if name in used:
                    instance.cpu_percent = used[name].cpu_percent
                    instance.memory_mb = round(used[name].memory_bytes / 1e6, 1)
            for name in [*self.fleet.instances, *self.balancer.logs, "supervisor", "access"]:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(logfile.rotate, self.state.log(name))
            self.write_behind.look()
            self.announce()

    def _reported(
        self, version: tuple[int, int], counts: Mapping[str, int], used: Mapping[str, float]
    ) -> None:
        for name, at in used.items():  # of several balancers, which need not report in the order of their requests
            self.rollouts.used[name] = max(at, self.rollouts.used.get(name, 0.0))
        self._confirmed = max(self._confirmed, version)
        self.post(lambda: self.fleet.in_flight(version, counts))

    def _balancer_lost(self) -> None:
        self.post(self.fleet.balancer_lost)

    def wake(self) -> None:
        """Looks whether there is something to publish."""
        self.post(lambda: None)

    # out

    async def publish(self) -> None:
        """Tells the balancer and the store what changed, if anything did."""
        shape = backend_set(self).to_json()
        shape.pop("revision")
        if shape != self._published:
            self._published = shape
            self._revision += 1
            if self._switch is not None:
                self._switch.write((self.epoch, self._revision), self.strategy)
            self.balancer.publish(backend_set(self))
            self.announce()
        for instance in self.fleet.instances.values():
            self.write_behind.process(instance.id, instance.record())
        await self.write_behind.flush()

    def announce(self) -> None:
        """Sends the balancer a new snapshot; ``sequence`` counts them."""
        self.sequence += 1
        self.balancer.publish(snapshot=self.snapshot())

    def _look_at_rolling(self) -> None:
        """Says it once when a rolling restart comes to a stop."""
        stopped_by = rolling.progress(self.fleet.desired, self.fleet.observed()).stopped_by
        if stopped_by is not None and stopped_by != self._stopped_by:
            self.events.emit("cluster", stopped(self, stopped_by), kind="restart.stopped", data={"by": stopped_by})
        self._stopped_by = stopped_by

    @property
    def version(self) -> tuple[int, int]:
        """Of the newest backend set."""
        return self.epoch, self._revision

    @property
    def next_version(self) -> tuple[int, int]:
        """Of the backend set that follows from what is changed now."""
        return self.epoch, self._revision + 1

    @property
    def confirmed(self) -> tuple[int, int]:
        """The newest backend set that the balancer works by."""
        return self._confirmed

    def _begin_shutdown(self, now: bool) -> None:
        if not self.fleet.desired.shutting_down:
            self.events.emit("cluster", "shutting down", kind="shutdown", data={"now": now})
        self.fleet.shut_down(now)


def _with_times(desired: DesiredState, settings: Settings) -> DesiredState:
    return replace(
        desired, drain_timeout=settings.drain_timeout, stop_grace=settings.stop_grace,
        startup_timeout=settings.startup_timeout,
    )
