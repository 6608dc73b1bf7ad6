"""Standbys: workers beyond those that are asked for, started and ready, that are sent nothing until they take the place
of one that does not serve. Pure.

Taking a place is a change of roles and of nothing else: both keep their ids, their slots and their processes. Whoever
had the place is a standby from then on, and is started again as any other worker. The same happens before a worker is
restarted on purpose, so that a planned change costs no capacity; and where a new one is still starting.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

from cluster.fleet.groups import InstanceDesired, WorkerGroup, instance_name, number_of
from cluster.fleet.instance import Instance
from cluster.fleet.states import InstanceObserved, ObservedState, WorkerState


def filled(group: WorkerGroup, there: Mapping[str, Instance]) -> WorkerGroup:
    """``group`` with as many standbys as it is to have and there is room for; none while it is not up. Ready ones of
    ``there`` stay first. A number is used again as soon as nobody is wanted under it: each is a place."""
    kept = [name for name in group.standbys if name not in group.instances]
    kept.sort(key=lambda name: name not in there or there[name].state is not WorkerState.READY)
    kept = kept[: _wanted(group)]
    taken = {*group.instances, *group.spares, *kept}
    free = (name for name in (instance_name(n, group.name) for n in itertools.count()) if name not in taken)
    names = [*kept, *itertools.islice(free, _wanted(group) - len(kept))]
    found = {name: group.standbys.get(name) or known(name, there) for name in sorted(names, key=number_of)}
    return replace(group, standbys=found)


def _wanted(group: WorkerGroup) -> int:
    if not group.instances or any(want.asleep for want in group.instances.values()):
        return 0
    room = group.standby_count if group.capacity is None else group.capacity - group.count - len(group.spares)
    return max(0, min(group.standby_count, room))


def known(name: str, there: Mapping[str, Instance]) -> InstanceDesired:
    """What is wanted of a worker that was not; of one that is still on its way out, no more than it is."""
    return InstanceDesired(there[name].generation if name in there else 0)


def swapped(group: WorkerGroup, standby: str, place: str) -> WorkerGroup:
    """``standby`` has the place of ``place``, and that one is a standby."""
    instances = {**group.instances, standby: group.standbys[standby]}
    standbys = {**group.standbys, place: instances.pop(place)}
    del standbys[standby]
    in_order = {name: instances[name] for name in sorted(instances, key=number_of)}
    return replace(group, instances=in_order, standbys=standbys)


def promotions(group: WorkerGroup, observed: ObservedState, next_to_roll: str | None) -> Iterator[tuple[str, str]]:
    """Who takes whose place now; ``next_to_roll``: the one that a rolling restart takes down next. Those of which
    nothing is left come first; a standby that lacks an adapter is taken last. A worker that somebody drained keeps its
    place."""

    def going(name: str, want: InstanceDesired) -> bool:
        return observed[name].generation < want.generation and (not want.rolling or name == next_to_roll)

    fit = [
        seen for name, want in group.standbys.items()
        if (seen := observed.get(name)) is not None and _serves(seen) and not seen.cordoned and not going(name, want)
    ]  # fmt: skip
    places = [
        seen for name, want in group.instances.items()
        if (seen := observed.get(name)) is not None and not want.asleep and not seen.cordoned
        and (not _serves(seen) or going(name, want))
    ]  # fmt: skip
    fit.sort(key=lambda seen: seen.missing_adapters)
    places.sort(key=lambda seen: seen.main_alive)
    yield from ((standby.id, place.id) for standby, place in zip(fit, places, strict=False))


def _serves(seen: InstanceObserved) -> bool:
    return seen.state is WorkerState.READY and not seen.hung and not seen.failing_probes
