"""Workers that are alike: what each group of them runs, how many there should be, and what they are called. Pure.

A worker is known as ``group/instance_n``. Those of the group `DEFAULT` are ``instance_n``, also when there are others:
an id means the same worker for the life of a state directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.drivers.base import LOCAL

#: The group of all workers where nothing is said of groups.
DEFAULT = "default"

#: By which names the balancer can be asked to be restarted, as a worker can by its id.
BALANCER = ("load_balancer", "lb", "balancer")

_PREFIX = "instance_"


def instance_name(number: int, group: str = DEFAULT) -> str:
    """The id of the worker ``number`` (from 0) of a group, in whose name there is no slash."""
    return f"{_PREFIX}{number}" if group == DEFAULT else f"{group}/{_PREFIX}{number}"


def group_of(name: str) -> str:
    """The group of the worker ``name``, whether it is still wanted or not."""
    return name.rpartition("/")[0] or DEFAULT


def number_of(name: str) -> int:
    return int(name.rpartition("_")[2])


def is_worker(name: str) -> bool:
    """Whether a process of that name is a worker, and not a balancer."""
    return name.rpartition("/")[2].startswith(_PREFIX)


@dataclass(frozen=True, slots=True)
class InstanceDesired:
    """``generation`` counts the restarts that were asked for; a worker of an older one is to be replaced.
    ``rolling``: not before the others of its group are ready. ``asleep``: it is to give its GPU's memory back without
    ending."""

    generation: int = 0
    rolling: bool = False
    asleep: bool = False


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """``count`` workers that serve ``model`` (the first of its names) with one engine, started by one driver, both by
    name. ``spares`` (one at most) stand in while a rolling restart of the group lasts: they are not counted, and go
    when it is over. ``standbys`` are sent nothing until they take another's place (`cluster.fleet.standby`):
    ``standby_count`` of them, as far as ``capacity`` (workers; None: any number) goes. ``startup_timeout`` and
    ``drain_timeout`` (s) where they are not as in the whole cluster."""

    name: str = DEFAULT
    model: str = ""
    engine: str = ""
    driver: str = LOCAL
    instances: Mapping[str, InstanceDesired] = field(default_factory=dict)
    spares: Mapping[str, InstanceDesired] = field(default_factory=dict)
    standbys: Mapping[str, InstanceDesired] = field(default_factory=dict)
    standby_count: int = 0
    capacity: int | None = None
    startup_timeout: float | None = None
    drain_timeout: float | None = None

    @property
    def count(self) -> int:
        return len(self.instances)

    @property
    def wanted(self) -> Mapping[str, InstanceDesired]:
        """Every worker there should be just now, the spare first and standbys last."""
        return {**self.spares, **self.lasting}

    @property
    def lasting(self) -> Mapping[str, InstanceDesired]:
        """Those that are not only there while a rolling restart lasts."""
        return {**self.instances, **self.standbys}
