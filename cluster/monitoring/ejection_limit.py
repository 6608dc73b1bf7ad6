"""What follows when a worker stands still: taken out at once, but never more than half of them at a time.

If everything stands still at once it is the machine and not the workers, and killing them all would make an outage of
a hiccup. Who cannot be connected to is another matter: it serves nobody, whatever the others do.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState
from cluster.monitoring.external import ExternalBackend
from cluster.monitoring.hang_detector import Progress, Rules, Verdict, Work
from cluster.monitoring.hang_watch import Watched, watch
from worker.probe import Target

if TYPE_CHECKING:
    from cluster.supervisor.loop import Supervisor

_Member = Instance | ExternalBackend

#: Seconds between two looks whether a worker that starts is ready.
_STARTING_S = 0.1

#: What stands still is found to do so again within this time (s): by its progress many times, by probes once or more.
_SPARED_S = 30.0


def may_take_out(ready: int, out: int) -> bool:
    """Whether one of ``ready`` may be taken out of rotation for slowness while ``out`` are: half of all, rounded
    down, but at least one."""
    return out < max(1, (ready + out) // 2)


class Stalls:
    """Of all workers and servers of one cluster."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        #: Who stands still and is left where it is, and when that was last decided.
        self._spared: dict[str, float] = {}
        self._judged: WeakSet[Progress] = WeakSet()

    def admits(self, member: _Member, why: str) -> bool:
        """Whether ``member`` may be taken out of rotation for slowness; if not, that is told, once."""
        supervisor = self._supervisor
        members: list[_Member] = [*supervisor.fleet.instances.values(), *supervisor.external]
        ready = sum(m.state is WorkerState.READY and not m.slow for m in members)
        out = sum(m.slow for m in members)
        if member.state is not WorkerState.READY or may_take_out(ready, out):
            self._spared.pop(member.id, None)
            return True
        known, self._spared[member.id] = self.spared(member.id), supervisor.now()
        if not known:
            still, total = out + sum(map(self.spared, self._spared)), ready + out
            supervisor.events.emit(
                member.id,
                f"{why}; left where it is, as {still} of {total} stand still at once: that looks like the machine, and "
                f"no more than half are taken out at a time",
            )
        return False

    def spared(self, name: str) -> bool:
        """Whether it stands still, or did so a moment ago, and is left in rotation."""
        return self._supervisor.now() - self._spared.get(name, -math.inf) < _SPARED_S

    def count(self, member: _Member, verdict: Verdict) -> None:
        member.stalls += 1
        self._supervisor.recovery.detected(verdict.cause, verdict.seconds)
        self._supervisor.recovery.lost(member.id, verdict.cause, self._supervisor.now())

    # what watches

    async def watch(self, instance: Instance, target: Target) -> None:
        """From its start, or its adoption, until cancelled."""
        started, instance.progress = instance.state is WorkerState.STARTING, None
        while instance.state is WorkerState.STARTING:
            await asyncio.sleep(_STARTING_S)
        name = self._supervisor.plan.spec.served_names[0]
        progress = self._progress(instance.models, ours=True)
        if started:
            progress.seen_at = self._supervisor.now()  # it has just answered
        instance.progress = progress
        watched = Watched(target, lambda: name, lambda: self._work(instance))
        await watch(watched, progress, _OfInstance(self._supervisor, self, instance), self._supervisor.now)

    async def attend(self, external: ExternalBackend, target: Target) -> None:
        """As `watch`, of a server that is not ours."""
        while external.state is WorkerState.STARTING:
            await asyncio.sleep(_STARTING_S)
        external.progress = progress = self._progress(external.spec.models, ours=False)
        watched = Watched(target, lambda: _base(external), lambda: self._work(external))
        await watch(watched, progress, _OfAttached(self._supervisor, self, external), self._supervisor.now)

    def _progress(self, models: tuple[dict[str, Any], ...], ours: bool) -> Progress:
        settings = self._supervisor.plan.settings
        context = next((card.get("max_model_len") for card in models if card.get("max_model_len")), None)
        rules = Rules(settings.stall_timeout, settings.canary_interval, context, ours)
        progress = Progress(rules, self._supervisor.now())
        self._judged.add(progress)
        return progress

    def retime(self) -> None:
        """Everybody is judged by the settings that hold now."""
        settings = self._supervisor.plan.settings
        for progress in self._judged:
            progress.rules = replace(progress.rules, stall=settings.stall_timeout, canary=settings.canary_interval)

    def _work(self, member: _Member) -> Work:
        load, agent = self._supervisor.balancer.load(member.id), member.agent
        return Work(*load, loading=agent.loading, loads=agent.loads + agent.failures) if agent else Work(*load)


def _base(external: ExternalBackend) -> str | None:
    return next((card["id"] for card in external.spec.models if not card.get("parent")), None)


class _OfInstance:
    """Brings the findings about one incarnation into the supervisor's inbox."""

    def __init__(self, supervisor: Supervisor, stalls: Stalls, instance: Instance) -> None:
        self._supervisor, self._stalls, self._instance = supervisor, stalls, instance
        self._incarnation = instance.incarnation

    def progress(self, seen_at: float | None, standing: str) -> None:
        if self._instance.incarnation == self._incarnation:
            self._instance.progress_at, self._instance.standing = seen_at, standing

    def hung(self, verdict: Verdict) -> None:
        def event() -> None:
            instance = self._instance
            if instance.incarnation != self._incarnation or instance.hung is not None:
                return
            if self._stalls.admits(instance, verdict.reason) and self._supervisor.fleet.hung(instance, verdict.reason):
                self._stalls.count(instance, verdict)

        self._supervisor.post(event)

    def going(self) -> None:
        """One that was left where it is; the others are gone."""


class _OfAttached:
    def __init__(self, supervisor: Supervisor, stalls: Stalls, external: ExternalBackend) -> None:
        self._supervisor, self._stalls, self._attached = supervisor, stalls, external

    def progress(self, seen_at: float | None, standing: str) -> None:
        self._attached.progress_at, self._attached.standing = seen_at, standing

    def hung(self, verdict: Verdict) -> None:
        def event() -> None:
            external = self._attached
            if external.state is WorkerState.READY and self._stalls.admits(external, verdict.reason):
                self._stalls.count(external, verdict)
                external.hung(verdict.reason)

        self._supervisor.post(event)

    def going(self) -> None:
        self._supervisor.post(self._attached.going)
