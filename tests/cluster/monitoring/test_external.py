"""Backends that this cluster did not start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cluster.monitoring import external
from cluster.monitoring.external import ExternalBackend
from cluster.monitoring.probes import ProbePlan
from config.errors import UsageError
from fakes import soon
from worker.probe import Readiness, Target

PLAN = ProbePlan(startup_interval=0.01, interval=0.01, failures=1, fatal=2, health_required=False)


def _one(url: str = "http://h:1") -> ExternalBackend:
    (found,) = external.parse((url,), None, epoch=5)
    return found


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://10.0.0.7:8000", "http://10.0.0.7:8000"),
        ("http://10.0.0.7", "http://10.0.0.7:80"),
        ("https://gpu.example/", "https://gpu.example:443"),
        ("http://h:1/v1", "http://h:1"),
        ("http://h:1/v1/", "http://h:1"),
        ("http://h:1/models/a/", "http://h:1/models/a"),
        ("http://h:1/models/a/v1", "http://h:1/models/a"),
        ("http://[::1]:9", "http://[::1]:9"),
    ],
)
def test_a_url_is_understood_with_or_without_the_apis_path(url: str, address: str) -> None:
    assert _one(url).spec.address == address


def test_backends_are_numbered_and_belong_to_this_epoch() -> None:
    found = external.parse(("http://a", "http://b"), None, epoch=5)
    assert [a.spec.id for a in found] == ["backend_0", "backend_1"]
    assert {(a.spec.incarnation, a.spec.managed, a.spec.state) for a in found} == {(5, False, "starting")}


@pytest.mark.parametrize(
    "url",
    ["", "h:80", "10.0.0.7", "ftp://h", "http://", "http://h:x", "http://h:99999", "http://h:0", "http://[::1",
     "http://u:p@h", "http://h?x=1", "http://h#x"],
)  # fmt: skip
def test_what_is_no_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(UsageError) as error:
        _one(url)
    assert str(error.value).startswith(f"--backend {url}: ") and error.value.exit_code == 2


def test_the_key_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" secret\n")
    (found,) = external.parse(("http://a",), tmp_path / "key", 1)
    assert found.spec.api_key == "secret" and _one().spec.api_key is None


@pytest.mark.parametrize("name", ["none", ".", "binary", "~no_such_user/key"])
def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    path = Path(name) if name[0] == "~" else tmp_path / name
    with pytest.raises(UsageError, match=r"^--backend-key-file ") as error:
        external.parse(("http://a",), path, 1)
    assert error.value.exit_code == 2


def test_a_change_of_health_is_told_once() -> None:
    backend, told, changes = _one(), [], []
    backend.emit = lambda name, text, **_: told.append(text)
    backend.changed = lambda: changes.append(backend.spec.state)
    backend.ready(Readiness(({"id": "m"},)))
    backend.unhealthy("no answer", lost=False)
    backend.unhealthy("still none", lost=True)
    assert changes == ["ready", "unhealthy"]
    assert told == ["ready (http://h:1)", "out of rotation: no answer"]
    assert backend.reason == "still none" and backend.spec.models == ({"id": "m"},)
    backend.ready(Readiness(({"id": "n"},)))
    assert (backend.spec.state, backend.reason, backend.spec.models) == ("ready", "", ({"id": "n"},))


def test_what_is_wrong_is_told_from_how_far_it_has_come() -> None:
    """So that whoever waits knows whether there is something to wait for."""
    backend = _one()
    assert (backend.reason, backend.coming) == ("", "")
    backend.not_yet("no answer")
    assert (backend.reason, backend.coming) == ("no answer", "")
    backend.phase("waiting for the first token")
    assert (backend.reason, backend.coming) == ("", "waiting for the first token")
    backend.not_yet("not ready: 404")
    assert (backend.reason, backend.coming) == ("not ready: 404", "")
    backend.phase("waiting for the first token")
    backend.ready(Readiness(({"id": "m"},)))
    assert (backend.reason, backend.coming) == ("", "")


@pytest.mark.parametrize("content", [b"s3cret", b"s3cret\n", b" s3cret \r\n", b"\xef\xbb\xbfs3cret\r\n"])
def test_the_key_is_what_stands_in_its_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    (found,) = external.parse(("http://h:1",), tmp_path / "key", epoch=1)
    assert found.spec.api_key == "s3cret"


@pytest.mark.parametrize("content", [b"", b" \n", b"s3cret\nmore", b"s3cret\0", b"s3cret\xff", b"s3cret\x1b[0m"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match=r"^--backend-key-file ") as error:
        external.parse(("http://h:1",), tmp_path / "key", epoch=1)
    assert "s3cret" not in str(error.value) and "xff" not in str(error.value)


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


async def test_a_server_that_comes_and_goes_is_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    url = f"http://localhost:{server.server.port}/p/v1"
    (backend,) = external.parse((url,), tmp_path / "key", 1)
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
    assert await external._address_of("no.such.invalid", 80) is None
    assert await external._address_of("10.0.0.7", 80) == "10.0.0.7"
    assert await external._address_of("::1", 80) == "::1"
