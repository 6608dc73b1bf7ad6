"""Background tasks end when they are told to, and their failures are seen."""

from __future__ import annotations

import asyncio
import logging

import pytest

from config.aio import Tasks


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
