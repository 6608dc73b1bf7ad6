"""What is reported late must not be taken for news of the next incarnation; a worker that is to end is asked to only
after the balancer has taken away what still runs there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState
from clusterfakes import Unrun
from fakedriver import FakeHandle
from fakes import soon
from worker.spec import Slot


@pytest.fixture
def cluster(tmp_path: Path) -> Unrun:
    return Unrun(tmp_path)


async def test_a_sweep_says_nothing_of_a_worker_that_was_started_since(cluster: Unrun) -> None:
    monitors, inbox = cluster.monitors, cluster.inbox
    old, new = FakeHandle(100), FakeHandle(200)
    old.alive = False
    instance = Instance("instance_0", Slot(), state=WorkerState.BACKOFF, tree_empty=False, swept=old, last_exit={})

    monitors.sweep(instance)
    await asyncio.sleep(0.1)
    monitors.sweep(instance)  # asked for again before the end of the first is known: nothing is begun
    assert monitors._sweeping == {"instance_0"}
    instance.handle = new
    await inbox.run(5)
    assert (instance.tree_empty, monitors._sweeping) == (False, set())

    instance.handle = None
    monitors.sweep(instance)
    await inbox.run(5)
    assert instance.tree_empty
    await monitors.close()


async def _ending(cluster: Unrun) -> tuple[FakeHandle, asyncio.Task[None]]:
    handle = FakeHandle()
    cluster.publisher.confirm((1, 4))
    task = asyncio.create_task(cluster.executor.end_after_confirmation(handle, (1, 5)), name="end")
    await asyncio.sleep(0)
    return handle, task


async def test_a_worker_is_asked_to_end_when_the_balancer_has_confirmed(cluster: Unrun) -> None:
    handle, task = await _ending(cluster)
    await asyncio.sleep(0.02)
    assert handle.stops == 0
    cluster.publisher.confirm((1, 5))
    await soon(task.done)
    assert handle.stops == 1


async def test_a_balancer_that_says_nothing_is_not_waited_for_longer_than_a_second(cluster: Unrun) -> None:
    handle, task = await _ending(cluster)
    cluster.time.advance(0.9)
    await asyncio.sleep(0.02)
    assert handle.stops == 0
    cluster.time.advance(0.2)
    await soon(task.done)
    assert handle.stops == 1


async def test_without_a_balancer_nothing_is_waited_for(cluster: Unrun) -> None:
    cluster.replaceable.connected = False
    handle, task = await _ending(cluster)
    await soon(task.done)
    assert handle.stops == 1
