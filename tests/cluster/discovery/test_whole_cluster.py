"""Servers in a file join a running cluster and leave it, and no request fails."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cluster.discovery import discovery, file_source, membership
from inprocess import running, until


@pytest.fixture
async def servers() -> AsyncIterator[list[TestServer]]:
    """Two that serve one model."""

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "theirs", "object": "model"}]})

    async def complete(_: web.Request) -> web.Response:
        choices = [{"index": 0, "text": "word", "finish_reason": "length"}]
        return web.json_response({"object": "text_completion", "model": "theirs", "choices": choices})

    started = []
    for _ in range(2):
        app = web.Application()
        app.router.add_get("/v1/models", models)
        app.router.add_post("/v1/completions", complete)
        started.append(TestServer(app, host="127.0.0.1"))
        await started[-1].start_server()
    yield started
    for server in started:
        await server.close()


async def test_a_file_says_who_serves(
    servers: list[TestServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where, name, seconds in [
        (file_source, "_EVERY_S", 0.01), (discovery, "_SOON_S", 0.02), (membership, "LEAVE_S", 0.1),
    ]:  # fmt: skip
        monkeypatch.setattr(where, name, seconds)
    path = tmp_path / "servers.json"

    def write(*listed: TestServer) -> None:
        path.with_name("new").write_text(json.dumps([{"targets": [f"127.0.0.1:{one.port}" for one in listed]}]))
        path.with_name("new").rename(path)

    async with running(tmp_path / "state", monkeypatch, backend_discovery=f"file:{path}") as cluster:
        await cluster.serving("instance_0")
        assert "No such file" in (await cluster.status())["discovery"][0]["failure"]
        write(*servers)
        status = await cluster.serving("instance_0", "backend_0", "backend_1")
        assert status["instances"]["backend_0"]["origin"] == f"file:{path}"
        assert [await cluster.complete("theirs") for _ in range(4)] == [200] * 4
        write(*(server for server in servers if server.port != status["instances"]["backend_0"]["port"]))

        async def left() -> bool:
            cluster.clock.advance(0.02)
            assert await cluster.complete("theirs") == 200
            return "backend_0" not in (await cluster.status())["instances"]

        await until(left)
        path.write_text("[")
        await until(lambda: _failing(cluster.parts.discovery.describe()))
        assert await cluster.complete("theirs") == 200, "what it listed last holds"


async def _failing(described: list[dict[str, object]]) -> bool:
    return bool(described[0]["failure"])
