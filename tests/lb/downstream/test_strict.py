"""What is not plainly HTTP/1.1 is refused, its connection ends, and no byte of it reaches a worker.

Written from RFC 9110, 9112 and 3986, from what is known of request smuggling, and from `docs/decisions/0011`; not from
the code. The forms are in the files beside this one, by what is wrong with them: each stands alone, with a smuggled
request behind it, and byte by byte.
"""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from fakes import soon
from httpforms import END, EOL, HELLO, IN_CHUNKS, SMUGGLED, chunks, get, head, post, show, target
from strictreader import Pair, read_answer, requests_in


@pytest.mark.parametrize(
    "request_",
    [
        get(), post(b"Content-Length: 5"), chunks(HELLO), target(b"/version?a=b"), target(b"http://x/version"),
        target(b"HTTP://X:80/version"), EOL + get(), head(b"GET /version HTTP/1.0", host=b""),
        post(b"Transfer-Encoding:\tchunked", body=HELLO), post(b"Transfer-Encoding:CHUNKED  ", body=HELLO),
        post(b"Content-Length:5 \t"), post(b"Content-Length: 005"), get(b"A:"), get(b"A: \xe9"),
        get(b"!#$%&'*+-.^_`|~: b"),
        head(b"GET /version HTTP/1.1", host=b"Host: [::1]:80"), chunks(b"00005\r\nhello\r\n000\r\n\r\n"),
        chunks(b"5\r\nhello\r\n0\r\nContent-Length: 50\r\nHost: y\r\n\r\n"),
        post(b"Connection: Host, Content-Length", b"Content-Length: 5"),
        head(b"GET /version HTTP/1.1", *(b"A: b",) * 127), get(b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED,
        head(b"POST /v1/completions HTTP/1.1"), get(b"Transfer-Encoding: chunked") + IN_CHUNKS,
    ],
    ids=lambda data: show(data)[:60],
)  # fmt: skip
async def test_what_is_in_order_arrives_once_and_well_formed(pair: Pair, request_: bytes) -> None:
    """Otherwise the tests below would prove nothing. A body that looks like a request stays a body (CL.0)."""
    async with pair.balancer.connection() as (_, writer):
        writer.write(request_)
        await soon(lambda: any(requests_in(bytes(each))[0] for each in pair.worker.connections))
    (seen,) = pair.worker.requests
    body = b"hello" if b"hello" in request_ else SMUGGLED if SMUGGLED in request_ else b""
    assert seen.body == body
    assert seen.all(b"host") == [b"127.0.0.1:%d" % pair.worker.port]
    assert b"Connection" not in pair.worker.connections[0]


# smuggling, as published

PAIRS = {
    "CL.TE, a whole request": post(
        b"Content-Length: %d" % (len(END) + len(SMUGGLED)), b"Transfer-Encoding: chunked", body=END + SMUGGLED
    ),
    "TE.CL, a whole request": post(
        b"Content-Length: 4", b"Transfer-Encoding: chunked", body=IN_CHUNKS
    ),
    "TE.TE, a hidden coding": post(
        b"Transfer-Encoding: chunked", b"Transfer-encoding: cow", b"Content-Length: 4",
        body=IN_CHUNKS,
    ),
    "TE.0": head(b"OPTIONS / HTTP/1.1", b"Transfer-Encoding: xchunked") + IN_CHUNKS,
    "CL.CL": post(b"Content-Length: 0", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
    "a list of lengths": post(b"Content-Length: 0, %d" % len(SMUGGLED), body=SMUGGLED),
    "a request in a field": get(b"A: b\n\nGET /version?smuggled HTTP/1.1\nHost: x\n"),
    "CR CR in a field": get(b"A: b\r\rGET /version?smuggled HTTP/1.1\rHost: x\r"),
    "a request in the target": target(b"/version HTTP/1.1\r\nHost: x\r\n\r\nGET /version?smuggled").replace(
        b"GET /version HTTP/1.1", b"GET /version HTTP/1.1 x", 1
    ),
    "a chunk extension with an LF": chunks(b"5;\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "a chunk extension with a size": chunks(b"1;x\n2b\r\nA\r\n0\r\n\r\n" + SMUGGLED),
    "a chunk size of 2 to the 64th": chunks(b"10000000000000000\r\n\r\n" + SMUGGLED),
    "a chunk's end overwritten": chunks(b"5\r\nhelloXX0\r\n\r\n" + SMUGGLED),
    "a trailer with a request": chunks(b"0\r\nA: b\r\n " + SMUGGLED),
    "a trailer with a bare LF": chunks(b"0\r\nA: b\n\r\n" + SMUGGLED),
    "a GET with two lengths": get(b"Content-Length: %d" % len(SMUGGLED), b"Content-Length: 0") + SMUGGLED,
    "0.CL": get(b"Content-Length : %d" % len(SMUGGLED)) + SMUGGLED,
    "a length in a folded line": get(b"Content-Length:\r\n %d" % len(SMUGGLED)) + SMUGGLED,
    "HTTP/0.9 in front": b"GET /version\r\n" + SMUGGLED,
    "an expectation hidden": post(b"Expect: y 100-continue", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
    "an expectation repeated": post(
        b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 0",
        b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED
    ),
    "HTTP/1.0 with chunks": head(
        b"POST /v1/completions HTTP/1.0", b"Connection: keep-alive", b"Transfer-Encoding: chunked"
    ) + END,
    "two hosts": get(b"Host: y"),
    "a NUL before the coding": post(b"Content-Length: 5", b"\x00Transfer-Encoding: chunked", body=HELLO),
    "404 in front, without its body": head(b"POST /x HTTP/1.1", b"Content-Length: 500"),
    "404 in front, with chunks": head(b"POST /x HTTP/1.1", b"Transfer-Encoding: chunked") + END,
    "405 in front, without its body": head(b"POST /version HTTP/1.1", b"Content-Length: 500"),
    "413 in front": post(b"Content-Length: 4000", body=b""),
}  # fmt: skip


@pytest.mark.parametrize("request_", list(PAIRS.values()), ids=list(PAIRS))
async def test_a_smuggled_request_has_no_answer_and_reaches_nobody(pair: Pair, request_: bytes) -> None:
    answer = await pair.refusal(request_ + SMUGGLED)
    assert 400 <= answer.status < 500, answer
    await pair.saw_nothing()


async def test_an_upgrade_to_h2c_goes_no_further(pair: Pair) -> None:
    lines = b"Connection: Upgrade, HTTP2-Settings, close", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
    (answer,) = await pair.ask(get(*lines))
    (seen,) = pair.worker.requests
    assert (answer.status, seen.all(b"upgrade"), seen.all(b"connection")) == (200, [], [])
    assert seen.all(b"http2-settings") == []


async def test_an_upgrade_in_http_1_0_is_passed_over(pair: Pair) -> None:
    """RFC 9110 7.8: a server MUST ignore it."""
    lines = (
        b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )  # fmt: skip
    await pair.ask(head(b"GET /v1/realtime HTTP/1.0", *lines))
    for seen in pair.worker.requests:
        assert (seen.all(b"upgrade"), seen.all(b"connection")) == ([], [])


async def test_an_expectation_in_http_1_0_is_not_met(pair: Pair) -> None:
    """RFC 9110 10.1.1: no 100 is sent to such a client."""
    async with pair.balancer.connection() as (reader, writer):
        writer.write(head(b"POST /v1/completions HTTP/1.0", b"Expect: 100-continue", b"Content-Length: 5"))
        await soon(lambda: pair.balancer.parts.server.connections == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        writer.write(b"hello")
        assert (await read_answer(reader)).status == 200
    assert pair.worker.requests[0].all(b"expect") == []


async def test_one_empty_line_before_a_request_is_passed_over_however_it_comes(pair: Pair) -> None:
    closing = get(b"Connection: close")
    assert [answer.status for answer in await pair.ask(EOL + closing)] == [200]
    assert (await pair.bytewise(EOL + closing)).status == 200


# no request keeps the others waiting


@pytest.mark.measured
@pytest.mark.parametrize(
    "request_",
    [
        get(b"A:" + b" " * 12_000 + b"\x01"), get(b"A:" + b"\t" * 12_000 + b"\x7f"),
        get(b"Content-Length:" + b" " * 12_000 + b"\x01"), get(*(b"A:" + b" " * 3000 + b"\x01",) * 15),
        get(b"A:" + b" " * 12_000), get(b"A: " + b"b " * 30_000 + b"\x01"), get(b"A" * 60_000 + b"\x01: b"),
        get(b"Host:" + b" " * 12_000 + b"y z"), get(b"Connection: " + b"," * 60_000 + b"\x01"),
        target(b"/" + b"a" * 60_000 + b"\x01"), target(b"http://" + b"a%" * 30_000 + b"@/"),
        chunks(b"5" + b" " * 4000 + b"\x01"), chunks(b"0\r\nA:" + b" " * 15_000 + b"\x01\r\n\r\n"),
    ],
    ids=lambda data: show(re.sub(rb"(.)\1{9,}|(..)\2{9,}", rb"\1\2...", data.split(b"Host: x", 1)[-1]))[:50],
)  # fmt: skip
async def test_its_verdict_takes_no_time(pair: Pair, request_: bytes) -> None:
    began = time.monotonic()
    async with pair.balancer.connection() as (reader, writer):
        writer.write(request_)
        await asyncio.wait_for(reader.readuntil(EOL), 30)
    assert time.monotonic() - began < 0.3
