"""Finding again what an earlier supervisor started, with real processes and a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.fleet.instance import HeldAdapters, Instance, restore
from cluster.fleet.states import WorkerState
from cluster.storage.store import Store
from cluster.supervisor import adoption
from fakes import Processes, eventually
from worker.drivers import available
from worker.drivers.proc import ProcessId
from worker.drivers.process import Process
from worker.drivers.run_file import read as read_run_file
from worker.spec import Slot, WorkerEndpoint, WorkerSpec

S = WorkerState
NOW = 50_000.0
#: A leader that leaves a child of its session behind when it is killed.
WITH_CHILD = "sleep 600 & echo started; wait"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "state.db")
    await opened.put(**adoption.boots(available()))
    yield opened
    await opened.close()


class Before:
    """The supervisor before: it starts workers and writes them down."""

    def __init__(self, store: Store, processes: Processes) -> None:
        self.store, self.processes = store, processes

    async def worker(self, state: S, script: str = "exec sleep 600", *, written: bool = True) -> Process:
        name = "instance_0"
        handle = self.processes.shell(script, name)
        await asyncio.to_thread(eventually, lambda: read_run_file(self.processes.run_file(name)))
        if script is WITH_CHILD:
            await asyncio.to_thread(eventually, lambda: "started" in self.processes.log(name).read_text())
        await self.store.save_process(name, self.instance(name, state, handle if written else None).record())
        return handle

    def instance(self, name: str, state: S, handle: Process | None) -> Instance:
        spec = WorkerSpec(
            name, 7, ("sleep", "600"), {"SECRET": "x"}, self.processes.folder, self.processes.log(name),
            self.processes.run_file(name), WorkerEndpoint(20_001), "key",
        )
        return Instance(
            name, Slot((1,), ((0,), (2, 3)), 2), state, generation=3, incarnation=7, starts=4, handle=handle, spec=spec,
            started_at=11.0, models=({"id": "demo"},), adapters=HeldAdapters({"poet": "/content"}),
            last_exit={"code": 1},
        )

    async def adopt(self) -> list[Instance]:
        return await adoption.adopt_instances(self.store, available(), NOW)


@pytest.fixture
def before(store: Store, processes: Processes) -> Before:
    return Before(store, processes)


def _end(handle: Process) -> None:
    """Kills the main process alone, and reaps it as whoever inherits it does."""
    assert handle.popen is not None
    handle.popen.kill()
    handle.popen.wait()


def test_what_was_written_down_comes_back(processes: Processes, before: Before) -> None:
    told = before.instance("instance_0", S.READY, None)
    back = restore("instance_0", told.record(), NOW)
    assert back.record() == told.record()
    assert (back.slot, back.since, back.number) == (told.slot, NOW, 0)
    assert back.spec is not None and back.spec.env == {}  # secrets of the environment are not written down


@pytest.mark.parametrize("state", [S.STARTING, S.READY, S.UNHEALTHY, S.DRAINING, S.STOPPING])
@pytest.mark.parametrize("written", [True, False])
async def test_a_living_worker_is_adopted_in_the_state_it_had(before: Before, state: S, written: bool) -> None:
    """Also one that was started but not yet written down: it has left its own run file."""
    handle = await before.worker(state, written=written)
    (instance,) = await before.adopt()
    assert (instance.state, instance.incarnation, instance.tree_empty) == (state, 7, False)
    assert instance.handle is not None and instance.handle.process == handle.process


async def test_a_worker_that_was_serving_has_a_clean_record(before: Before) -> None:
    await before.worker(S.READY)
    (instance,) = await before.adopt()
    assert instance.ready_at is not None and NOW - instance.ready_at > 60.0


@pytest.mark.parametrize("state", [S.READY, S.STARTING, S.STOPPING])
async def test_the_end_of_a_worker_that_died_meanwhile_is_reported_at_once(before: Before, state: S) -> None:
    handle = await before.worker(state, WITH_CHILD)
    _end(handle)
    (instance,) = await before.adopt()
    assert (instance.state, instance.tree_empty) == (state, False)
    assert instance.handle is not None
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    instance.handle.watch(ended.set_result)
    assert await asyncio.wait_for(ended, 5) is None
    assert len(instance.handle.survivors()) == 1


@pytest.mark.parametrize("state", [S.BACKOFF, S.FAILED])
async def test_what_a_dead_worker_left_behind_is_not_forgotten(before: Before, state: S) -> None:
    """The supervisor before was killed between the worker's end and the sweep of its session."""
    handle = await before.worker(state, WITH_CHILD, written=False)
    _end(handle)
    assert len(handle.survivors()) == 1
    (instance,) = await before.adopt()
    assert instance.tree_empty is False


@pytest.mark.parametrize("state", [S.BACKOFF, S.FAILED, S.STOPPED])
async def test_a_worker_that_was_not_running_keeps_its_state(before: Before, store: Store, state: S) -> None:
    await store.save_process("instance_0", before.instance("instance_0", state, None).record())
    (instance,) = await before.adopt()
    assert (instance.state, instance.handle, instance.tree_empty) == (state, None, True)


async def test_a_start_that_never_happened_is_begun_anew(before: Before, store: Store) -> None:
    await store.save_process("instance_0", before.instance("instance_0", S.STARTING, None).record())
    (instance,) = await before.adopt()
    assert (instance.state, instance.spec, instance.handle) == (S.STOPPED, None, None)


async def test_workers_come_back_in_order_and_the_balancer_is_none(before: Before, store: Store) -> None:
    for number in (10, 2, 0):
        name = f"instance_{number}"
        await store.save_process(name, before.instance(name, S.BACKOFF, None).record())
    await store.save_process("balancer", {"process": None, "link": "x", "run_file": "x"})
    assert [i.number for i in await before.adopt()] == [0, 2, 10]


async def test_a_living_worker_is_alive(before: Before, store: Store) -> None:
    handle = await before.worker(S.READY)
    assert await adoption.anything_alive(store, available())
    _end(handle)
    assert not await adoption.anything_alive(store, available())


async def test_an_orphan_of_a_dead_worker_is_alive(before: Before, store: Store) -> None:
    _end(await before.worker(S.READY, WITH_CHILD))
    assert await adoption.anything_alive(store, available())


async def test_a_worker_that_was_not_yet_written_down_is_alive(before: Before, store: Store) -> None:
    await before.worker(S.STARTING, written=False)
    assert await adoption.anything_alive(store, available())


@pytest.mark.parametrize("written", [True, False])
async def test_a_balancer_alone_is_alive(store: Store, processes: Processes, written: bool) -> None:
    handle = processes.start("sleep", "600")
    await asyncio.to_thread(eventually, lambda: read_run_file(processes.run_file()))
    process: dict[str, Any] = {"pid": handle.pid, "start_ticks": handle.process.start_ticks}
    record = {"process": process if written else None, "link": "x", "run_file": str(processes.run_file())}
    await store.save_process("balancer", record)
    assert await adoption.anything_alive(store, available())


async def test_another_process_with_a_reused_pid_is_not_ours(before: Before, store: Store) -> None:
    handle = await before.worker(S.READY)
    earlier = replace(handle.process, start_ticks=handle.process.start_ticks - 1)
    record = before.instance("instance_0", S.READY, Process(earlier)).record()
    await store.save_process("instance_0", record)
    assert not await adoption.anything_alive(store, available())
    (instance,) = await before.adopt()
    assert instance.handle is not None and instance.handle.survivors() == []


async def test_after_a_reboot_no_pid_means_anything(before: Before, store: Store) -> None:
    await before.worker(S.READY)
    await store.put(boot_id="another")
    assert not await adoption.same_boot(store, available())
    assert not await adoption.anything_alive(store, available())


async def test_in_a_fresh_state_directory_nothing_is_alive(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "fresh.db")
    assert not await adoption.anything_alive(store, available())
    await store.close()


def test_a_process_id_is_a_pid_with_its_start() -> None:
    assert ProcessId(1, 2) != ProcessId(1, 3)
