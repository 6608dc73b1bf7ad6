"""Backends that this cluster did not start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cluster.monitoring.external import _address_of
from cluster.monitoring.probes import ProbePlan
from clusterfakes import external
from fakes import soon
from worker.probe import Target

PLAN = ProbePlan(startup_interval=0.01, interval=0.01, failures=1, fatal=2, health_required=False)


def test_a_change_of_health_is_told_once() -> None:
    backend, told, changes = external("http://h:1"), [], []
    backend.emit = lambda name, text, **_: told.append(text)
    backend.changed = lambda: changes.append(backend.spec.state)
    backend.ready(({"id": "m"},))
    backend.unhealthy("no answer", lost=False)
    backend.unhealthy("still none", lost=True)
    assert changes == ["ready", "unhealthy"]
    assert told == ["ready (http://h:1)", "out of rotation: no answer"]
    assert backend.reason == "still none" and backend.spec.models == ({"id": "m"},)
    backend.ready(({"id": "n"},))
    assert (backend.spec.state, backend.reason, backend.spec.models) == ("ready", "", ({"id": "n"},))


def test_what_is_wrong_is_told_from_how_far_it_has_come() -> None:
    """So that whoever waits knows whether there is something to wait for."""
    backend = external("http://h:1")
    assert (backend.reason, backend.coming) == ("", "")
    backend.not_yet("no answer")
    assert (backend.reason, backend.coming) == ("no answer", "")
    backend.phase("waiting for the first token")
    assert (backend.reason, backend.coming) == ("", "waiting for the first token")
    backend.not_yet("not ready: 404")
    assert (backend.reason, backend.coming) == ("not ready: 404", "")
    backend.phase("waiting for the first token")
    backend.ready(({"id": "m"},))
    assert (backend.reason, backend.coming) == ("", "")


class Server:
    """Another machine's server, which has no ``/health`` and can be switched off."""

    def __init__(self) -> None:
        self.off, self.keys = True, set[str | None]()
        app = web.Application()
        app.router.add_route("*", "/p/v1/{what}", self._answer)
        self.server = TestServer(app, host="127.0.0.1")

    async def _answer(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("Authorization"))
        if self.off:
            return web.Response(status=503)
        return web.json_response({"data": [{"id": "m"}]})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    served = Server()
    await served.server.start_server()
    yield served
    await served.server.close()


async def test_a_server_that_comes_and_goes_is_followed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.monitoring.external._AGAIN_S", 0.02)
    (tmp_path / "key").write_text("k")
    url = f"http://localhost:{server.server.port}/p/v1"
    backend = external(url, tmp_path / "key")
    async with aiohttp.ClientSession() as session:
        target = Target(session, backend.spec.address, backend.spec.api_key)
        task = asyncio.create_task(backend.run(target, PLAN), name="attached")
        try:
            await soon(lambda: "503" in backend.reason and backend.spec.ip)
            assert (backend.spec.state, backend.coming) == ("starting", "")
            server.off = False
            await soon(lambda: backend.spec.state == "ready")
            assert [card["id"] for card in backend.spec.models] == ["m"]
            server.off = True
            await soon(lambda: backend.spec.state == "unhealthy")
            server.off = False
            await soon(lambda: backend.spec.state == "ready")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert backend.spec.ip in ("127.0.0.1", "::1") and server.keys == {"Bearer k"}


async def test_a_name_that_does_not_resolve_is_no_error() -> None:
    assert await _address_of("no.such.invalid", 80) is None
    assert await _address_of("10.0.0.7", 80) == "10.0.0.7"
    assert await _address_of("::1", 80) == "::1"
