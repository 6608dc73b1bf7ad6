"""Desired against observed gives the next actions. Pure: no clock, no I/O, nothing remembered between two calls.

Nothing else starts or stops a worker. What it returns is safe to perform in any order, and to ask for again: an
action whose effect is already under way is not returned a second time, as the observed state shows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.fleet import rolling, standby
from cluster.fleet.groups import InstanceDesired, WorkerGroup
from cluster.fleet.states import RUNNING, DesiredState, InstanceObserved, ObservedState, WorkerState

_S = WorkerState

#: After this many seconds most of a start is done, or it hangs: it does not count as keeping a core busy any more.
_START_S = 20.0


#: Of what a start keeps busy, what one that imports nothing does.
_FORKED = 0.5


@dataclass(frozen=True, slots=True)
class _OfWorker:
    """An action on the worker ``id``."""

    id: str


class Admit(_OfWorker):
    """Make room for a wanted instance: give it its slot. It is started next."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start the worker; ``fresh``: with a clean record, as a person asked for it. ``keep``: with the settings and the
    generation it had, as a rolling restart has not come to it yet."""

    id: str
    fresh: bool = False
    keep: bool = False


class Drain(_OfWorker):
    """Take it out of rotation; what runs on it may finish."""


class Sleep(_OfWorker):
    """Put it to sleep: nothing runs on it any more."""


class Wake(_OfWorker):
    """It is asleep, and is to serve again."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask the main process to end (SIGTERM)."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to all of its session. ``failure``: it did not end because somebody wanted it to."""

    id: str
    reason: str
    failure: bool = False


class Sweep(_OfWorker):
    """The main process is gone; kill what it left behind."""


class Retire(_OfWorker):
    """Forget an instance that is neither wanted nor running any more."""


@dataclass(frozen=True, slots=True)
class Promote:
    """The standby takes the place of a worker that does not serve, or is about to be restarted."""

    id: str
    place: str


class Dismiss(_OfWorker):
    """The rolling restart is over: the spare is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Everything has stopped: end the balancer and the supervisor."""


Action = Admit | Start | Drain | Sleep | Wake | Stop | Kill | Sweep | Retire | Promote | Dismiss | Exit


def reconcile(desired: DesiredState, observed: ObservedState, now: float) -> list[Action]:
    """The actions that bring ``observed`` nearer to ``desired`` at ``now`` (s, the clock of `since`)."""
    actions: list[Action] = list(_promotions(desired, observed))  # requests wait for no start
    wanted = desired.wanted
    for instance in observed.values():
        if instance.id not in wanted:
            actions += _end(instance, desired, now, retire=True)
    starting_on, room = _gpus_starting(observed), _room_to_start(desired, observed, now)
    for group in () if desired.shutting_down else desired.groups.values():
        for action in _bring_about(group, desired, observed, now):
            if isinstance(action, Start | Wake):
                gpus = set(observed[action.id].gpus)
                if starting_on & gpus or room <= 0:
                    continue  # two engines that profile one GPU's memory at the same time trip over each other
                starting_on |= gpus
                room -= 1
            actions.append(action)
    if desired.shutting_down and not observed:
        actions.append(Exit())
    return actions


def _promotions(desired: DesiredState, observed: ObservedState) -> Iterator[Promote]:
    for group in () if desired.shutting_down else desired.groups.values():
        if group.standbys:
            for name, place in standby.promotions(group, observed, rolling.next_to_roll(group, observed)):
                yield Promote(name, place)


def _bring_about(
    group: WorkerGroup, desired: DesiredState, observed: ObservedState, now: float
) -> Iterator[Action]:
    wanted = group.wanted
    if group.spares and rolling.over(group, observed):
        yield from map(Dismiss, group.spares)  # from the next round on it is not wanted
        wanted = group.lasting
    next_to_roll = rolling.next_to_roll(group, observed)
    for name, want in wanted.items():
        seen = observed.get(name)
        if seen is None:
            yield Admit(name)
        else:
            yield from _keep(seen, want, group, desired, now, next_to_roll)


def _gpus_starting(observed: ObservedState) -> set[int]:
    """Also where something is on its way out: memory that is freed while another engine measures what is free
    trips it as well."""
    busy = (_S.STARTING, _S.STOPPING)
    return {
        gpu
        for i in observed.values()
        if i.state in busy or (not i.main_alive and not i.tree_empty)
        for gpu in i.gpus
    }


def _room_to_start(desired: DesiredState, observed: ObservedState, now: float) -> float:
    """How many more may be started now. One that takes unusually long does not hold up the others."""
    if desired.starts_at_once is None:
        return math.inf
    starting = (i for i in observed.values() if i.state is _S.STARTING and now - i.since < _START_S)
    busy = sum(_FORKED if i.forked else 1.0 for i in starting)
    return desired.starts_at_once - busy


def _keep(
    seen: InstanceObserved, want: InstanceDesired, group: WorkerGroup, desired: DesiredState, now: float,
    next_to_roll: str | None,
) -> Iterator[Action]:
    startup = desired.startup_timeout if group.startup_timeout is None else group.startup_timeout
    behind = seen.generation < want.generation
    stale = behind and (not want.rolling or next_to_roll == seen.id)
    keep = behind and not stale
    if not seen.main_alive and not seen.tree_empty:
        yield Sweep(seen.id)
    elif want.asleep and not behind:
        yield from _lay_down(seen, desired, now)
    elif seen.state is _S.DRAINING and seen.dozing:
        return  # it is woken when it sleeps
    elif seen.state is _S.ASLEEP and not stale:
        yield Wake(seen.id)
    elif seen.state in (_S.DRAINING, _S.STOPPING) or (stale and seen.state in RUNNING):
        yield from _end(seen, desired, now, retire=False)
    elif seen.state is _S.STOPPED or (stale and seen.state in (_S.BACKOFF, _S.FAILED)):
        yield Start(seen.id, fresh=True, keep=keep)
    elif seen.state is _S.BACKOFF and now >= seen.restart_at:
        yield Start(seen.id, keep=keep)
    elif seen.state is _S.STARTING and now - seen.since > startup:
        yield Kill(seen.id, f"not ready within {startup:g} s", failure=True)
    elif seen.state in (_S.STARTING, _S.READY, _S.UNHEALTHY) and seen.hung:
        yield Kill(seen.id, seen.hung, failure=True)
    elif seen.state is _S.UNHEALTHY and seen.failing_probes:
        yield Kill(seen.id, "health checks keep failing", failure=True)


def _lay_down(seen: InstanceObserved, desired: DesiredState, now: float) -> Iterator[Action]:
    """To where it sleeps. One that dies on the way, or is not there, is not started: it is when it is to wake."""
    if seen.state is _S.DRAINING:
        if seen.hung:
            yield Kill(seen.id, seen.hung, failure=True)
        elif seen.in_flight == 0 and not seen.dozing:
            yield Sleep(seen.id)
    elif seen.state in RUNNING and seen.state is not _S.ASLEEP:
        yield from _end(seen, desired, now, retire=False)


def _end(seen: InstanceObserved, desired: DesiredState, now: float, retire: bool) -> Iterator[Action]:
    """The way out, whatever the state: drain, stop, kill, sweep, forget."""
    waited = now - seen.since
    if not seen.main_alive and not seen.tree_empty:
        yield Sweep(seen.id)
    elif seen.state in (_S.BACKOFF, _S.FAILED, _S.STOPPED):
        if retire:
            yield Retire(seen.id)
    elif desired.kill_now and seen.main_alive:
        yield Kill(seen.id, "asked to end at once")
    elif seen.state in (_S.STARTING, _S.ASLEEP):
        yield Stop(seen.id, "not wanted any more" if retire else "restart asked for")
    elif seen.state in (_S.READY, _S.UNHEALTHY):
        yield Drain(seen.id)
    elif seen.state is _S.DRAINING:
        if seen.hung:
            yield Kill(seen.id, seen.hung)  # what runs there will not finish
        elif seen.in_flight == 0:
            yield Stop(seen.id, "drained")
        elif waited >= desired.drain_of(seen.id):
            yield Stop(seen.id, f"drain timeout of {desired.drain_of(seen.id):g} s")
    elif seen.state is _S.STOPPING and waited >= desired.stop_grace:
        yield Kill(seen.id, f"still there {desired.stop_grace:g} s after it was asked to end")
