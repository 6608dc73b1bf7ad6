"""A change is stored before anything follows from it, or was never made."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.deployment.revisions import Revisions, SettingsInForce
from cluster.events import EventLog
from cluster.fleet.fleet import Fleet
from cluster.fleet.restart import RestartPolicy
from cluster.fleet.states import DesiredState
from cluster.storage.store import NotSaved, Store
from cluster.storage.write_behind import WriteBehind
from cluster.supervisor.transactions import Transactions
from clusterfakes import sim_plan
from config.paths import StateDir
from fakes import Clock, rng
from worker.drivers import available


class Cluster:
    """What is wanted of a cluster, and its store."""

    def __init__(self, state: StateDir, store: Store) -> None:
        clock = Clock()
        self.state, self.store, self.clock = state, store, clock
        self.events = EventLog(clock)
        self.fleet = Fleet(DesiredState(), RestartPolicy(), rng().random, self.events.emit, strategy="random")
        revisions = Revisions(sim_plan())
        self.saver = WriteBehind(store, self.events.emit, clock, lambda path: 1 << 30)
        self.transactions = Transactions(
            self.fleet.intent, revisions, SettingsInForce(revisions, self.fleet, []), self.events, self.saver,
            state, available(),
        )
        self.fleet.intent.scale(1)
        self.transactions.known()

    def ask(self, change: Callable[[], Any]) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.transactions.carry_out(change, done)
        return done

    def scale(self, count: int) -> int:
        self.fleet.intent.scale(count)
        self.events.emit("cluster", f"scale to {count}")
        return count

    def set_weight(self, weight: int) -> None:
        self.fleet.intent.weights["instance_0"] = weight
        self.events.emit("instance_0", f"weight {weight}")

    def read_only(self, yes: bool) -> None:
        self.store._connection.execute(f"PRAGMA query_only = {int(yes)}")

    @property
    def told(self) -> list[str]:
        return [event.text for event in self.events.events if event.subject != "state"]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    state = StateDir(tmp_path)
    state.create()
    store = await Store.open(state.database)
    yield Cluster(state, store)
    await store.close()


async def test_a_change_is_stored_then_told_then_answered(cluster: Cluster) -> None:
    done = cluster.ask(lambda: cluster.scale(3))
    assert cluster.told == [] and not done.done()
    await cluster.transactions.keep()
    assert len((await cluster.store.get("desired"))["instances"]) == 3
    assert cluster.told == ["scale to 3"] and not done.done()
    assert sorted(path.name for path in cluster.state.runs.iterdir()) == [f"instance_{n}" for n in range(3)]
    cluster.transactions.answer()
    assert await done == 3


async def test_who_only_waits_hears_when_all_that_came_before_shows(cluster: Cluster) -> None:
    change, settled = cluster.ask(lambda: cluster.scale(3)), asyncio.get_running_loop().create_future()
    cluster.transactions.tell(settled)
    await cluster.transactions.keep()
    assert cluster.transactions.unanswered and not settled.done()
    cluster.transactions.answer()
    assert change.done() and settled.done() and len(cluster.fleet.intent.desired.instances) == 3


async def test_what_cannot_be_stored_was_never_wanted(cluster: Cluster) -> None:
    cluster.read_only(True)
    changes = [cluster.ask(lambda: cluster.scale(3)), cluster.ask(lambda: cluster.set_weight(7))]
    look = cluster.ask(lambda: "seen")
    await cluster.transactions.keep()
    for change in changes:
        with pytest.raises(NotSaved, match="nothing was changed"):
            await change
    assert (len(cluster.fleet.intent.desired.instances), cluster.fleet.intent.weights) == (1, {})
    assert cluster.told == []
    cluster.transactions.answer()
    assert await look == "seen", "what changes nothing needs no room"
    cluster.read_only(False)
    cluster.clock.advance(5)
    await cluster.saver.flush()
    assert len((await cluster.store.get("desired"))["instances"]) == 1
    await cluster.transactions.keep()
    done = cluster.ask(lambda: cluster.set_weight(7))
    await cluster.transactions.keep()
    cluster.transactions.answer()
    await done
    assert (await cluster.store.get("desired"))["weights"] == {"instance_0": 7}


async def test_a_worker_without_room_for_its_run_file_is_not_wanted(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, notes: Any = None) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("worker.drivers.run_file.prepare", full)
    change = cluster.ask(lambda: cluster.scale(2))
    await cluster.transactions.keep()
    with pytest.raises(NotSaved, match="No space left"):
        await change
    assert len(cluster.fleet.intent.desired.instances) == 1 and not list(cluster.state.runs.iterdir())


async def test_a_shutdown_meanwhile_is_not_taken_back(cluster: Cluster) -> None:
    cluster.read_only(True)
    change = cluster.ask(lambda: cluster.scale(2))
    cluster.fleet.intent.shut_down()
    await cluster.transactions.keep()
    with pytest.raises(NotSaved):
        await change
    assert cluster.fleet.intent.desired.shutting_down


async def test_a_change_that_fails_half_way_is_taken_back_and_tells_nothing(cluster: Cluster) -> None:
    def change() -> None:
        cluster.scale(5)
        raise ValueError("no")

    done = cluster.ask(change)
    with pytest.raises(ValueError, match="no"):
        await done
    assert cluster.told == [] and len(cluster.fleet.intent.desired.instances) == 1
