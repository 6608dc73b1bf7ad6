"""Background tasks end when they are told to, and their failures are seen."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from config.aio import Tasks, patience


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


@RUNS
def test_what_came_while_nobody_looked_came_in_time(run: Callable[[Any], Any]) -> None:
    """An answer that takes several turns of the loop, which stands still for longer than all of the time there is."""
    async def answers(turns: int, stall: int) -> str:
        for turn in range(turns):
            if turn == stall:
                time.sleep(0.25)  # noqa: ASYNC251
            await asyncio.sleep(0.005)
        return "it"

    async def within(seconds: float | None, stall: int) -> str:
        async with patience(seconds):
            return await answers(4, stall)

    for seconds in (0.1, None):
        for stall in range(4):
            assert run(within(seconds, stall)) == "it"


@RUNS
def test_patience_is_not_given_twice_for_one_time_that_was_lost(run: Callable[[Any], Any]) -> None:
    async def waits() -> float:
        with pytest.raises(TimeoutError):
            async with patience(0.1):
                time.sleep(0.4)  # noqa: ASYNC251
                began = time.monotonic()
                await asyncio.Event().wait()
        return time.monotonic() - began

    assert 0.09 <= run(waits()) < 5


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
