"""Whatever becomes of a request, it is in flight exactly once: a whole balancer between real sockets."""

from __future__ import annotations

import asyncio

import pytest

from fakes import soon
from heldanswers import PLAIN_HEAD, SSE_HEAD, StartRaw, StartWorker, chunk, post
from lbfakes import Balanced, RawHandler, raw_answer, read_message


async def half_an_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(SSE_HEAD + chunk(b"data: one\n\n") + b"ff\r\nhal")


async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x01\x02 nonsense\r\n\r\n")


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


WAYS_OUT: dict[str, RawHandler] = {
    "an answer": raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    "an error": raw_answer(b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}"),
    "a stream": raw_answer(SSE_HEAD, chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"),
    "no answer": raw_answer(),
    "half a head": raw_answer(b"HTTP/1.1 200 OK\r\nConte"),
    "a head alone": raw_answer(PLAIN_HEAD),
    "a stream's head alone": raw_answer(SSE_HEAD),
    "half a body": raw_answer(PLAIN_HEAD, b"{"),
    "half a stream": half_an_answer,
    "nonsense": nonsense,
    "a reset": reset,
}


@pytest.mark.parametrize("way", WAYS_OUT)
async def test_in_flight_is_0_and_the_request_counted_after(balancer: Balanced, start_raw: StartRaw, way: str) -> None:
    seen: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(balancer.in_flight)
        await WAYS_OUT[way](reader, writer)

    worker = await start_raw(answer)
    balancer.push(worker.spec())
    async with balancer.connection() as (reader, writer):
        writer.write(post(path="/ping").replace(b"Host: x", b"Host: x\r\nConnection: close"))
        try:
            await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:
            pass
    assert seen == [1]
    await soon(lambda: balancer.in_flight == 0)
    assert balancer.counts()[0] == 1


async def test_one_connection_carries_many_requests(balancer: Balanced, start_worker: StartWorker) -> None:
    balancer.push((await start_worker()).spec())
    async with balancer.connection() as (reader, writer):
        for _ in range(3):
            writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await asyncio.wait_for(read_message(reader), 5)).startswith(b"HTTP/1.1 200")


async def test_a_half_sent_request_reaches_no_worker(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    async with balancer.connection() as (_, writer):
        writer.write(post()[:-3])
        await writer.drain()
    assert (await balancer.answer())[0] == 200
    assert [seen.target for seen in worker.seen] == ["/version"]
