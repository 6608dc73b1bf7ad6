"""Streams that cannot go on, or may not, end in an explicit error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from brokenengines import CHAT, COMPLETION, HEAD, LAST, Engine, Engines, StartRaw, ask, ask_raw, chunk
from fakes import soon
from lbfakes import Balanced
from simstreams import stream

UNRESUMABLE = [
    {"n": 2, "temperature": 1}, {"response_format": {"type": "json_object"}}, {"structured_outputs": {"choice": ["a"]}},
    {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"}, {"echo": True},
]  # fmt: skip


@pytest.mark.parametrize("extra", UNRESUMABLE, ids=lambda extra: next(iter(extra)))
async def test_what_cannot_be_continued_ends_in_an_explicit_error(
    balancer: Balanced, start_raw: StartRaw, extra: dict[str, Any]
) -> None:
    """A sample whose worker does not tell its tokens."""
    head = b'{"id":"a","object":"chat.completion.chunk","created":1,"model":"base","choices":[{"index":0,"delta":'
    role = b"data: " + head + b'{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    text = b"data: " + head + b'{"content":"one"},"finish_reason":null,"token_ids":null}]}\n\n'
    requests: list[bytes] = []

    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(b"")
        parts = [role] if len(requests) == 1 else [role, text]
        writer.write(HEAD + b"".join(map(chunk, parts)))

    workers = [await start_raw(breaks, f"instance_{number}") for number in range(2)]
    balancer.push(*(worker.spec() for worker in workers))
    async with balancer.connection() as (reader, writer):
        body = json.dumps({**CHAT, "temperature": 1, **extra}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        answer = await asyncio.wait_for(reader.read(), 5)
    assert len(requests) == 2, "made again once, as nothing of the answer had been sent"
    assert answer.count(b'"role"') == 1
    assert answer.count(b'"one"') == 1
    assert b"it cannot be continued: " in answer
    assert b"[DONE]" not in answer
    assert not answer.endswith(LAST)


async def test_usage_that_nobody_has_counted_is_an_error_and_not_a_silence(
    start_balancer: Callable[..., Awaitable[Balanced]], start_raw: StartRaw
) -> None:
    """The stream has finished, its usage is asked for, and its worker is gone."""
    balancer = await start_balancer(resume=False)
    for kind in ("close", "end"):
        engine = Engine("instance_0", [(len(stream(COMPLETION, False)) - 2, kind)])
        engine.worker = await start_raw(engine.answer, engine.name)
        balancer.push(engine.spec())
        _, raw = await ask_raw(balancer, COMPLETION)
        assert b'"finish_reason":"length"' in raw
        assert b'data: {"error"' in raw
        assert b"[DONE]" not in raw
        await soon(lambda: balancer.in_flight == 0)


async def test_an_error_of_the_clients_in_a_stream_is_its_answer(balancer: Balanced, engines: Engines) -> None:
    workers = await engines(2, (0, "refused"))
    status, raw = await ask_raw(balancer, COMPLETION)
    assert status == 200
    assert b'"message": "too long"' in raw
    assert b"[DONE]" not in raw
    assert sum(len(worker.asked) for worker in workers) == 1
    assert balancer.counts("instance_0")[1] == 0


async def test_without_resuming_nothing_is_asked_for_and_a_broken_stream_says_so(
    start_balancer: Callable[..., Awaitable[Balanced]], start_raw: StartRaw
) -> None:
    balancer = await start_balancer(resume=False)
    engine = Engine("instance_0", [(9, "close")])
    engine.worker = await start_raw(engine.answer, engine.name)
    balancer.push(engine.spec())
    _, raw = await ask_raw(balancer, COMPLETION)
    assert engine.asked[0][1] == COMPLETION
    assert b"(--no-resume)" in raw
    assert b"[DONE]" not in raw


async def test_a_plain_generation_that_was_given_up_is_made_again(balancer: Balanced, start_raw: StartRaw) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(1)
        reason = b"abort" if len(requests) == 1 else b"stop"
        body = b'{"choices":[{"index":0,"text":"x","finish_reason":"%b"}]}' % reason
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    requests: list[int] = []
    balancer.push(*[(await start_raw(answer, f"instance_{number}")).spec() for number in range(2)])
    status, answered = await balancer.ask()
    assert (status, answered["choices"][0]["finish_reason"]) == (200, "stop")
    assert len(requests) == 2


async def test_an_error_does_not_show_what_we_asked_for(balancer: Balanced, start_raw: StartRaw) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = worker.requests[-1].partition(b"\r\n\r\n")[2]
        body = json.dumps({"error": {"message": f"bad input: {json.loads(asked)}", "code": 400}}).encode()
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    worker = await start_raw(answer)
    balancer.push(worker.spec())
    status, raw = await ask(balancer, COMPLETION)
    assert status == 400
    assert b"return_token_ids" in worker.requests[-1]
    assert json.loads(raw)["error"]["message"] == f"bad input: {COMPLETION}"
