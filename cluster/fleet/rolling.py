"""A rolling restart: whose turn it is, how far it has come, and what holds it up. Pure.

In each group one at a time, and never fewer ready than all but one. What has been started anew has to be ready before
the next one is taken down: a worker that does not come back stops it, and so does a spare that does not get ready (with
settings that do not work it is the first to try them, when nothing has been taken down yet). Where there are standbys
they are that: they come first, and take the place of each before its turn (`cluster.fleet.standby`). One that refuses
an adapter which others hold is ready for the base model only: it stops it as well, while they are still there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.events import Emit
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import InstanceDesired, WorkerGroup
from cluster.fleet.states import DesiredState, InstanceObserved, ObservedState, WorkerState

_S = WorkerState


def next_to_roll(group: WorkerGroup, observed: ObservedState) -> str | None:
    """The one instance of ``group`` that a rolling restart may take down now: one that serves nobody anyway, else the
    first in order, if enough of the others are ready without it."""
    left = _left({**group.standbys, **group.wanted}, observed)
    if not left or not _proven(group, observed):
        return None
    for name in left:
        if observed[name].cordoned or observed[name].state not in (_S.READY, _S.UNHEALTHY):
            return name
    others = sum(_stays_ready(n, want, observed) for n, want in group.wanted.items() if n != left[0])
    return left[0] if others >= group.count - 1 else None


def over(group: WorkerGroup, observed: ObservedState) -> bool:
    """Nothing is left to be restarted, and whoever should serve does: a spare may go."""
    return not _left(group.instances, observed) and all(
        name in observed and _serves(observed[name]) for name in group.instances
    )


@dataclass(frozen=True, slots=True)
class RollingProgress:
    """``done`` of ``total`` have been restarted and are ready. ``stopped_by``: the worker that does not come back, or
    comes back without adapters."""

    active: bool
    done: int
    total: int
    stopped_by: str | None


def progress(desired: DesiredState, observed: ObservedState) -> RollingProgress:
    """Of the last rolling restarts that were asked for, of all groups together."""
    rolled = [name for name, want in desired.instances.items() if want.rolling]
    left = set(_left(desired.wanted, observed))
    done = sum(n not in left and n in observed and _back(observed[n]) for n in rolled)
    active = bool(left or desired.spares) and not desired.shutting_down
    failed = [
        name
        for name in (*desired.spares, *(n for n, want in desired.standbys.items() if want.rolling), *rolled)
        if name in observed and name not in left and _stuck(observed[name])
    ]
    return RollingProgress(active, done, len(rolled), failed[0] if active and failed else None)


def _left(wanted: Mapping[str, InstanceDesired], observed: ObservedState) -> list[str]:
    return [
        name
        for name, want in wanted.items()
        if want.rolling and name in observed and observed[name].generation < want.generation
    ]


def _proven(group: WorkerGroup, observed: ObservedState) -> bool:
    """What was started anew serves (or is held back by a person), and the spare, if there is to be one, does too."""
    for name, want in group.wanted.items():
        seen = observed.get(name)
        if seen is None:
            if name in group.spares:
                return False
            continue
        new = (want.rolling or name in group.spares) and seen.generation >= want.generation
        if new and not _serves(seen):
            return False
    return True


def _back(seen: InstanceObserved) -> bool:
    return seen.state is _S.READY and not seen.missing_adapters


def _serves(seen: InstanceObserved) -> bool:
    return _back(seen) or seen.cordoned


def _stuck(seen: InstanceObserved) -> bool:
    return seen.state is _S.FAILED or (seen.state is _S.READY and seen.missing_adapters and not seen.cordoned)


def _stays_ready(name: str, want: InstanceDesired, observed: ObservedState) -> bool:
    """Ready, and not about to be taken down because somebody asked for its restart."""
    seen = observed.get(name)
    if seen is None or seen.cordoned or seen.state is not _S.READY:
        return False
    return want.rolling or seen.generation >= want.generation


class RollingNotice:
    """Tells when a rolling restart comes to a stop."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._stopped_by: str | None = None

    def look(self, fleet: Fleet, revertible: bool) -> None:
        desired = fleet.intent.desired
        rolling = desired.spares or any(want.rolling for want in desired.wanted.values())
        stopped_by = progress(desired, fleet.observed()).stopped_by if rolling else None
        if stopped_by is not None and stopped_by != self._stopped_by:
            why = why_stopped(fleet, stopped_by, revertible)
            self._emit("cluster", why, kind="restart.stopped", data={"by": stopped_by})
        self._stopped_by = stopped_by


def why_stopped(fleet: Fleet, name: str, revertible: bool) -> str:
    """What can be done, too: ``name`` does not come back, or not as it was. ``revertible``: there are settings to go
    back to."""
    instance = fleet.instances[name]
    desired, missing = fleet.intent.desired, fleet.missing_adapters(instance)
    spare = name in desired.spares or name in desired.standbys
    if missing:
        adapters = f"adapter{'s' * (len(missing) > 1)} {_some(missing)}"
        reason = instance.adapters.refused[missing[0]].reason
        who = f"{'the spare ' * spare}{name} cannot hold {adapters}"
    else:
        who, reason = f"the spare {name} does not get ready" if spare else f"{name} does not come back", instance.reason
    others = len(fleet.ready_in(instance.group))
    back = ", `clusterctl apply --previous` goes back to the settings before" if revertible else ""
    again = "`clusterctl restart --rolling` tries again" if spare else f"`clusterctl restart {name}` tries again"
    return f"the rolling restart stops: {who} ({reason}); {others} serve on; {again}{back}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
