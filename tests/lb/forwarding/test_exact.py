"""However a request ends, nothing of it is left: not in the counts, not in open files, not in memory, not at a worker.

`exact` has the balancer, its workers and its clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exact.balancer import Running, running_balancer
from exact.client import Wire, connected
from exact.messages import MAX_BODY, MIB, PATIENCE_S, SETTLED_S, asked, events, request
from exact.mix import Load
from exact.slot import is_answer
from exact.workers import FLOOD_EVENT, Workers, WorkerSide, running_workers
from fakes import soon

pytestmark = pytest.mark.processes

#: Seen between two measurements, 10,000 requests apart: 0.2 to 0.9 MiB more, and no more after some 60,000 requests: so
#: long what little is garbage in cycles (connections given up while they were being opened) waits for the collector. A
#: leak of 210 bytes a request is 2 MiB.
NOISE = 2 * MIB


@pytest.mark.parametrize("count", [3_000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_after_thousands_of_mixed_requests_and_as_many_again_nothing_is_left(tmp_path: Path, count: int) -> None:
    limits = {"max_body": MAX_BODY, "queue_timeout": 0.3, "head_timeout": 0.5, "body_timeout": 0.5}
    async with contextlib.AsyncExitStack() as stack:
        workers = await stack.enter_async_context(running_workers(3))
        dead = stack.enter_context(socket.socket())
        dead.bind(("127.0.0.1", 0))  # and does not listen
        workers.dead_port = dead.getsockname()[1]
        balancer = await stack.enter_async_context(running_balancer(tmp_path, workers, **limits))
        files = balancer.open_files()
        load = Load(balancer.port, workers, seed=20240917)
        sizes = []
        for number in (3_000, count, count):
            began = time.monotonic()
            await load.send(number)
            print(f"{number} in {time.monotonic() - began:.1f} s")
            await balancer.nothing_is_in_flight(workers)
            await soon(lambda: balancer.open_files() == files, "the closing of what was opened")
            sizes.append(balancer.memory())
            print(f"{files} open files, {sizes[-1] / MIB:.2f} MiB")
            await soon(lambda: not workers.sides, "the workers hear of the end of each connection")
        assert sizes[2] - sizes[1] < NOISE, sizes


# a client that leaves takes its request with it


@asynccontextmanager
async def one_worker(folder: Path, receive_buffer: int | None = None) -> AsyncIterator[tuple[Running, Workers]]:
    async with running_workers(1, receive_buffer) as workers, running_balancer(folder, workers) as balancer:
        yield balancer, workers


async def _ask_for(kind: str, balancer: Running, workers: Workers) -> Wire:
    wire, arrival = await connected(balancer.port), workers.arrival(1)
    wire.write(request(asked(kind, 1)))
    await asyncio.wait_for(arrival, PATIENCE_S)
    return wire


async def _in_mid_answer(balancer: Running, workers: Workers) -> Wire:
    wire = await _ask_for("endless", balancer, workers)
    await asyncio.wait_for(wire.some(b'"event": 3'), PATIENCE_S)
    return wire


async def _before_the_answer(balancer: Running, workers: Workers) -> Wire:
    return await _ask_for("nothing", balancer, workers)


async def _while_it_does_not_read(balancer: Running, workers: Workers) -> Wire:
    """The balancer has stopped the worker."""
    wire, arrival = await connected(balancer.port, receive_buffer=8192), workers.arrival(1)
    wire.transport.pause_reading()
    wire.write(request(asked("flood_50", 1)))
    await asyncio.wait_for(arrival, PATIENCE_S)
    await stopped(workers.running[1])
    return wire


async def stopped(side: WorkerSide) -> None:
    """Until nothing has been taken from a worker for a while."""
    seen, since = side.sent, time.monotonic()
    end = since + SETTLED_S
    while time.monotonic() - since < 0.3 or not side.paused:
        await asyncio.sleep(0.01)
        assert time.monotonic() < end, f"the worker is never stopped: {side.sent}"
        if side.sent != seen:
            seen, since = side.sent, time.monotonic()


async def _in_mid_upload(balancer: Running, workers: Workers) -> Wire:
    wire, arrival = await connected(balancer.port), workers.arrival(1)
    wire.write(request(asked("nothing", 1, size=3 * MIB), length=30 * MIB))
    await asyncio.wait_for(arrival, PATIENCE_S)
    await soon(lambda: not wire.transport.get_write_buffer_size(), "the sending of it")
    return wire


async def _with_more_behind(balancer: Running, workers: Workers) -> Wire:
    """So much that the balancer has stopped reading, and cannot hear it going; nor is there anything to be written."""
    wire = await _ask_for("stalling", balancer, workers)
    wire.write(request(asked("small", 2), length=1_000_000) + b"z" * 100_000)
    await soon(lambda: not wire.transport.get_write_buffer_size(), "the sending of it")
    await asyncio.wait_for(wire.some(b'"event": 9'), PATIENCE_S)
    return wire


LEAVING = [_in_mid_answer, _before_the_answer, _while_it_does_not_read, _in_mid_upload, _with_more_behind]


@pytest.mark.measured
@pytest.mark.parametrize("leave", [Wire.leave, Wire.reset], ids=["end", "reset"])
@pytest.mark.parametrize("when", LEAVING, ids=lambda when: when.__name__.strip("_"))
async def test_a_worker_is_told_within_1_s_that_the_client_has_left(
    tmp_path: Path, when: Callable[[Running, Workers], Awaitable[Wire]], leave: Callable[[Wire], None]
) -> None:
    async with one_worker(tmp_path) as (balancer, workers):
        wire = await when(balancer, workers)
        assert workers.open == 1
        leave(wire)
        await soon(lambda: not workers.open, "the end of the worker's request", 1.0)
        await balancer.nothing_is_in_flight(workers)


@pytest.mark.measured
async def test_a_worker_that_does_not_take_an_upload_is_told_within_1_s_that_the_client_has_left(
    tmp_path: Path,
) -> None:
    async with one_worker(tmp_path, receive_buffer=8192) as (balancer, workers):
        wire, arrival = await connected(balancer.port), workers.arrival(1)
        wire.write(request(asked("takes_nothing", 1, size=30 * MIB)))
        await asyncio.wait_for(arrival, PATIENCE_S)
        side = workers.running[1]
        await still(wire.transport.get_write_buffer_size)
        assert wire.transport.get_write_buffer_size() > MIB
        wire.reset()  # an end would wait behind what nobody reads
        end = time.monotonic() + 1.0
        while side.busy:
            assert time.monotonic() < end, "the worker was not told within 1 s"
            with contextlib.suppress(OSError, RuntimeError):
                side.transport.resume_reading()
            await asyncio.sleep(0.005)
        await balancer.nothing_is_in_flight(workers)


async def still(value: Callable[[], int]) -> None:
    """Until ``value`` has not changed for a while."""
    seen, since = value(), time.monotonic()
    end = since + SETTLED_S
    while time.monotonic() - since < 0.3:
        await asyncio.sleep(0.01)
        assert time.monotonic() < end, "it never comes to rest"
        if value() != seen:
            seen, since = value(), time.monotonic()


# a client that does not read


async def test_a_client_that_stops_reading_costs_4_mib_at_most_and_stops_nobody_else(tmp_path: Path) -> None:
    async with one_worker(tmp_path) as (balancer, workers):

        async def go_on(first: int) -> None:
            async def one(n: int) -> None:
                wire = await connected(balancer.port)
                wire.write(request(asked("long_stream", n)))
                is_answer(await wire.answer(), b"".join(events(n, 50)))
                wire.leave()

            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*(one(n) for n in range(first, first + 20)))

        async with asyncio.timeout(PATIENCE_S):
            wire = await connected(balancer.port)
            wire.write(request(asked("flood_1", 2)))
            assert (await wire.answer()).complete
            wire.leave()
        await go_on(100)
        before = balancer.memory()

        wire = await _while_it_does_not_read(balancer, workers)
        side = workers.running[1]
        sent, most = side.sent, balancer.memory()
        others = asyncio.create_task(go_on(200))
        while not others.done():
            most = max(most, balancer.memory())
            await asyncio.sleep(0.01)
        await others
        assert side.busy and side.sent == sent < 50_000_000
        print(f"{(most - before) / MIB:.2f} MiB more, {sent} bytes sent")
        assert most - before < 4 * MIB

        wire.transport.resume_reading()  # nothing of it is lost
        async with asyncio.timeout(PATIENCE_S):
            answer = await wire.answer()
        wire.leave()
        assert answer.complete and answer.body == FLOOD_EVENT * (16 * (50_000_000 // (16 * len(FLOOD_EVENT))))
        await balancer.nothing_is_in_flight(workers)
