from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from random import Random
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cluster.client import ClusterError
from cluster.tools.batch.files import BatchStep
from cluster.tools.batch.lines import BatchRequest, Defaults, ask_of
from cluster.tools.batch.run import LONGEST, RequestSender, fed, in_order, pause
from harness import free_port

GOOD = {"model": "m", "choices": [{"text": "t", "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}


def _ask(number: int) -> BatchRequest:
    return ask_of(number, json.dumps(f"p{number}").encode(), Defaults("m"))


async def _steps(count: int, started: list[int] | None = None) -> AsyncIterator[BatchStep]:
    for number in range(1, count + 1):
        if started is not None:
            started.append(number)
        yield BatchStep(number, ask=_ask(number))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 8))
def test_answers_come_in_the_order_of_the_questions(turns: list[int], concurrency: int) -> None:
    most = now = 0
    given_: list[int] = []

    async def work(ask: BatchRequest) -> dict[str, Any]:
        nonlocal most, now
        now += 1
        most = max(most, now)
        for _ in range(turns[ask.number - 1]):
            await asyncio.sleep(0)
        now -= 1
        return {"line": ask.number}

    asyncio.run(in_order(_steps(len(turns)), work, concurrency, lambda step, a: given_.append(a["line"] if a else 0)))
    assert given_ == list(range(1, len(turns) + 1))
    assert most <= concurrency


async def test_a_line_that_takes_long_holds_back_a_bounded_number() -> None:
    gate, started, done = asyncio.Event(), [], []

    async def work(ask: BatchRequest) -> dict[str, Any]:
        if ask.number == 1:
            await gate.wait()
        return {}

    run = asyncio.ensure_future(in_order(_steps(1000, started), work, 4, lambda step, a: done.append(step.offset)))
    before = -1
    while len(started) != before:  # until nothing moves any more
        before = len(started)
        for _ in range(50):
            await asyncio.sleep(0)
    assert not done
    assert before <= 4 * 4 + 4
    gate.set()
    await run
    assert done == list(range(1, 1001))


async def test_what_was_before_a_failure_is_given_and_nothing_is_left_running() -> None:
    done: list[int] = []

    async def work(ask: BatchRequest) -> dict[str, Any]:
        if ask.number == 5:
            raise ClusterError("gone")
        if ask.number > 5:
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        return {}

    before = asyncio.all_tasks()
    with pytest.raises(ClusterError, match="gone"):
        await in_order(_steps(100), work, 3, lambda step, a: done.append(step.offset))
    assert done == [1, 2, 3, 4]
    assert asyncio.all_tasks() == before


async def test_what_the_lines_raise_is_raised_after_what_came_before() -> None:
    async def broken() -> AsyncIterator[BatchStep]:
        yield BatchStep(1, ask=_ask(1))
        raise ValueError("changed")

    async def work(ask: BatchRequest) -> dict[str, Any]:
        return {}

    done: list[int] = []
    with pytest.raises(ValueError, match="changed"):
        await in_order(broken(), work, 2, lambda step, a: done.append(step.offset))
    assert done == [1]


async def test_reading_is_only_a_little_ahead() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10_000):
            read.append(number)
            yield number

    source = fed(items())
    got = [await anext(source) for _ in range(100)]
    assert got == list(range(100))
    assert len(read) <= 100 + 66
    await source.aclose()


async def test_reading_that_fails_fails_here() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("unreadable")

    source = fed(items())
    assert await anext(source) == 1
    with pytest.raises(OSError, match="unreadable"):
        await anext(source)


@given(st.integers(0, 30), st.one_of(st.none(), st.text(), st.integers(0, 10**12).map(str)), st.integers())
def test_a_pause_is_bounded_and_at_least_what_was_asked_for(attempt: int, after: str | None, seed: int) -> None:
    found = pause(attempt, after, Random(seed), 1e9)
    assert 0 <= found <= LONGEST
    if after is not None and after.isascii() and after.isdigit():
        assert found >= min(LONGEST, int(after))


def test_retry_after_may_be_a_date() -> None:
    assert 9 <= pause(0, email.utils.formatdate(1_000_000_010, usegmt=True), Random(1), 1e9) <= 12
    assert pause(0, email.utils.formatdate(1, usegmt=True), Random(1), 1e9) < 1


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def _asking(answer: Handler, **options: Any) -> AsyncIterator[RequestSender]:
    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with RequestSender(f"http://127.0.0.1:{port}/v1/", "key", 4, **options) as asker:
            yield asker
    finally:
        await runner.cleanup()


async def test_busy_servers_are_asked_again_when_they_said() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(f"{request.path} {request.headers['Authorization']}")
        if len(asked) < 3:
            return web.json_response({}, status=[429, 503][len(asked) - 1], headers={"Retry-After": "0"})
        return web.json_response(GOOD)

    async with _asking(answer) as asker:
        assert (await asker(_ask(1)))["text"] == "t"
    assert asked == ["/v1/completions Bearer key"] * 3


@pytest.mark.parametrize(
    ("status", "body", "words", "attempts"),
    [
        (503, {"error": {"message": "no worker"}}, "no worker", 3), (400, {"error": {"message": "bad"}}, "bad", 1),
        (500, {"error": {"message": "poison"}}, "poison", 1), (200, {"odd": 1}, "without text", 1),
    ],
)  # fmt: skip
async def test_a_failure_is_a_line(status: int, body: Any, words: str, attempts: int) -> None:
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(1)
        return web.json_response(body, status=status, headers={"Retry-After": "0"})

    async with _asking(answer, retries=2) as asker:
        line = await asker(_ask(1))
    assert words in line["error"]["message"]
    assert line["error"]["status"] == status
    assert len(asked) == attempts


async def test_no_json_a_broken_connection_and_no_answer_are_failures_too() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        prompt = (await request.json())["prompt"]
        if prompt == "p1":
            return web.Response(text="<html>")
        if prompt == "p2":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        await asyncio.Event().wait()
        raise AssertionError

    async with _asking(answer, retries=0, timeout=0.3) as asker:
        lines = [await asker(_ask(number)) for number in (1, 2, 3)]
        bad = await asker(ask_of(4, b"{}", Defaults("m")))
    assert "not JSON" in lines[0]["error"]["message"]
    assert "connection broke" in lines[1]["error"]["message"]
    assert "within 0.3 s" in lines[2]["error"]["message"]
    assert bad["error"]["message"].startswith("line 4: one of")


async def test_without_a_cluster_the_run_ends() -> None:
    async with RequestSender(f"http://127.0.0.1:{free_port()}", None, 1, retries=0) as asker:
        with pytest.raises(ClusterError, match="any more"):
            await asker(_ask(1))


@pytest.mark.parametrize("refusals", [1, 2])
async def test_a_connection_that_is_not_taken_is_tried_again_and_is_no_late_answer(
    refusals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": [{"text": "t"}]})

    monkeypatch.setattr("cluster.tools.batch.run.pause", lambda *_: 0.0)
    async with _asking(answer, retries=1) as asker:
        post = asker._http.post
        late: list[Any] = [aiohttp.ConnectionTimeoutError("no connection")] * refusals

        def connect(*args: Any, **options: Any) -> Any:
            if late:
                raise late.pop()
            return post(*args, **options)

        monkeypatch.setattr(asker._http, "post", connect)
        if refusals == 1:
            assert (await asker(_ask(1)))["text"] == "t"
        else:
            with pytest.raises(ClusterError, match=r"no cluster at .* any more"):
                await asker(_ask(1))
