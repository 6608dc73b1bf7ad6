"""A loop in a thread of its own: what its callers get, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import CancelledError

import pytest

from worker.loop_thread import LoopThread


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    made = LoopThread("under test")
    yield made
    made.close()
    assert "under test" not in [one.name for one in threading.enumerate()] and made.loop.is_closed()


async def _gives(value: str) -> str:
    await asyncio.sleep(0)
    return value


async def _until_cancelled(seen: threading.Event) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        seen.set()


def test_the_result_of_a_call(thread: LoopThread) -> None:
    assert thread.call(_gives("one")) == "one"
    assert asyncio.run(thread.awaited(_gives("two"))) == "two"


def test_no_answer_in_time_is_an_os_error_and_cancels_the_call(thread: LoopThread) -> None:
    seen = threading.Event()
    with pytest.raises(OSError, match=r"no answer within 0\.01 s"):
        thread.call(_until_cancelled(seen), 0.01)
    assert seen.wait(10.0)


def test_a_time_out_of_its_own_is_told_as_it_is(thread: LoopThread) -> None:
    async def fails() -> None:
        raise TimeoutError("the node")

    with pytest.raises(TimeoutError, match="the node"):
        thread.call(fails(), 10.0)


def test_what_was_started_can_be_cancelled(thread: LoopThread) -> None:
    seen = threading.Event()
    begun = thread.start(_until_cancelled(seen))
    thread.call(_gives(""))
    thread.cancel()
    assert seen.wait(10.0) and begun.cancelled()


def test_a_task_that_nobody_waits_for_is_logged_when_it_fails(
    thread: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails() -> None:
        raise ValueError("no")

    with caplog.at_level(logging.ERROR):
        thread.begin(fails, "lease")
        thread.call(asyncio.sleep(0.01))
    assert "task lease failed" in caplog.text


def test_the_end_cancels_all_that_runs() -> None:
    seen = [threading.Event(), threading.Event()]
    thread = LoopThread("ends")
    thread.begin(lambda: _until_cancelled(seen[0]), "task")
    begun = thread.start(_until_cancelled(seen[1]))
    thread.call(_gives(""))
    thread.close()
    thread.close()
    assert all(one.is_set() for one in seen)
    with pytest.raises(CancelledError):
        begun.result(10.0)
    with pytest.raises(RuntimeError, match="closed"):
        thread.call(_gives("late"))


def test_an_iteration_that_ends_early_is_closed_there(thread: LoopThread) -> None:
    closed = threading.Event()

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                yield number
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def reads() -> list[int]:
        seen = []
        made = thread.iterate(numbers)
        async for number in made:
            seen.append(number)
            if len(seen) == 3:
                break
        await made.aclose()
        return seen

    assert asyncio.run(reads()) == [0, 1, 2]
    assert closed.wait(10.0)
