"""What is reported late must not be taken for news of the next incarnation; a worker that is to end is asked to only
after the balancer has taken away what still runs there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.fleet.fleet import Fleet
from cluster.fleet.instance import Instance
from cluster.fleet.restart import Backoff, RestartPolicy
from cluster.fleet.states import DesiredState, WorkerState
from cluster.supervisor.workers import WorkerMonitors
from fakedriver import FakeHandle
from fakes import Clock, rng, soon
from worker.spec import Slot


async def test_a_sweep_says_nothing_of_a_worker_that_was_started_since() -> None:
    fleet = Fleet(DesiredState(), RestartPolicy(Backoff()), rng().random, lambda name, text: None)
    events: list[Callable[[], None]] = []
    watchers = WorkerMonitors(SimpleNamespace(fleet=fleet, post=events.append, now=lambda: 0.0))  # type: ignore[arg-type]
    old, new = FakeHandle(100), FakeHandle(200)
    old.alive = False
    instance = Instance("instance_0", Slot(), state=WorkerState.BACKOFF, tree_empty=False, swept=old, last_exit={})

    watchers.sweep(instance)
    await soon(lambda: events)
    watchers.sweep(instance)  # asked for again before the end of the first is known: nothing is begun
    assert watchers._sweeping == {"instance_0"}
    instance.handle = new
    events.pop()()
    assert (instance.tree_empty, watchers._sweeping) == (False, set())

    instance.handle = None
    watchers.sweep(instance)
    await soon(lambda: events)
    events.pop()()
    assert instance.tree_empty
    await watchers.close()


@pytest.fixture
def supervisor() -> Any:
    clock = Clock()
    return SimpleNamespace(
        clock=clock, now=clock, confirmed=(1, 4), balancer=SimpleNamespace(connected=True),
    )  # fmt: skip


async def _ending(supervisor: Any) -> tuple[FakeHandle, asyncio.Task[None]]:
    handle = FakeHandle()
    task = asyncio.create_task(WorkerMonitors(supervisor).end_after_word(handle, (1, 5)), name="end")
    await asyncio.sleep(0)
    return handle, task


async def test_a_worker_is_asked_to_end_when_the_balancer_has_confirmed(supervisor: Any) -> None:
    handle, task = await _ending(supervisor)
    await asyncio.sleep(0.02)
    assert handle.stops == 0
    supervisor.confirmed = (1, 5)
    await soon(task.done)
    assert handle.stops == 1


async def test_a_balancer_that_says_nothing_is_not_waited_for_longer_than_a_second(supervisor: Any) -> None:
    handle, task = await _ending(supervisor)
    supervisor.clock.advance(0.9)
    await asyncio.sleep(0.02)
    assert handle.stops == 0
    supervisor.clock.advance(0.2)
    await soon(task.done)
    assert handle.stops == 1


async def test_without_a_balancer_nothing_is_waited_for(supervisor: Any) -> None:
    supervisor.balancer.connected = False
    handle, task = await _ending(supervisor)
    await soon(task.done)
    assert handle.stops == 1
