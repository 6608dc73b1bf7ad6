"""The client that keeps every byte, against a server that sends whatever it is told."""

from __future__ import annotations

import asyncio

import pytest

from chaos.wire import Answer, Client, request

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


async def asked(*pieces: bytes, stay: bool = False, quiet: float = 5.0) -> Answer:
    """The answer to one request where the server sends ``pieces`` and closes, unless it is to ``stay``."""
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if stay:
            await done.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Client(server.sockets[0].getsockname()[1], quiet)
    try:
        return await client.ask(request("GET", "/"))
    finally:
        client.close()
        done.set()
        server.close()
        await server.wait_closed()


async def test_whole_answers_come_whole_however_they_are_cut() -> None:
    data = CHUNKED + b"5\r\nhello\r\n7\r\n0\r\n\r\n__\r\n0\r\n\r\n"
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))], [data[:60], data[60:]]):
        answer = await asked(*pieces, stay=True)
        assert (answer.problem, answer.status, answer.body) == ("", 200, b"hello0\r\n\r\n__")
    answer = await asked(HEAD + b"Content-Length: 5\r\n\r\nhe", b"llo", stay=True)
    assert (answer.problem, answer.body) == ("", b"hello") and answer.last <= answer.ended


@pytest.mark.parametrize(
    ("sent", "body", "why"),
    [
        (b"", b"", "closed before the end"),
        (CHUNKED + b"5\r\nhello\r\n", b"hello", "closed before the end"),
        (CHUNKED + b"5\r\nhello\r\n5\r\nhe", b"hellohe", "closed before the end"),
        (HEAD + b"Content-Length: 9\r\n\r\nhello", b"hello", "closed before the end"),
        (CHUNKED + b"5\r\nhello\r\nzz\r\n0\r\n\r\n", b"", "no size of a chunk"),
        (CHUNKED + b"4\r\nhello\r\n0\r\n\r\n", b"", "does not end where its size says"),
        (CHUNKED + b"0\r\n\r\n0\r\n\r\n", b"", "after the last chunk"),
        (HEAD + b"Content-Length: 1\r\n\r\nhello", b"hello", "after the end"),
        (HEAD + b"\r\nhello", b"hello", "without a length"),
        (b"\x00\xfe garbage\r\n\r\n", b"", "no status line"),
    ],
)
async def test_what_is_broken_says_so_and_shows_what_came(sent: bytes, body: bytes, why: str) -> None:
    answer = await asked(sent)
    assert why in answer.problem and answer.body == body


async def test_silence_and_nobody_there() -> None:
    answer = await asked(CHUNKED + b"5\r\nhello\r\n", stay=True, quiet=0.1)
    assert "nothing came for 0.1 s" in answer.problem and answer.body == b"hello"
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    assert "no connection" in (await Client(port).ask(request("GET", "/"))).problem
