"""What is wanted of the workers: every change that a client may ask for is a method here. Pure."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any

from cluster.fleet import standby
from cluster.fleet.cordons import Cordons
from cluster.fleet.groups import DEFAULT, InstanceDesired, WorkerGroup, group_of, instance_name, number_of
from cluster.fleet.instance import Instance
from cluster.fleet.model_names import ModelNames
from cluster.fleet.states import DesiredState
from config.topology import AUTO_STRATEGY, READY, SPARE


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was wanted at some time, to go back to."""

    groups: Mapping[str, WorkerGroup]
    weights: dict[str, int]
    strategy: str
    cordons: Cordons
    names: ModelNames


class Intent:
    """``instances``: those that there are, see `cluster.fleet.fleet.Fleet`. ``strategy``: how balancers choose. More
    methods than a class should have: each is something that a client, or what happens, may ask of the workers."""

    def __init__(self, desired: DesiredState, instances: Mapping[str, Instance], strategy: str = "") -> None:
        self.desired, self.strategy = desired, strategy
        self.weights: dict[str, int] = {}
        self.cordons = Cordons()
        self.names = ModelNames()
        self._instances = instances

    def group(self, name: str = DEFAULT) -> WorkerGroup:
        """Raises KeyError."""
        return self.desired.groups[name]

    def _want(self, group: WorkerGroup, **changes: Any) -> None:
        changed = dataclasses.replace(group, **changes)
        self.desired = self.desired.with_group(standby.filled(changed, self._instances))

    def fill(self) -> None:
        """As many standbys as are to be had, after a change of `WorkerGroup.standby_count`."""
        for group in self.desired.groups.values():
            self._want(group)

    def promote(self, name: str, place: str) -> None:
        """The standby ``name`` is one of those that serve in place of ``place``, with the weight that was given it."""
        self._want(standby.swapped(self.group(group_of(name)), name, place))
        self._swap_weights(name, place)

    def keep_standbys(self, group: str, count: int, capacity: int | None) -> None:
        """So many of a group, as far as there is room for them."""
        self._want(self.group(group), standby_count=count, capacity=capacity)

    def take_over(self, name: str, place: str, count: int, capacity: int | None) -> None:
        """The standby ``name`` is what ``place`` was, which is not wanted any more; see `keep_standbys`."""
        group = self.group(group_of(name))
        if place in group.instances:
            group = standby.swapped(group, name, place)
        left = {one: want for one, want in group.standbys.items() if one != place}
        self._want(group, standbys=left, standby_count=count, capacity=capacity)
        self._swap_weights(name, place)

    def _swap_weights(self, name: str, place: str) -> None:
        weights = {name: self.weights.pop(place, None), place: self.weights.pop(name, None)}
        self.weights |= {one: weight for one, weight in weights.items() if weight is not None}

    def shown(self, name: str, state: str) -> str:
        """The state as balancers and people are told it; ``state`` is the one it is in by itself."""
        shown = self.cordons.shown(name, state)
        return SPARE if shown == READY and name in self.group(group_of(name)).standbys else shown

    def scale(self, count: int, group: str = DEFAULT, leaving: str | None = None) -> None:
        """Wants ``count`` workers of a group: ``leaving`` goes first, then the newest; the lowest free number comes
        first. A spare whose number is among them is one of them from now on."""
        old = self.group(group)
        numbers = sorted(number_of(name) for name in old.instances if name != leaving)[:count]
        taken = frozenset(numbers)
        free = (number for number in itertools.count() if number not in taken)
        numbers += itertools.islice(free, count - len(numbers))
        wanted = {n: self._known(n, old) for n in (instance_name(number, group) for number in sorted(numbers))}
        spares = {n: want for n, want in old.spares.items() if n not in wanted}
        for name in old.instances.keys() - wanted.keys():
            self.cordons.end(name)
        self._want(old, instances=wanted, spares=spares)

    def bring_up(self, group: str, count: int) -> None:
        """Wants ``count`` workers of a group that had none."""
        self.scale(count, group)
        self._want(self.group(group), drain_timeout=None)

    def sleep(self, group: str) -> None:
        """Wants those of a group asleep that there are; none at all where a restart of them has not come to its end."""
        wanted = self.group(group)
        there = {name: self._instances[name] for name in wanted.instances if name in self._instances}
        if wanted.spares or any(one.generation < wanted.instances[name].generation for name, one in there.items()):
            self.take_down(group, math.inf)
        else:
            self._want(wanted, instances=_each(wanted, asleep=True), drain_timeout=math.inf)

    def wake(self, group: str) -> None:
        """Wants them awake again."""
        wanted = self.group(group)
        self._want(wanted, instances=_each(wanted, asleep=False), drain_timeout=None)

    def take_down(self, group: str, drain_timeout: float | None) -> None:
        """Wants no worker of a group; ``drain_timeout`` (s): how long its requests may take to finish, None: as long as
        those of any other."""
        self.scale(0, group)
        self._want(self.group(group), drain_timeout=drain_timeout)

    def forget_group(self, group: str) -> None:
        """Of which there are no workers any more."""
        self.desired = self.desired.without_group(group)

    def _known(self, name: str, group: WorkerGroup) -> InstanceDesired:
        """What is wanted of ``name`` already, awake; of one that is still on its way out, no more than it is."""
        known = group.wanted.get(name) or standby.known(name, self._instances)
        return dataclasses.replace(known, asleep=False)

    def restart(self, name: str) -> None:
        """Also ends its drain. Raises KeyError for an instance that is not wanted."""
        group = self.group(group_of(name))
        restarted = {name: InstanceDesired(group.lasting[name].generation + 1, rolling=False)}
        self.cordons.end(name)
        if name in group.standbys:
            self._want(group, standbys={**group.standbys, **restarted})
        else:
            self._want(group, instances={**group.instances, **restarted})

    def restart_rolling(
        self, spare: str | None = None, keep: Collection[str] = (), group: str = DEFAULT
    ) -> None:
        """All of a group but those in ``keep``, with a ``spare`` of that name (None: without); ends what is drained
        among them. ``keep`` are where they would be brought to: a restart that has not come to them yet is taken
        back."""
        before = self.group(group)
        wanted = {n: InstanceDesired(i.generation + 1, rolling=True) for n, i in before.lasting.items()}
        for name, want in wanted.items():
            if name in keep and name in self._instances:
                self._instances[name].generation = want.generation
            else:
                self.cordons.end(name)
        old = self._instances.get(spare) if spare else None
        spares = {spare: InstanceDesired(old.generation + 1 if old else 0, rolling=True)} if spare else {}
        instances = {name: wanted[name] for name in before.instances}
        self._want(before, instances=instances, spares=spares, standbys={n: wanted[n] for n in before.standbys})

    def dismiss_spare(self, name: str) -> None:
        self._want(self.group(group_of(name)), spares={})

    def free_name(self, group: str = DEFAULT) -> str:
        """The one that a spare would have: its number is that of none that is wanted, or on its way out."""
        wanted = self.group(group)
        taken = {*wanted.lasting, *self._instances} - set(wanted.spares)
        names = (instance_name(number, group) for number in itertools.count())
        return next(name for name in names if name not in taken)

    def cordon(self, name: str, grace: float, now: float, version: tuple[int, int], balancer: bool) -> None:
        """Out of rotation until `Cordons.end`, a restart or its end; ``version`` is the backend set that will tell the
        balancer; without a ``balancer`` nothing runs on it."""
        self.cordons.begin(name, grace, now, version, None if balancer else 0)

    def shut_down(self, now: bool = False) -> None:
        self.desired = dataclasses.replace(
            self.desired, shutting_down=True, kill_now=now or self.desired.kill_now
        )

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            self.desired.groups, dict(self.weights), self.strategy, self.cordons.copy(), self.names.copy()
        )

    def go_back(self, to: Checkpoint) -> None:
        """A shutdown that has begun since goes on."""
        self.weights, self.strategy, self.cordons, self.names = to.weights, to.strategy, to.cordons, to.names
        self.desired = dataclasses.replace(self.desired, groups=to.groups)

    def durable(self) -> dict[str, Any]:
        """For the store; `restore` reads it. A worker's id says of which group it is."""
        desired = {
            "instances": {n: _kept(i) for n, i in self.desired.instances.items()},
            "spares": {n: _kept(i) for n, i in self.desired.spares.items()},
            "weights": dict(self.weights),
            "drained": self.cordons.durable(),
        }
        if self.desired.standbys:  # an earlier release ends them
            desired["standbys"] = {n: _kept(i) for n, i in self.desired.standbys.items()}
        # Not by name: an earlier release has none of that name, and takes "" for the default that it has.
        kept = "" if self.strategy == AUTO_STRATEGY else self.strategy
        return {"desired": desired, "strategy": kept, "model_names": self.names.durable()}

    def restore(self, kept: Mapping[str, Any], strategy: str | None) -> None:
        """What an earlier supervisor wrote under ``desired`` and ``strategy``, less what was drained: the first backend
        set says so. Workers of a group that there is not any more are not wanted."""
        self.strategy = strategy or self.strategy
        self.weights = dict(kept.get("weights", {}))
        if kept.get("instances") is not None:
            for group in self.desired.groups.values():
                instances, spares = _of(group, kept["instances"]), _of(group, kept.get("spares", {}))
                self._want(group, instances=instances, spares=spares, standbys=_of(group, kept.get("standbys", {})))


def _each(group: WorkerGroup, asleep: bool) -> dict[str, InstanceDesired]:
    return {name: dataclasses.replace(want, asleep=asleep) for name, want in group.instances.items()}


def _kept(want: InstanceDesired) -> dict[str, Any]:
    """Without what an earlier release does not know, where nobody sleeps. Asked of all workers after every change, so
    fields are named, as in `Instance.record`."""
    return {"generation": want.generation, "rolling": want.rolling, **({"asleep": True} if want.asleep else {})}


def _of(group: WorkerGroup, kept: Mapping[str, Any]) -> dict[str, InstanceDesired]:
    return {name: InstanceDesired(**value) for name, value in kept.items() if group_of(name) == group.name}
