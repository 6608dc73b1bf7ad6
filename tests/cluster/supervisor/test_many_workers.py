"""What one round costs grows with the number of workers, not with its square. Calls are counted, no time is taken."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.adapters.inventory import Trial
from cluster.adapters.registry import Registry, Version
from cluster.balancers.feed import Feed
from cluster.fleet.instance import Instance, Refusal
from cluster.fleet.reconciler import Kill, reconcile
from cluster.fleet.states import WorkerState
from cluster.monitoring.probes import CROWD, stretch
from cluster.supervisor.publisher import Publisher
from clusterfakes import Unrun
from config.topology import BackendSet
from fakedriver import FakeHandle
from lb.routing.pool import Pool
from worker.spec import Slot, WorkerEndpoint, WorkerSpec

#: Calls that it takes to see that a worker is as it was.
LOOKED_AT = 40


def calls_of(act: Callable[[], Any]) -> int:
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def cluster_of(folder: Path, count: int) -> Unrun:
    parts = Unrun(folder, max_instances=count)
    parts.fleet.intent.scale(count)
    for number, name in enumerate(parts.fleet.intent.group().instances):
        where = WorkerEndpoint(20_000 + number)
        spec = WorkerSpec(name, 1, ("worker",), {}, folder, folder / "log", folder / name, where, "key")
        worker = Instance(
            name, Slot(), state=WorkerState.READY, handle=FakeHandle(number, where), spec=spec, tree_empty=False
        )
        worker.models = ({"id": "demo", "object": "model"},)
        worker.adapters.loaded["poet"] = "/adapters/poet"
        worker.adapters.refused["odd"] = Refusal("", "/adapters/odd", 1, 9.0)
        parts.fleet.instances[name] = worker
    return parts


def one_round(parts: Unrun) -> None:
    fleet = parts.fleet
    assert reconcile(fleet.intent.desired, fleet.observed(), 1.0) == []
    json.dumps(parts.backends.as_of((1, 1)).to_json())
    for worker in fleet.instances.values():
        parts.write_behind.process(worker.id, worker.record())


def test_a_round_of_four_times_as_many_workers_costs_four_times_as_much(tmp_path: Path) -> None:
    few, many = cluster_of(tmp_path / "few", 50), cluster_of(tmp_path / "many", 200)
    one_round(few), one_round(many)  # what is made once
    assert calls_of(lambda: one_round(many)) < 4.5 * calls_of(lambda: one_round(few))


@pytest.mark.parametrize(("workers", "longer"), [(0, 1.0), (1, 1.0), (CROWD, 1.0), (4 * CROWD, 4.0)])
def test_many_workers_are_asked_as_often_in_all_as_some(workers: int, longer: float) -> None:
    assert stretch(workers) == longer


def test_that_one_of_four_times_as_many_workers_ends_costs_hardly_more(tmp_path: Path) -> None:
    """But for looking through them: what is made, sent, read and gone by is that one worker."""
    few, many = (End(cluster_of(tmp_path / str(count), count)) for count in (50, 200))
    assert few.size() == many.size() < 2000, "bytes of what is told"
    assert calls_of(many.heard) < calls_of(few.heard) + 20, "in the balancer"
    assert calls_of(many.told) - calls_of(few.told) < 150 * LOOKED_AT, "in the supervisor"


class End:
    """One worker after the other is out of rotation: what the supervisor says then, and a balancer that hears it."""

    def __init__(self, parts: Unrun) -> None:
        self._parts, self._left = parts, iter(list(parts.fleet.instances.values()))
        self.feed, self.pool = Feed(), Pool()
        self.writer = Written()
        self.feed.processes.append(self.writer)  # type: ignore[arg-type]
        self._publisher = Publisher(1, parts.backends.as_of, dict, self.feed, parts.clock.now)
        self._publisher.publish()
        self.pool.apply(BackendSet.from_json(json.loads(self.writer.lines.pop())["set"]))
        self.told(), self.heard()

    def told(self) -> None:
        next(self._left).enter(WorkerState.UNHEALTHY, 1.0, "")
        self._publisher.publish()

    def size(self) -> int:
        self.told()
        self.heard()
        return len(re.sub(rb"[0-9]+", b"", self.writer.last))  # ports and names are of as many digits as they are

    def heard(self) -> None:
        while self.writer.lines:
            self.writer.last = self.writer.lines.pop(0)
            change = json.loads(self.writer.last)
            assert self.pool.change(tuple(change["base"]), BackendSet.from_json(change["set"]), change["gone"])


class Written:
    """A balancer process of this version."""

    hears_changes = True

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.last = b""

    def send(self, message: bytes, kind: str = "", latest: Callable[[], bytes] | None = None) -> None:
        if kind == "set":
            self.lines.append(message)


class Audience:
    """Counts what balancers are told."""

    connected = True

    def __init__(self) -> None:
        self.sets = self.snapshots = 0

    def publish(
        self, backends: dict[str, Any] | None = None, snapshot: dict[str, Any] | None = None,
        keys: dict[str, Any] | None = None,
    ) -> None:
        self.sets += backends is not None
        self.snapshots += snapshot is not None


def publisher_of(parts: Unrun) -> tuple[Publisher, Audience]:
    audience = Audience()
    return Publisher(1, parts.backends.as_of, dict, audience, parts.clock.now), audience


def test_all_that_end_at_once_are_one_backend_set(tmp_path: Path) -> None:
    """One a worker would be a set of all workers for each of them."""
    parts = cluster_of(tmp_path, 50)
    parts.publisher, audience = publisher_of(parts)
    fleet = parts.fleet
    fleet.intent.shut_down(now=True)
    actions = reconcile(fleet.intent.desired, fleet.observed(), 1.0)
    assert len(actions) == 50 and all(isinstance(action, Kill) for action in actions)

    async def perform() -> None:
        async def publish() -> None:
            parts.publisher.publish()

        parts.executor._publish = publish
        await parts.executor.perform(actions)  # type: ignore[arg-type]

    asyncio.run(perform())
    assert {worker.state for worker in fleet.instances.values()} == {WorkerState.STOPPING}
    assert audience.sets == 1
    assert all(worker.handle is not None and worker.handle.empty() for worker in fleet.instances.values())


@pytest.mark.parametrize(("workers", "snapshots"), [(10, 20), (300, 1)])
def test_of_many_workers_that_change_one_by_one_a_snapshot_is_made_now_and_then(
    tmp_path: Path, workers: int, snapshots: int
) -> None:
    parts = cluster_of(tmp_path, workers)
    publisher, audience = publisher_of(parts)
    first = list(parts.fleet.instances.values())[:10]
    for number in range(20):
        first[number % 10].seats = number + 1
        publisher.publish()
        parts.time.advance(0.0042)
    assert (audience.sets, audience.snapshots) == (20, snapshots), "each set at once"
    parts.time.advance(1.0)
    publisher.publish()
    assert audience.snapshots == snapshots + (workers > 100), "and the last of them in the end"
    publisher.publish()
    publisher.announce()
    assert audience.snapshots == snapshots + (workers > 100) + 1, "one that somebody waits for at once"


def test_what_all_workers_should_hold_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, asked = cluster_of(tmp_path, 50), list[object]()
    resident = Registry.resident

    def counted(registry: Registry, *given: Any) -> dict[str, str]:
        asked.append(given)
        return resident(registry, *given)

    monkeypatch.setattr(Registry, "resident", counted)
    parts.backends.as_of((1, 1))
    assert len(asked) == 1


def test_it_is_what_each_of_them_should_hold(tmp_path: Path) -> None:
    parts = cluster_of(tmp_path, 5)
    version = Version(2, "hash", "/adapters/new", 8, (), None, "source", 1, 0.0)
    parts.inventory.trials["new"] = Trial(version, {"instance_3"})
    names = list(parts.fleet.instances)
    found = parts.inventory.wanted_by_all(names)
    assert found == {name: parts.inventory.wanted(name) for name in names}
    assert found["instance_3"]["new"] == "/adapters/new" and "new" not in found["instance_2"]
