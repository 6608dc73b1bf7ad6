"""The order in which a worker is asked to end: the balancer first, which takes away what still runs there."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.watchers import Watchers
from fakes import Clock, FakeHandle, soon
from worker.spec import ProcessId


@pytest.fixture
def supervisor() -> Any:
    clock = Clock()
    return SimpleNamespace(
        clock=clock, now=clock, confirmed=(1, 4), balancer=SimpleNamespace(connected=True),
    )  # fmt: skip


async def _ending(supervisor: Any) -> tuple[FakeHandle, asyncio.Task[None]]:
    handle = FakeHandle(ProcessId(1, 1))
    task = asyncio.create_task(Watchers(supervisor).end_after_word(handle, (1, 5)), name="end")
    await asyncio.sleep(0)
    return handle, task


async def test_a_worker_is_asked_to_end_when_the_balancer_has_confirmed(supervisor: Any) -> None:
    handle, task = await _ending(supervisor)
    await asyncio.sleep(0.02)
    assert handle.signals == []
    supervisor.confirmed = (1, 5)
    await soon(task.done)
    assert handle.signals == [signal.SIGTERM]


async def test_a_balancer_that_says_nothing_is_not_waited_for_longer_than_a_second(supervisor: Any) -> None:
    handle, task = await _ending(supervisor)
    supervisor.clock.advance(0.9)
    await asyncio.sleep(0.02)
    assert handle.signals == []
    supervisor.clock.advance(0.2)
    await soon(task.done)
    assert handle.signals == [signal.SIGTERM]


async def test_without_a_balancer_nothing_is_waited_for(supervisor: Any) -> None:
    supervisor.balancer.connected = False
    handle, task = await _ending(supervisor)
    await soon(task.done)
    assert handle.signals == [signal.SIGTERM]
