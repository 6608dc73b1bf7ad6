"""Does what the reconciler says: starts workers, tells them to end, kills them, forgets them.

Runs in the supervisor's one task. What may take long is not waited for here: it is begun, and reports into the inbox.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from cluster.deployment.plan import Plan
from cluster.fleet.instance import Instance
from cluster.fleet.reconciler import Admit, Dismiss, Drain, Kill, Retire, Start, Stop, Sweep
from config.aio import Tasks
from config.errors import UsageError
from config.files import NO_ROOM
from config.settings import inherited_environment
from worker.drivers.base import Driver
from worker.engines.base import Command
from worker.spec import WorkerSpec

if TYPE_CHECKING:
    from cluster.supervisor.loop import Supervisor

#: Seconds between two tries to start a worker for which there is no room on the disk.
_NO_ROOM_S = 1.0


#: `Exit` is the supervisor's own.
_Performed = Admit | Dismiss | Drain | Kill | Retire | Start | Stop | Sweep


class Executor:
    """For one supervisor, whose fleet it changes."""

    def __init__(self, supervisor: Supervisor, driver: Driver) -> None:
        self._supervisor, self._driver = supervisor, driver
        #: What an engine had to say of how it is started, said once.
        self._noted: set[str] = set()
        self._tasks = Tasks()

    async def close(self) -> None:
        await self._tasks.close()

    async def perform(self, action: _Performed) -> None:
        supervisor, fleet = self._supervisor, self._supervisor.fleet
        now = supervisor.now()
        if isinstance(action, Admit):
            number = int(action.id.rsplit("_", 1)[1])
            fleet.admit(action.id, supervisor.plan.placement.slot(number), now)
            return
        if isinstance(action, Dismiss):
            fleet.dismiss_spare()
            supervisor.events.emit(
                "cluster", f"rolling restart done; {action.id} is not needed any more", kind="restart.done",
                data={"spare": action.id},
            )
            return
        instance = fleet.instances[action.id]
        match action:
            case Start(fresh=fresh, keep=keep):
                await self._start(instance, fresh, keep)
            case Drain():
                fleet.drain(instance, now, supervisor.next_version, supervisor.balancer.connected)
            case Stop(reason=reason):
                fleet.stopping(instance, reason, now)
                await supervisor.publish()  # the balancer first: what is left moves from a worker that lives
                if instance.handle is not None:
                    ending = supervisor.monitors.end_after_word(instance.handle, supervisor.version)
                    self._tasks.start(ending, f"end {instance.id}")
            case Kill(reason=reason, failure=failure):
                fleet.stopping(instance, reason, now, failure)
                await supervisor.publish()  # what runs there moves on while it is being killed
                if instance.handle is not None:
                    await asyncio.to_thread(instance.handle.destroy)
            case Sweep():
                supervisor.monitors.sweep(instance)
            case Retire():
                del fleet.instances[instance.id]
                supervisor.write_behind.process(instance.id, None)
                if instance.id not in fleet.desired.instances:
                    (supervisor.state.runs / instance.id).unlink(missing_ok=True)

    async def _start(self, instance: Instance, fresh: bool, keep: bool) -> None:
        supervisor = self._supervisor
        fleet, saver, now = supervisor.fleet, supervisor.write_behind, supervisor.now()
        plan, keep = self._plan(instance, keep)
        incarnation = await saver.next_number("incarnations")
        taken = [i.endpoint for i in fleet.instances.values() if i.endpoint and i is not instance]
        endpoint, key = self._driver.reserve(taken), secrets.token_urlsafe(24)
        command = plan.engine.command(plan.spec, endpoint, key, instance.slot, inherited_environment())
        self._note(command)
        spec = WorkerSpec(
            id=instance.id, incarnation=incarnation, argv=command.argv, env=command.env, cwd=supervisor.state.work,
            log=supervisor.state.log(instance.id), run_file=supervisor.state.runs / instance.id, endpoint=endpoint,
            api_key=key, slot=instance.slot,
        )
        fleet.starting(instance, spec, now, fresh, keep)
        try:
            # Before the process exists: whoever comes after us has to find it. In both, as one may be full.
            started = {**instance.record(), "models": [], "held": {}, "last_exit": None}
            self._driver.prepare(spec.run_file, started)
            saver.process(instance.id, instance.record())
            await saver.flush()
            title = f"{instance.id}, start {instance.starts}: {' '.join(command.argv)}"
            handle = self._driver.start(spec, title)
        except OSError as error:
            if error.errno in NO_ROOM:
                saver.trouble(str(error))
                fleet.postponed(instance, f"cannot be started: {error.strerror}", supervisor.now() + _NO_ROOM_S)
                return
            instance.failure = f"cannot be started: {error}"
            fleet.exited(instance, None, [], supervisor.now(), supervisor.wall())
            return
        fleet.started(instance, handle, supervisor.wall())
        supervisor.monitors.watch(instance)

    def _plan(self, instance: Instance, keep: bool) -> tuple[Plan, bool]:
        """By what it is started, and whether those are still the settings it had (``keep``)."""
        plans = self._supervisor.revisions
        if not keep:
            instance.settings = plans.number
        try:
            return plans.of(instance.settings), keep
        except UsageError as error:  # what the settings before named is gone
            self._supervisor.events.emit(
                instance.id, f"its settings cannot be used any more, so it gets the new ones: {error}", kind="apply"
            )
            instance.settings = plans.number
            return self._supervisor.plan, False

    def _note(self, command: Command) -> None:
        for note in command.notes:
            if note not in self._noted:
                self._noted.add(note)
                self._supervisor.events.emit("engine", note, kind="engine")
