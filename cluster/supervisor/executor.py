"""Does what the reconciler says: starts workers, tells them to end, kills them, forgets them.

Runs in the supervisor's one task. What may take long is not waited for here: it is begun, and reports into the inbox.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions
from cluster.events import Emit
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import group_of, number_of
from cluster.fleet.instance import Instance
from cluster.fleet.reconciler import Admit, Dismiss, Drain, Kill, Promote, Retire, Sleep, Start, Stop, Sweep, Wake
from cluster.fleet.states import WorkerState
from cluster.storage.write_behind import WriteBehind
from cluster.supervisor.clock import Clocks
from cluster.supervisor.exits import WorkerExits
from cluster.supervisor.publisher import Publisher, Version
from cluster.supervisor.workers import WorkerMonitors
from cluster.supervisor.zygotes import Zygotes
from config.aio import Tasks
from config.disk.files import NO_ROOM
from config.errors import UsageError
from config.paths import StateDir
from config.settings import inherited_environment
from worker.drivers.base import Driver, Drivers, Handle
from worker.drivers.nodes import NodeDriver, WorkerNeed, WorkerPlace
from worker.engines.base import Command
from worker.spec import Slot, WorkerEndpoint, WorkerSpec

#: Seconds between two tries to start a worker for which there is no room on the disk.
_NO_ROOM_S = 1.0

#: Seconds of starts in a round: of a thousand, the rest is left for the next, after what has come meanwhile.
_STARTS_S = 0.5


#: `Exit` is the supervisor's own.
_Performed = Admit | Dismiss | Drain | Kill | Promote | Retire | Sleep | Start | Stop | Sweep | Wake


class Executor:
    """Changes ``fleet``. ``publish()`` tells balancers and store what changed."""

    def __init__(
        self, fleet: Fleet, revisions: Revisions, drivers: Drivers, monitors: WorkerMonitors, exits: WorkerExits,
        publisher: Publisher, publish: Callable[[], Awaitable[None]], store: WriteBehind, state: StateDir,
        emit: Emit, clock: Clocks, zygotes: Zygotes,
    ) -> None:
        self._fleet, self._revisions, self._drivers, self._monitors = fleet, revisions, drivers, monitors
        self._exits, self._publisher, self._publish = exits, publisher, publish
        self._store, self._state, self._emit, self._clock = store, state, emit, clock
        self._zygotes = zygotes
        #: What an engine had to say of how it is started, said once.
        self._noted: set[str] = set()
        #: Whose start was tried while others were left for the next round.
        self._tried: set[str] = set()
        self._tasks = Tasks()

    async def close(self) -> None:
        await self._tasks.close()

    async def perform(self, actions: Sequence[_Performed]) -> bool:
        """All of them; False where starts are left for the next round. Balancers hear once of all that is to end,
        before any of it ends: what runs there moves from workers that live, and a set for each of a thousand would be a
        million backends."""
        for promotion in (action for action in actions if isinstance(action, Promote)):
            await self._promote(promotion)
        ends = [action for action in actions if isinstance(action, Stop | Kill)]
        for end in ends:
            failure = isinstance(end, Kill) and end.failure
            self._fleet.stopping(self._fleet.instances[end.id], end.reason, self._clock.now(), failure)
        if ends:
            await self._publish()
        for action in actions:
            if not isinstance(action, Promote | Start):
                await self._perform(action)
        return await self._start_in_time([action for action in actions if isinstance(action, Start)])

    async def _start_in_time(self, starts: list[Start]) -> bool:
        """Those first that the last round left: one that has to be asked for again and again holds up nobody."""
        starts.sort(key=lambda start: start.id in self._tried)
        until = self._clock.now() + _STARTS_S
        for start in starts:
            if self._clock.now() > until:
                return False
            self._tried.add(start.id)
            await self._start(self._fleet.instances[start.id], start.fresh, start.keep)
        self._tried.clear()
        return True

    async def _perform(self, action: _Performed) -> None:
        fleet, now = self._fleet, self._clock.now()
        if isinstance(action, Admit):
            if (slot := self._slot(action.id)) is not None:  # else it is asked for again
                fleet.admit(action.id, slot, now)
            return
        if isinstance(action, Dismiss):
            fleet.intent.dismiss_spare(action.id)
            self._emit(
                "cluster", f"rolling restart done; {action.id} is not needed any more", kind="restart.done",
                data={"spare": action.id},
            )
            return
        instance = fleet.instances[action.id]
        match action:
            case Drain():
                fleet.drain(instance, now, self._publisher.next_version, self._publisher.connected)
            case Stop() if instance.handle is not None:
                ending = self.end_after_confirmation(instance.handle, self._publisher.version)
                self._tasks.start(ending, f"end {instance.id}")
            case Kill() if instance.handle is not None:
                await asyncio.to_thread(instance.handle.destroy)
            case Sleep():
                fleet.dozes(instance)
                self._monitors.lay_down(instance)
            case Wake():
                fleet.waking(instance, now)
                self._monitors.wake(instance)
            case Sweep():
                self._monitors.sweep(instance)
            case Retire():
                del fleet.instances[instance.id]
                self._store.process(instance.id, None)
                if instance.id not in fleet.intent.desired.lasting:
                    self._state.run(instance.id).unlink(missing_ok=True)

    async def _promote(self, action: Promote) -> None:
        self._fleet.intent.promote(action.id, action.place)
        self._emit(
            action.id, f"takes the place of {action.place}", kind="worker.promoted", data={"place": action.place}
        )
        await self._publish()  # before anything is started or stopped

    def _slot(self, name: str) -> Slot | None:
        """What the worker ``name`` is pinned to; None while other groups of workers leave it no room."""
        group, there = group_of(name), self._fleet.instances.values()
        placement = self._revisions.plans[group].placement
        awake = [instance for instance in there if instance.state is not WorkerState.ASLEEP]
        others = [instance.slot for instance in awake if instance.group != group]
        if not others:
            return placement.slot(number_of(name))
        return placement.slot_beside([instance.slot for instance in there if instance.group == group], others)

    async def end_after_confirmation(self, handle: Handle, version: Version) -> None:
        """Asks a worker to end, once the balancer has taken from it what still ran there, as ``version`` says."""
        await self._publisher.confirmation(version)
        handle.stop()

    async def _start(self, instance: Instance, fresh: bool, keep: bool) -> None:
        now = self._clock.now()
        plan, keep = self._plan(instance, keep)
        driver = self._drivers[instance.driver]
        others = [i for i in self._fleet.instances.values() if i is not instance]
        taken = {i.id: WorkerPlace(at, i.slot.gpus) for i in others if (at := i.endpoint)}
        try:
            place, key = await _reserved(driver, instance.id, plan.need, taken), secrets.token_urlsafe(24)
        except OSError as error:
            instance.phase = f"waits for a place: {error}"  # it is asked for again
            return
        endpoint = place.endpoint
        if plan.need:
            instance.slot = Slot(place.gpus, share=plan.settings.instances_per_gpu)
        command = plan.engine.command(plan.spec, endpoint, key, instance.slot, inherited_environment())
        may_fork = not driver.waits and (fresh or not _failed_to_start(instance))
        if may_fork and self._zygotes.waits(command.fork):
            instance.phase = "waits until its engine is imported"  # it is asked for again
            return
        self._note(command)
        spec = await self._spec(instance, command, endpoint, key)
        if may_fork:
            spec = replace(spec, zygote=self._zygotes.ready(command.fork))
        self._fleet.starting(instance, spec, now, fresh, keep)
        try:
            # Before the process exists: whoever comes after us has to find it. In both, as one may be full.
            record = instance.record()
            driver.prepare(spec.run_file, {**record, "models": [], "held": {}, "last_exit": None})
            self._store.process(instance.id, record)
            await self._store.flush()
            handle = await _started(driver, spec, f"{instance.id}, start {instance.starts}: {' '.join(spec.argv)}")
        except OSError as error:
            self._not_started(instance, error)
            return
        self._fleet.started(instance, handle, self._clock.wall())
        self._monitors.watch(instance)

    async def _spec(self, instance: Instance, command: Command, endpoint: WorkerEndpoint, key: str) -> WorkerSpec:
        incarnation = await self._store.next_number("incarnations")
        return WorkerSpec(
            id=instance.id, incarnation=incarnation, argv=command.argv, env=command.env, cwd=self._state.work,
            log=self._state.log(instance.id), run_file=self._state.run(instance.id), endpoint=endpoint,
            api_key=key, slot=instance.slot,
        )

    def _not_started(self, instance: Instance, error: OSError) -> None:
        if error.errno in NO_ROOM:
            self._store.trouble(str(error))
            until = self._clock.now() + _NO_ROOM_S
            self._fleet.postponed(instance, f"cannot be started: {error.strerror}", until)
        else:
            self._exits.not_started(instance, f"cannot be started: {error}")

    def _plan(self, instance: Instance, keep: bool) -> tuple[Plan, bool]:
        """By what it is started, and whether those are still the settings it had (``keep``)."""
        revisions = self._revisions
        if not keep:
            instance.settings = revisions.number
        try:
            return revisions.of(instance.group, instance.settings), keep
        except UsageError as error:  # what the settings before named is gone
            self._emit(
                instance.id, f"its settings cannot be used any more, so it gets the new ones: {error}", kind="apply"
            )
            instance.settings = revisions.number
            return revisions.plans[instance.group], False

    def _note(self, command: Command) -> None:
        for note in command.notes:
            if note not in self._noted:
                self._noted.add(note)
                self._emit("engine", note, kind="engine")


async def _started(driver: Driver, spec: WorkerSpec, title: str) -> Handle:
    """Raises OSError. A zygote is waited for in a thread: it may hang. So is another machine."""
    if spec.zygote is None and not driver.waits:
        return driver.start(spec, title)
    return await asyncio.to_thread(driver.start, spec, title)


async def _reserved(driver: Driver, name: str, need: WorkerNeed, taken: Mapping[str, WorkerPlace]) -> WorkerPlace:
    """Raises OSError."""
    if isinstance(driver, NodeDriver):
        return await asyncio.to_thread(driver.place, name, need, taken)
    ports = [place.endpoint for place in taken.values()]
    return WorkerPlace(await asyncio.to_thread(driver.reserve, ports) if driver.waits else driver.reserve(ports))


def _failed_to_start(instance: Instance) -> bool:
    """Whether it never got ready, and that by itself: then its next start is plain, whatever the reason was."""
    end = instance.last_exit
    if end is None or instance.ready_at is not None or instance.history.early == 0:
        return False
    killed = end["signal"] == signal.SIGKILL or (end["signal"], end["code"]) == (None, None)  # as far as is known
    return instance.failure is not None or not killed
