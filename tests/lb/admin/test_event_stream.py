"""The stream of events: nothing twice, nothing left out, nobody kept for too long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from fakes import soon
from lb.admin.event_stream import KEPT, EventFeed
from lb.protocol.errors import ProxyError

_SSE = {"Accept": "text/event-stream"}


def _event(number: int, size: int = 0) -> dict[str, Any]:
    return {"id": number, "at": 1.0, "subject": "a", "kind": "note", "text": "x" * size, "data": {}}


@pytest.fixture
def feed() -> EventFeed:
    return EventFeed(heartbeat=0.05, slow=0.3)


@pytest.fixture
async def client(feed: EventFeed) -> AsyncIterator[TestClient[Any, Any]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await feed.answer(request)
        except ProxyError as error:
            return web.json_response(error.body(), status=error.status)

    app = web.Application()
    app.router.add_route("*", "/", handler)
    async with TestClient(TestServer(app)) as made:
        yield made


async def _next(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The next event; comments are passed over."""
    fields: dict[str, str] = {}
    async with asyncio.timeout(10):
        while True:
            line = (await response.content.readline()).decode()
            assert line, "the stream ended"
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif line == "\n" and "data" in fields:
                event: dict[str, Any] = json.loads(fields["data"])
                assert (fields["id"], fields["event"]) == (str(event["id"]), event["kind"])
                return event


async def test_events_that_are_known_are_not_added_again(feed: EventFeed) -> None:
    feed.add([_event(1), _event(5)])
    feed.add([_event(1), _event(5), _event(6)])
    assert [kept.id for kept in feed.after(0)] == [1, 5, 6]
    assert [kept.id for kept in feed.after(3, 1)] == [5] and feed.after(6) == []
    feed.add(_event(number) for number in range(7, KEPT + 50))
    assert len(feed.after(0)) == KEPT


async def test_a_list_is_the_latest_or_what_came_after(feed: EventFeed, client: TestClient[Any, Any]) -> None:
    feed.add(_event(number) for number in range(1, 301))

    async def ids(**query: Any) -> list[int]:
        return [e["id"] for e in (await (await client.get("/", params=query)).json())["events"]]

    assert await ids() == list(range(201, 301))
    assert await ids(limit=2) == [299, 300] and await ids(limit=0) == []
    assert await ids(limit=1000) == list(range(1, 301))
    assert await ids(since=298) == [299, 300] and await ids(since=10, limit=2) == [11, 12]
    assert await ids(since=300) == [] and await ids(since=999) == []


@pytest.mark.parametrize("query", ["since=x", "since=-1", "limit=1.5", "since=" + "9" * 30, "limit=²"])
async def test_what_is_no_number_is_refused(client: TestClient[Any, Any], query: str) -> None:
    assert (await client.get(f"/?{query}")).status == 400


async def test_a_stream_begins_with_what_was_and_goes_on(feed: EventFeed, client: TestClient[Any, Any]) -> None:
    feed.add([_event(1), _event(2)])
    async with client.get("/", headers=_SSE) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert [(await _next(response))["id"] for _ in range(2)] == [1, 2]
        feed.add([_event(3)])
        assert (await _next(response))["id"] == 3
        await soon(lambda: feed.listeners == 1)
    await soon(lambda: feed.listeners == 0)


async def test_a_listener_that_comes_back_goes_on_after_its_last_one(
    feed: EventFeed, client: TestClient[Any, Any]
) -> None:
    feed.add(_event(number) for number in range(1, 401))
    async with client.get("/", headers={**_SSE, "Last-Event-ID": "5"}) as response:
        assert [(await _next(response))["id"] for _ in range(395)] == list(range(6, 401))
    async with client.get("/?since=399", headers=_SSE) as response:
        assert (await _next(response))["id"] == 400
    async with client.get("/?limit=0", headers=_SSE) as response:
        await soon(lambda: feed.listeners == 1)
        feed.add([_event(401)])
        assert (await _next(response))["id"] == 401


async def test_a_silent_stream_has_comments_and_ends_with_its_balancer(
    feed: EventFeed, client: TestClient[Any, Any]
) -> None:
    async with client.get("/", headers=_SSE) as response:
        async with asyncio.timeout(10):
            seen = b""
            while seen.count(b": still here\n\n") < 3:
                seen += await response.content.readany()
            feed.close()
            assert b"data" not in await response.content.read()


async def test_a_listener_that_does_not_read_is_dropped(feed: EventFeed, client: TestClient[Any, Any]) -> None:
    async with client.get("/", headers=_SSE) as response, client.get("/", headers=_SSE) as quick:
        await soon(lambda: feed.listeners == 2)
        last = 0
        async with asyncio.timeout(10):
            while feed.listeners == 2:  # what is on its way is bounded by the sockets' buffers
                last += 1
                feed.add([_event(last, 200_000)])
                assert (await _next(quick))["id"] == last
        feed.add([_event(last + 1)])
        assert (await _next(quick))["id"] == last + 1
        with pytest.raises((aiohttp.ClientError, AssertionError)):
            for _ in range(last + 1):
                await _next(response)


async def test_there_may_only_be_so_many(
    feed: EventFeed, client: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lb.admin.event_stream._LISTENERS", 1)
    async with client.get("/", headers=_SSE):
        await soon(lambda: feed.listeners == 1)
        assert (await client.get("/", headers=_SSE)).status == 503
        assert (await client.get("/")).status == 200
    await soon(lambda: feed.listeners == 0)


async def test_a_head_ends(client: TestClient[Any, Any]) -> None:
    async with asyncio.timeout(5):
        response = await client.head("/", headers=_SSE)
    assert response.status == 200
