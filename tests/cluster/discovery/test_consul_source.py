"""Servers in Consul. No Consul runs here: a stub answers by what its documentation says of blocking queries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cluster.discovery import consul_source
from cluster.discovery.consul_source import ConsulSource
from cluster.discovery.listing import SourceFailed
from config.values.discovery import ConsulService


def instance(address: str, port: int = 8000, node: str = "10.0.0.9") -> dict[str, Any]:
    return {"Node": {"Address": node}, "Service": {"Address": address, "Port": port}, "Checks": []}


class Consul:
    """Answers a question with an index that is the latest one when there is a newer, or when its time is over.
    ``second``: how long (s) one of those that it is asked to wait is."""

    def __init__(self) -> None:
        self.second = 1.0
        self.index, self.entries, self.asked = 7, list[Any](), list[dict[str, str]]()
        self.tokens, self.status, self.body, self.silent = list[str | None](), 200, b"", False
        self._changed = asyncio.Event()
        app = web.Application()
        app.router.add_get("/v1/health/service/{name}", self._answer)
        self.server = TestServer(app, host="127.0.0.1", handler_cancellation=True)

    def change(self, entries: list[Any], index: int | None = None) -> None:
        self.entries, self.index = entries, self.index + 1 if index is None else index
        self._changed.set()
        self._changed = asyncio.Event()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        self.tokens.append(request.headers.get("X-Consul-Token"))
        if self.silent:
            await asyncio.sleep(60)
        if request.query.get("index") == str(self.index):
            try:
                async with asyncio.timeout(self.second * float(request.query["wait"].removesuffix("s"))):
                    await self._changed.wait()
            except TimeoutError:
                pass
        headers = {"X-Consul-Index": str(self.index)}
        if self.body or self.status != 200:
            return web.Response(status=self.status, body=self.body, headers=headers)
        return web.json_response(self.entries, headers=headers)


@pytest.fixture
async def consul(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Consul]:
    monkeypatch.setattr(consul_source, "_SOONEST_S", 0.01)
    for name in ("CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    stub = Consul()
    await stub.server.start_server()
    yield stub
    await stub.server.close()


@pytest.fixture
async def source(consul: Consul) -> AsyncIterator[ConsulSource]:
    asks = ConsulSource(ConsulService(f"http://127.0.0.1:{consul.server.port}", "vllm", (("tag", "gpu"),)))
    yield asks
    await asks.close()


async def failure(source: ConsulSource) -> str:
    with pytest.raises(SourceFailed) as error:
        await source.listed(5.0)
    return str(error.value)


async def test_a_change_is_told_by_the_question_that_waits_for_it(consul: Consul, source: ConsulSource) -> None:
    consul.entries = [instance("10.0.0.1"), instance("", 8001)]
    assert (await source.listed(60.0)).urls == ("http://10.0.0.1:8000", "http://10.0.0.9:8001"), "or of its node"
    waiting = asyncio.create_task(source.listed(60.0))
    while len(consul.asked) < 2:
        await asyncio.sleep(0.005)
    assert not waiting.done()
    consul.change([instance("10.0.0.3")])
    assert (await asyncio.wait_for(waiting, 5)).urls == ("http://10.0.0.3:8000",)
    first, second = consul.asked
    assert first == {"passing": "true", "tag": "gpu"}
    assert second == {**first, "index": "7", "wait": "60s"}


async def test_the_same_is_told_again_after_its_time(consul: Consul, source: ConsulSource) -> None:
    consul.entries, consul.second = [instance("10.0.0.1")], 0.01
    first = await source.listed(1.0)
    assert await asyncio.wait_for(source.listed(1.0), 5) == first


async def test_an_index_that_goes_backwards_begins_again(consul: Consul, source: ConsulSource) -> None:
    await source.listed(1.0)
    consul.change([], index=3)
    await source.listed(1.0)
    await source.listed(1.0)
    consul.change([], index=0)
    await source.listed(1.0)
    await source.listed(1.0)
    assert [asked.get("index") for asked in consul.asked] == [None, "7", None, "3", None]


async def test_what_is_no_answer_fails_and_is_asked_for_anew(consul: Consul, source: ConsulSource) -> None:
    await source.listed(1.0)
    for status, body, why in [
        (500, b"No cluster leader", "500 No cluster leader"),
        (302, b"", "302"),
        (200, b"{", "no list of instances"),
        (200, b'{"a": 1}', "no list of instances"),
        (200, b'[{"Service": {"Address": 3, "Port": 1}, "Node": {"Address": "a"}}]', "no list of instances"),
        (200, b"[" * 10**6, "no list of instances"),
    ]:
        consul.status, consul.body = status, body
        consul.change([])
        assert why in await failure(source)
    consul.status, consul.body = 403, b"Permission denied: \x1b[31mred"
    consul.change([])
    assert "\x1b" not in await failure(source)
    assert "index" in consul.asked[1] and "index" not in consul.asked[2]


async def test_an_answer_without_end_is_not_read(
    consul: Consul, source: ConsulSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consul_source, "_MOST_BYTES", 100)
    consul.entries = [instance("10.0.0.1")] * 10
    assert "more than 100 bytes" in await failure(source)


async def test_one_that_is_not_there_fails(consul: Consul, source: ConsulSource) -> None:
    port = consul.server.port
    await consul.server.close()
    assert f"http://127.0.0.1:{port}: " in await failure(source)


async def test_one_that_says_nothing_fails(
    consul: Consul, source: ConsulSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consul_source, "_ANSWER_S", 0.05)
    consul.silent = True
    assert "no answer in time" in await failure(source)


async def test_the_token_comes_from_a_variable_or_a_file_and_is_never_told(
    consul: Consul, source: ConsulSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await source.listed(0.01)
    file = tmp_path / "token"
    file.write_bytes(b"s3cret-1\n")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN_FILE", str(file))
    consul.change([])
    await source.listed(0.01)
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "s3cret-2")
    consul.change([])
    await source.listed(0.01)
    assert consul.tokens == [None, "s3cret-1", "s3cret-2"]
    monkeypatch.delenv("CONSUL_HTTP_TOKEN")
    file.write_bytes(b"s3cret\xff")
    assert (words := await failure(source)).endswith("CONSUL_HTTP_TOKEN_FILE: not a UTF-8 text file")
    assert "s3cret" not in words
