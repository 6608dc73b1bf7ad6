"""A home is announced when the adapter is there, and what leaves stays until then."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from cluster.adapters.inventory import Inventory
from cluster.adapters.registry import Adapter, Registry, Version
from cluster.adapters.residency import ROUND_S, Residency
from cluster.fleet.instance import HeldAdapters, Refusal
from cluster.fleet.states import WorkerState


@dataclass
class Worker:
    id: str
    state: WorkerState = WorkerState.READY
    incarnation: int = 1
    settings: int = 0
    adapters: HeldAdapters = field(default_factory=HeldAdapters)


async def unsaved(*args: Any) -> None:
    raise AssertionError("nothing is saved here")


class Cluster:
    def __init__(self, workers: int, adapters: int, places: int, pinned: int = 0) -> None:
        plan = SimpleNamespace(adapter_cap=places, spec=SimpleNamespace(max_loras=2))
        self.inventory = Inventory(cast(Any, SimpleNamespace(latest=plan, plans={})), unsaved)
        made = [
            Adapter(f"a{n}", 1, (Version(1, f"h{n}", f"/a{n}", 8, (), None, "/s", 1, float(n)),), pinned=n < pinned)
            for n in range(adapters)
        ]
        self.inventory.registry = Registry({adapter.name: adapter for adapter in made})
        self.workers = [Worker(f"instance_{n}") for n in range(workers)]
        self.cordoned: set[str] = set()
        self.adaptive, self.now, self.changes = True, 0.0, 0
        self.residency = Residency(
            self.inventory, lambda: self.workers, self.cordoned.__contains__, lambda: self.adaptive, self.changed,
            lambda: self.now,
        )

    def changed(self) -> None:
        self.changes += 1

    def look(self, after: float = 0.0) -> None:
        self.now += after
        self.residency.look()

    def wanted(self, number: int) -> set[str]:
        return set(self.inventory.wanted(f"instance_{number}"))

    def sync(self, *numbers: int) -> None:
        """Those workers hold what they should."""
        for number in numbers:
            self.workers[number].adapters.loaded = dict(self.inventory.wanted(f"instance_{number}"))

    @property
    def homes(self) -> dict[str, tuple[str, ...]]:
        return dict(self.inventory.homes)


def test_where_all_have_room_or_another_strategy_is_in_force_all_hold_the_same() -> None:
    roomy, other = Cluster(3, 4, 4), Cluster(3, 6, 4)
    other.adaptive = False
    for cluster in (roomy, other):
        cluster.look()
        assert cluster.homes == {} and cluster.changes == 0
        assert cluster.wanted(0) == cluster.wanted(1) == cluster.wanted(2)


def test_each_worker_wants_its_own_and_the_pinned_ones() -> None:
    cluster = Cluster(3, 11, 4, pinned=2)
    cluster.look()
    wanted = [cluster.wanted(number) for number in range(3)]
    assert all({"a0", "a1"} <= each and len(each) == 4 for each in wanted)
    assert len(set.union(*wanted)) == 8, "places are for others that are asked for first"
    assert cluster.homes.keys() == {f"a{n}" for n in range(2, 11)}


def test_what_leaves_stays_until_it_has_arrived_or_has_waited_long_enough() -> None:
    cluster = Cluster(2, 6, 4)
    cluster.cordoned.add("instance_1")
    cluster.look()
    assert set(sum(cluster.homes.values(), ())) == {"instance_0"}
    cluster.sync(0)
    before = cluster.wanted(0)
    cluster.cordoned.clear()
    cluster.look()
    moved = {name for name, ids in cluster.homes.items() if ids == ("instance_1",)}
    there = moved & before
    assert there and cluster.wanted(1) >= moved
    assert cluster.wanted(0) >= there, "still asked for there"
    changes = cluster.changes
    cluster.sync(1)
    cluster.look()
    assert cluster.changes == changes + 1
    assert all(name in cluster.wanted(0) for name, ids in cluster.homes.items() if ids == ("instance_0",))
    assert len(cluster.wanted(0)) <= 4
    cluster.look()
    assert cluster.changes == changes + 1, "nothing more to say"


def test_what_never_arrives_does_not_stay_for_good() -> None:
    cluster = Cluster(2, 6, 4)
    cluster.cordoned.add("instance_1")
    cluster.look()
    cluster.sync(0)
    cluster.cordoned.clear()
    cluster.look()
    own = {name for name, ids in cluster.homes.items() if ids == ("instance_0",)}
    assert not cluster.wanted(0) <= own
    for _ in range(3):
        cluster.look(after=ROUND_S)
    assert len(cluster.wanted(0)) <= 4 and own <= cluster.wanted(0)


def test_a_worker_that_is_not_asked_just_now_keeps_what_it_holds() -> None:
    cluster = Cluster(2, 6, 4)
    cluster.look()
    cluster.sync(0, 1)
    before = cluster.wanted(1)
    cluster.workers[1].state = WorkerState.UNHEALTHY
    cluster.look()
    assert set(sum(cluster.homes.values(), ())) == {"instance_0"}
    assert cluster.wanted(1) == before


def test_what_every_home_refuses_is_wanted_of_all() -> None:
    cluster = Cluster(2, 6, 4)
    cluster.look()
    name, (home,) = next((name, ids) for name, ids in cluster.homes.items() if ids == ("instance_0",))
    cluster.workers[0].adapters.refused[name] = Refusal("no", f"/{name}", 1, 0.0)
    cluster.inventory.used[name] = 9.0
    assert name not in cluster.wanted(1)
    cluster.look()
    assert name in cluster.wanted(1)
    assert home == "instance_0"


def test_whoever_comes_after_a_supervisor_begins_with_what_is_there() -> None:
    first, second = Cluster(3, 12, 4), Cluster(3, 12, 4)
    first.look()
    first.sync(0, 1, 2)
    for worker, before in zip(second.workers, first.workers, strict=True):
        worker.adapters.loaded = dict(before.adapters.loaded)
    second.look()
    assert second.homes == first.homes
    assert [second.wanted(number) for number in range(3)] == [first.wanted(number) for number in range(3)]


def test_work_that_is_reported_gets_more_homes() -> None:
    cluster = Cluster(4, 6, 4)
    cluster.look()
    assert len(cluster.homes["a5"]) == 1
    cluster.residency.report_work({"a5": 900.0, "a1": 10.0})
    cluster.residency.report_work({"a5": 900.0})
    cluster.look(after=ROUND_S)
    assert len(cluster.homes["a5"]) == 4
