"""What does not come in time is given up, and nothing of it reaches a worker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from httpforms import EOL, PLAIN, chunks, get, post
from lbfakes import DEADLINE_S, Balanced, listening, spec
from strictreader import Pair, answers_in

StartPair = Callable[..., Awaitable[Pair]]


async def given_up(pair: Pair, requests: dict[str, bytes]) -> None:
    """Each of them, all at once, as there is nothing to see of one but the time that it takes."""
    for name, (answer, *more) in zip(requests, await asyncio.gather(*map(pair.ask, requests.values())), strict=True):
        assert (answer.status, answer.closes, more) == (408, True, []), name
    await pair.saw_nothing()


async def test_a_head_that_does_not_come_is_given_up(start_pair: StartPair) -> None:
    requests = {"without its end": get()[:-2], "half a request line": b"GET /version\r\n"}
    await given_up(await start_pair(head_timeout=0.2), requests)


async def test_a_second_head_that_does_not_come_is_given_up(start_pair: StartPair) -> None:
    pair = await start_pair(head_timeout=0.2)
    first, second = await pair.ask(PLAIN + get()[:-2])
    assert (first.status, second.status, second.closes) == (200, 408, True)
    assert pair.worker.targets == [b"/version?plain"]


async def drip(balancer: Balanced, beginning: bytes, piece: bytes, seconds: float) -> bytes | None:
    """What comes back while one ``piece`` after the other is sent; None if the connection is open all the time."""
    got = b""
    async with balancer.connection() as (reader, writer):
        writer.write(beginning)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                data = await asyncio.wait_for(reader.read(65536), 0.03)
            except TimeoutError:
                writer.write(piece)
                continue
            except ConnectionError:
                return got
            if not data:
                return got
            got += data
    return None


async def test_a_head_that_trickles_in_is_given_up(start_pair: StartPair) -> None:
    pair, begun = await start_pair(head_timeout=0.2), b"GET /version HTTP/1.1\r\nHost: x\r\n"
    for got in await asyncio.gather(*(drip(pair.balancer, begun, piece, 3) for piece in (b"a", b"A: b\r\n"))):
        assert got is not None, "it is still waiting"
        (answer,) = answers_in(got)
        assert answer.status == 408
    await pair.saw_nothing()


async def test_empty_lines_keep_no_connection_open(start_pair: StartPair) -> None:
    """One is passed over; a second is no request, and time does not begin anew with each."""
    pair = await start_pair(head_timeout=0.2)
    assert await drip(pair.balancer, b"", EOL, 3) is not None, "it is still waiting"
    await pair.saw_nothing()


STALLED = {
    "nothing of a length": post(b"Content-Length: 5", body=b""),
    "half of a length": post(b"Content-Length: 5", body=b"he"),
    "nothing of the chunks": chunks(b""),
    "half a chunk size": chunks(b"5"),
    "half a chunk": chunks(b"5\r\nhe"),
    "a chunk without its end": chunks(b"5\r\nhello"),
    "no last chunk": chunks(b"5\r\nhello\r\n"),
    "half the last chunk": chunks(b"5\r\nhello\r\n0\r\n"),
    "half a trailer": chunks(b"5\r\nhello\r\n0\r\nA: b"),
    "half of a GET's": get(b"Content-Length: 5") + b"he",
}


async def test_a_body_that_stalls_is_given_up(start_pair: StartPair) -> None:
    await given_up(await start_pair(body_timeout=0.2), STALLED)


async def test_a_client_that_is_told_to_continue_and_does_not_is_given_up(start_pair: StartPair) -> None:
    pair = await start_pair(body_timeout=0.2)
    first, second = await pair.ask(post(b"Expect: 100-continue", b"Content-Length: 5", body=b""))
    assert (first.status, second.status, second.closes) == (100, 408, True)
    await pair.saw_nothing()


async def test_a_connection_without_a_request_is_closed(start_pair: StartPair) -> None:
    pair = await start_pair(head_timeout=0.2)
    try:
        assert await pair.balancer.raw(b"") == b""
    except ConnectionResetError:
        pass
    await pair.saw_nothing()


async def test_no_second_answer_is_written_into_one_that_has_begun(start_pair: StartPair) -> None:
    """The worker answers before the large upload is complete; then the client stalls."""
    begun = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n"
    pair = await start_pair(body_timeout=0.2)

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begun + b"half")
        while await reader.read(65536):
            pass
        writer.close()

    server = await asyncio.start_server(early, sock=listening())
    try:
        pair.balancer.push(spec(port=server.sockets[0].getsockname()[1]))
        got = b""
        async with pair.balancer.connection() as (reader, writer):
            writer.write(post(b"Content-Length: 3000000", body=b"a" * 2_000_000))
            with contextlib.suppress(ConnectionError):
                while data := await asyncio.wait_for(reader.read(65536), DEADLINE_S):
                    got += data
    finally:
        server.close()
    assert got.startswith(b"HTTP/1.1 200")
    assert got.count(b"HTTP/1.1") == 1, got
