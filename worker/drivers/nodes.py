"""What a driver promises besides (`worker.drivers.base`) whose workers run on the nodes of a cluster of machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from worker.drivers.base import Driver
from worker.spec import WorkerEndpoint


@dataclass(frozen=True, slots=True)
class WorkerNeed:
    """What a worker takes of its node, besides processors and memory, which are not counted: ``gpus`` whole, or less
    than one; ``resources`` by names and ``labels`` (key: value) as whoever keeps the nodes has them."""

    gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.gpus or self.resources or self.labels)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Where a worker listens, and which GPUs of that machine are its own."""

    endpoint: WorkerEndpoint
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HeldPlace:
    """What a worker keeps while it is wanted. ``host`` None: it has no place yet."""

    need: WorkerNeed
    host: str | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """``host``: where its workers listen. ``state``: ``up``, ``lost``, or ``waiting`` where it is not heard of yet.
    ``heard_s``: seconds since its agent's last word, from which on the lease runs; ``agent``: where that listens. GPUs
    as whoever keeps the nodes counts them, None where nobody has said it."""

    name: str
    host: str
    state: str
    heard_s: float
    lease_s: float
    agent: str
    gpus: float | None = None
    free_gpus: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@runtime_checkable
class NodeDriver(Driver, Protocol):
    """One whose workers run on several machines."""

    def place(self, name: str, need: WorkerNeed, taken: Mapping[str, WorkerPlace]) -> WorkerPlace:
        """For the worker ``name``, on the node with the fewest of ``taken`` (by worker) that has what it needs; the
        same node again if it still has its place there. Raises OSError with what is lacking; ask again then."""

    def keep(self, places: Mapping[str, HeldPlace]) -> None:
        """Which workers have, or wait for, a place: those of others are given up, and what was lost of these is made
        again, soon. Does not block."""

    def nodes(self) -> list[NodeStatus]:
        """All that are known, by name. Does not block."""


@runtime_checkable
class NodeGiver(NodeDriver, Protocol):
    """One that says how many nodes there are."""

    def crowded(self) -> str | None:
        """The host of a node that could be given back if its worker were on one that is free, which is where the next
        one would come to. Does not block."""


class PlaceKeeper(Protocol):
    """Who holds for workers what they need of nodes."""

    def place(self, name: str, need: WorkerNeed, hosts: Sequence[str]) -> tuple[str, dict[str, tuple[int, ...]]]:
        """Holds what the worker ``name`` needs, on the first of ``hosts`` that has it, or where it is held already;
        and the GPUs of all that is held on that host, by worker. Blocks shortly. Raises OSError, with what is lacking
        or what it waits for."""

    def keep(self, places: Mapping[str, HeldPlace]) -> None:
        """As `NodeDriver.keep`, at the next look for nodes."""

    def gpus(self) -> Mapping[str, tuple[float, float]]:
        """How many each host has, and how many of these are free; as of the last look for nodes."""


def own_gpus(held: Iterable[int], used: Iterable[int], wanted: int) -> tuple[int, ...]:
    """The GPUs of one more worker of a node where all our places together hold ``held``, and our other workers use
    ``used``; one that is shared stands there as often as it is held. A place that had to be made again may hold another
    GPU than its worker uses, while all together are the same. Raises OSError where they are too few."""
    free = Counter(held) - Counter(used)
    if len(free) < wanted:
        raise OSError(f"{wanted} GPUs are held there, and workers use {sorted(set(used))} of {sorted(set(held))}")
    return tuple(sorted(free)[:wanted])
