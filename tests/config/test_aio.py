"""Background tasks end when they are told to, and their failures are seen."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

import movedloop
from config.aio import Tasks, patience


@movedloop.moved
async def test_one_that_misses_its_first_cancellation_is_ended_all_the_same() -> None:
    missed = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            missed.set()
        await asyncio.Event().wait()

    tasks = Tasks()
    task = tasks.start(stubborn(), "stubborn")
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await tasks.close()
    assert missed.is_set()
    assert task.cancelled()


async def test_a_failure_is_logged_with_the_tasks_name(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        raise ValueError("what went wrong")

    tasks = Tasks()
    with caplog.at_level(logging.ERROR):
        await asyncio.wait([tasks.start(failing(), "a name")])
        await asyncio.sleep(0)
    assert "a name" in caplog.text
    assert "what went wrong" in caplog.text
    await tasks.close()


RUNS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@RUNS
@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_patience_ends_as_a_timeout_does(run: Callable[[Any], Any], seconds: float) -> None:
    async def waits() -> float:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with patience(seconds):
                await asyncio.Event().wait()
        return time.monotonic() - began

    assert seconds <= run(waits()) < 5


STALLS = pytest.mark.parametrize("run", [movedloop.run, uvloop.run], ids=["asyncio", "uvloop"])


@STALLS
def test_what_came_while_nobody_looked_came_in_time(run: Callable[[Any], Any]) -> None:
    """An answer that takes several turns of the loop, which stands still for longer than all of the time there is."""
    async def answers(turns: int, stall: int) -> str:
        for turn in range(turns):
            if turn == stall:
                movedloop.stand_still(0.16)
            await asyncio.sleep(0.001)
        return "it"

    async def within(seconds: float | None, stall: int) -> str:
        async with patience(seconds):
            return await answers(4, stall)

    for stall in range(4):
        assert run(within(0.06, stall)) == "it"
    assert run(within(None, 0)) == "it"


@STALLS
def test_patience_is_not_given_twice_for_one_time_that_was_lost(run: Callable[[Any], Any]) -> None:
    async def waits() -> float:
        with pytest.raises(TimeoutError):
            async with patience(0.06):
                movedloop.stand_still(0.2)
                await asyncio.sleep(0)
                began = asyncio.get_running_loop().time()
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time() - began

    assert 0.05 <= run(waits()) < (0.07 if run is movedloop.run else 5)


async def test_patience_leaves_errors_and_cancellations_alone() -> None:
    with pytest.raises(ZeroDivisionError):
        async with patience(5.0):
            _ = 1 / 0

    async def waits() -> None:
        async with patience(5.0):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
