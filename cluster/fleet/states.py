"""States of a worker, their legal transitions in one table, and what is desired and observed. Pure.

How a worker lives: it is ``starting`` until it has answered a real request, then ``ready``. Failed probes make it
``unhealthy`` (out of rotation, what runs goes on). An intended end goes ``draining`` (nothing new), ``stopping``
(asked to end, then killed), ``stopped``. One that is to sleep goes ``draining`` and ``asleep``, and is ``starting``
once more when it is woken. An end that nobody asked for leads to ``backoff`` (it will be started again at
``restart_at``) or, in a crash loop, to ``failed`` (a person has to look). A worker is started again only when nothing
is left of its session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cluster.fleet.groups import DEFAULT, InstanceDesired, WorkerGroup, group_of


class WorkerState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    ASLEEP = "asleep"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"
    STOPPED = "stopped"


_S = WorkerState

TRANSITIONS: Mapping[WorkerState, frozenset[WorkerState]] = {
    _S.STARTING: frozenset({_S.READY, _S.STOPPING, _S.BACKOFF, _S.FAILED}),
    _S.READY: frozenset({_S.UNHEALTHY, _S.DRAINING, _S.STOPPING, _S.BACKOFF, _S.FAILED}),
    _S.UNHEALTHY: frozenset({_S.READY, _S.DRAINING, _S.STOPPING, _S.BACKOFF, _S.FAILED}),
    _S.DRAINING: frozenset({_S.STOPPING, _S.STOPPED, _S.ASLEEP}),
    _S.ASLEEP: frozenset({_S.STARTING, _S.STOPPING, _S.BACKOFF, _S.FAILED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.BACKOFF, _S.FAILED}),
    _S.BACKOFF: frozenset({_S.STARTING, _S.STOPPED}),
    _S.FAILED: frozenset({_S.STARTING, _S.STOPPED}),
    _S.STOPPED: frozenset({_S.STARTING, _S.BACKOFF, _S.FAILED}),
}

#: States in which the main process should be running.
RUNNING = frozenset({_S.STARTING, _S.READY, _S.UNHEALTHY, _S.DRAINING, _S.ASLEEP, _S.STOPPING})


class IllegalTransition(Exception):
    """A defect of the supervisor, never of a worker."""


def _one_group() -> Mapping[str, WorkerGroup]:
    return {DEFAULT: WorkerGroup()}


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What there should be, by group. Times are seconds. ``starts_at_once``: starting an engine keeps a core busy, so
    more starts than cores only make the first worker late (a forked one counts half); None for engines that start in
    no time."""

    groups: Mapping[str, WorkerGroup] = field(default_factory=_one_group)
    shutting_down: bool = False
    kill_now: bool = False
    drain_timeout: float = 30.0
    stop_grace: float = 10.0
    startup_timeout: float = 600.0
    starts_at_once: int | None = None

    @property
    def instances(self) -> Mapping[str, InstanceDesired]:
        """Of all groups."""
        return {name: want for group in self.groups.values() for name, want in group.instances.items()}

    @property
    def spares(self) -> Mapping[str, InstanceDesired]:
        return {name: want for group in self.groups.values() for name, want in group.spares.items()}

    @property
    def standbys(self) -> Mapping[str, InstanceDesired]:
        return {name: want for group in self.groups.values() for name, want in group.standbys.items()}

    @property
    def lasting(self) -> Mapping[str, InstanceDesired]:
        """As of `WorkerGroup.lasting`, of all groups."""
        return {**self.instances, **self.standbys}

    @property
    def wanted(self) -> Mapping[str, InstanceDesired]:
        """Every worker there should be just now, spares first."""
        return {} if self.shutting_down else {**self.spares, **self.lasting}

    def drain_of(self, name: str) -> float:
        """Seconds that requests on the worker ``name`` may take to finish."""
        group = self.groups.get(group_of(name))
        own = group.drain_timeout if group is not None and not self.shutting_down else None
        return self.drain_timeout if own is None else own

    def with_group(self, group: WorkerGroup) -> DesiredState:
        return replace(self, groups={**self.groups, group.name: group})

    def without_group(self, name: str) -> DesiredState:
        return replace(self, groups={other: group for other, group in self.groups.items() if other != name})


@dataclass(frozen=True, slots=True)
class InstanceObserved:
    """What is known of one worker. ``since`` (s, monotonic) is when its state was entered. ``in_flight`` is None
    while the balancer has not yet confirmed that it sends nothing new. ``tree_empty``: nothing is left of its
    session. ``hung``: why it is to be killed at once. ``gpus``: those it is pinned to. ``cordoned``: kept out of
    rotation because somebody drained it. ``forked``: from a process that has imported its engine.
    ``missing_adapters``: it refuses an adapter that others hold. ``dozing``: it is being put to sleep."""

    id: str
    state: WorkerState
    since: float
    generation: int = 0
    main_alive: bool = False
    tree_empty: bool = True
    in_flight: int | None = 0
    restart_at: float = 0.0
    failing_probes: bool = False
    hung: str | None = None
    gpus: tuple[int, ...] = ()
    cordoned: bool = False
    forked: bool = False
    missing_adapters: bool = False
    dozing: bool = False


ObservedState = Mapping[str, InstanceObserved]
