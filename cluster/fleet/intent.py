"""What is wanted of the workers: every change that a client may ask for is a method here. Pure."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping
from typing import Any

from cluster.fleet.cordons import Cordons
from cluster.fleet.instance import Instance
from cluster.fleet.states import DesiredState, InstanceDesired


def instance_name(number: int) -> str:
    return f"instance_{number}"


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was wanted at some time, to go back to."""

    instances: Mapping[str, InstanceDesired]
    spares: Mapping[str, InstanceDesired]
    weights: dict[str, int]
    strategy: str
    cordons: Cordons


class Intent:
    """``instances``: those that there are, see `cluster.fleet.fleet.Fleet`. ``strategy``: how balancers choose."""

    def __init__(self, desired: DesiredState, instances: Mapping[str, Instance], strategy: str = "") -> None:
        self.desired, self.strategy = desired, strategy
        self.weights: dict[str, int] = {}
        self.cordons = Cordons()
        self._instances = instances

    def scale(self, count: int) -> None:
        """Wants workers 0 to ``count - 1``: the newest go first, the lowest free number comes first. A spare whose
        number is among them is one of them from now on."""
        wanted = {n: self._known(n) for n in map(instance_name, range(count))}
        spares = {n: want for n, want in self.desired.spares.items() if n not in wanted}
        for name in self.desired.instances.keys() - wanted.keys():
            self.cordons.end(name)
        self.desired = dataclasses.replace(self.desired, instances=wanted, spares=spares)

    def _known(self, name: str) -> InstanceDesired:
        """What is wanted of ``name`` already; of one that is still on its way out, no more than it is."""
        old = self._instances.get(name)
        known = self.desired.instances.get(name) or self.desired.spares.get(name)
        return known or InstanceDesired(old.generation if old else 0)

    def restart(self, name: str) -> None:
        """Also ends its drain. Raises KeyError for an instance that is not wanted."""
        restarted = InstanceDesired(self.desired.instances[name].generation + 1, rolling=False)
        self.cordons.end(name)
        self.desired = dataclasses.replace(self.desired, instances={**self.desired.instances, name: restarted})

    def restart_rolling(self, spare: str | None = None, keep: Collection[str] = ()) -> None:
        """All but those in ``keep``, with a ``spare`` of that name (None: without); ends what is drained among them.
        ``keep`` are where they would be brought to: a restart that has not come to them yet is taken back."""
        wanted = {n: InstanceDesired(i.generation + 1, rolling=True) for n, i in self.desired.instances.items()}
        for name, want in wanted.items():
            if name in keep and name in self._instances:
                self._instances[name].generation = want.generation
            else:
                self.cordons.end(name)
        old = self._instances.get(spare) if spare else None
        spares = {spare: InstanceDesired(old.generation + 1 if old else 0, rolling=True)} if spare else {}
        self.desired = dataclasses.replace(self.desired, instances=wanted, spares=spares)

    def dismiss_spare(self) -> None:
        self.desired = dataclasses.replace(self.desired, spares={})

    def free_number(self) -> int:
        """The number that a spare would have: above all that are wanted, and not of one that is on its way out."""
        taken = {*self.desired.instances, *self._instances} - set(self.desired.spares)
        return next(n for n in itertools.count(len(self.desired.instances)) if instance_name(n) not in taken)

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
            self.desired.instances, self.desired.spares, dict(self.weights), self.strategy, self.cordons.copy()
        )

    def go_back(self, to: Checkpoint) -> None:
        """A shutdown that has begun since goes on."""
        self.weights, self.strategy, self.cordons = to.weights, to.strategy, to.cordons
        self.desired = dataclasses.replace(self.desired, instances=to.instances, spares=to.spares)

    def durable(self) -> dict[str, Any]:
        """For the store; `restore` reads it."""
        desired = {
            "instances": {n: dataclasses.asdict(i) for n, i in self.desired.instances.items()},
            "spares": {n: dataclasses.asdict(i) for n, i in self.desired.spares.items()},
            "weights": dict(self.weights),
            "drained": self.cordons.durable(),
        }
        return {"desired": desired, "strategy": self.strategy}

    def restore(self, kept: Mapping[str, Any], strategy: str | None) -> None:
        """What an earlier supervisor wrote under ``desired`` and ``strategy``, less what was drained: the first backend
        set says so."""
        self.strategy = strategy or self.strategy
        self.weights = dict(kept.get("weights", {}))
        if kept.get("instances") is not None:
            wanted = {name: InstanceDesired(**value) for name, value in kept["instances"].items()}
            spares = {name: InstanceDesired(**value) for name, value in kept.get("spares", {}).items()}
            self.desired = dataclasses.replace(self.desired, instances=wanted, spares=spares)
