"""A change is stored before anything follows from it, or was never made."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.deployment import plan
from cluster.deployment.revisions import Revisions
from cluster.events import EventLog
from cluster.fleet.fleet import Fleet
from cluster.fleet.restart import RestartPolicy
from cluster.fleet.states import DesiredState
from cluster.storage.store import NotSaved, Store
from cluster.storage.write_behind import WriteBehind
from cluster.supervisor.transactions import Transactions
from config.paths import StateDir
from config.settings import load
from fakes import Clock, rng
from worker.drivers.local import LocalDriver


class Supervisor:
    """As much of it as is wanted here."""

    def __init__(self, state: StateDir, store: Store) -> None:
        clock = Clock()
        self.state, self.store, self.clock = state, store, clock
        self.events = EventLog(clock)
        self.fleet = Fleet(DesiredState(), RestartPolicy(), rng().random, self.events.emit)
        self.strategy, self.driver = "random", LocalDriver()
        self.revisions = Revisions(plan.make(load({"engine": "sim"})))
        self.write_behind = WriteBehind(store, self.events.emit, clock, lambda path: 1 << 30)
        self.transactions = Transactions(self)  # type: ignore[arg-type]
        self.fleet.scale(1)
        self.transactions.known()

    def ask(self, change: Callable[[], Any]) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.transactions.carry_out(change, done)
        return done

    def scale(self, count: int) -> int:
        self.fleet.scale(count)
        self.events.emit("cluster", f"scale to {count}")
        return count

    def hold(self) -> None:
        """What goes by settings."""

    def set_weight(self, weight: int) -> None:
        self.fleet.weights["instance_0"] = weight
        self.events.emit("instance_0", f"weight {weight}")

    def read_only(self, yes: bool) -> None:
        self.store._connection.execute(f"PRAGMA query_only = {int(yes)}")

    @property
    def told(self) -> list[str]:
        return [event.text for event in self.events.events if event.subject != "state"]


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    state = StateDir(tmp_path)
    state.create()
    store = await Store.open(state.database)
    yield Supervisor(state, store)
    await store.close()


async def test_a_change_is_stored_then_told_then_answered(supervisor: Supervisor) -> None:
    done = supervisor.ask(lambda: supervisor.scale(3))
    assert supervisor.told == [] and not done.done()
    await supervisor.transactions.keep()
    assert len((await supervisor.store.get("desired"))["instances"]) == 3
    assert supervisor.told == ["scale to 3"] and not done.done()
    assert sorted(path.name for path in supervisor.state.runs.iterdir()) == [f"instance_{n}" for n in range(3)]
    supervisor.transactions.answer()
    assert await done == 3


async def test_what_cannot_be_stored_was_never_wanted(supervisor: Supervisor) -> None:
    supervisor.read_only(True)
    changes = [supervisor.ask(lambda: supervisor.scale(3)), supervisor.ask(lambda: supervisor.set_weight(7))]
    look = supervisor.ask(lambda: "seen")
    await supervisor.transactions.keep()
    for change in changes:
        with pytest.raises(NotSaved, match="nothing was changed"):
            await change
    assert (len(supervisor.fleet.desired.instances), supervisor.fleet.weights) == (1, {})
    assert supervisor.told == []
    supervisor.transactions.answer()
    assert await look == "seen", "what changes nothing needs no room"
    supervisor.read_only(False)
    supervisor.clock.advance(5)
    await supervisor.write_behind.flush()
    assert len((await supervisor.store.get("desired"))["instances"]) == 1
    await supervisor.transactions.keep()
    done = supervisor.ask(lambda: supervisor.set_weight(7))
    await supervisor.transactions.keep()
    supervisor.transactions.answer()
    await done
    assert (await supervisor.store.get("desired"))["weights"] == {"instance_0": 7}


async def test_a_worker_without_room_for_its_run_file_is_not_wanted(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, notes: Any = None) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("worker.drivers.run_file.prepare", full)
    change = supervisor.ask(lambda: supervisor.scale(2))
    await supervisor.transactions.keep()
    with pytest.raises(NotSaved, match="No space left"):
        await change
    assert len(supervisor.fleet.desired.instances) == 1 and not list(supervisor.state.runs.iterdir())


async def test_a_shutdown_meanwhile_is_not_taken_back(supervisor: Supervisor) -> None:
    supervisor.read_only(True)
    change = supervisor.ask(lambda: supervisor.scale(2))
    supervisor.fleet.shut_down()
    await supervisor.transactions.keep()
    with pytest.raises(NotSaved):
        await change
    assert supervisor.fleet.desired.shutting_down


async def test_a_change_that_fails_half_way_is_taken_back_and_tells_nothing(supervisor: Supervisor) -> None:
    def change() -> None:
        supervisor.scale(5)
        raise ValueError("no")

    done = supervisor.ask(change)
    with pytest.raises(ValueError, match="no"):
        await done
    assert supervisor.told == [] and len(supervisor.fleet.desired.instances) == 1
