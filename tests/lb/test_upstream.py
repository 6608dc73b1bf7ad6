from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from lb.errors import AttemptFailed
from lb.upstream import Upstream
from lbfakes import RawHandler, RawWorker, Worker, closed_port, raw_answer

StartWorker = Callable[..., Awaitable[Worker]]
StartRaw = Callable[[RawHandler], Awaitable[RawWorker]]


@asynccontextmanager
async def upstream(addresses: dict[str, str] | None = None) -> AsyncIterator[Upstream]:
    made = Upstream(lambda: addresses or {})
    try:
        yield made
    finally:
        await made.close()


async def test_a_refused_connection_has_changed_nothing() -> None:
    async with upstream() as up:
        with pytest.raises(AttemptFailed, match="cannot connect") as failure:
            await up.send(f"http://127.0.0.1:{closed_port()}", "POST", "/v1/completions", [], b"{}")
    assert failure.value.connected is False


async def test_a_connection_closed_without_an_answer_may_have_changed_something(start_raw: StartRaw) -> None:
    worker = await start_raw(raw_answer())
    async with upstream() as up:
        with pytest.raises(AttemptFailed, match="no answer") as failure:
            await up.send(worker.spec().address, "POST", "/v1/completions", [], b"{}")
    assert failure.value.connected is True


async def test_what_is_not_http_is_a_failed_attempt(start_raw: StartRaw) -> None:
    worker = await start_raw(raw_answer(b"SSH-2.0-OpenSSH_9.2\r\n"))
    async with upstream() as up:
        with pytest.raises(AttemptFailed) as failure:
            await up.send(worker.spec().address, "POST", "/v1/completions", [], b"{}")
    assert failure.value.connected is True


async def test_tls_to_a_server_that_speaks_none_is_a_failed_attempt(start_worker: StartWorker) -> None:
    worker = await start_worker()
    async with upstream() as up:
        with pytest.raises(AttemptFailed) as failure:
            await up.send(f"https://127.0.0.1:{worker.port}", "GET", "/version", [], None)
    assert failure.value.connected is False


async def test_names_are_looked_up_in_what_the_supervisor_resolved(start_worker: StartWorker) -> None:
    worker = await start_worker()
    async with upstream({"worker.invalid": "127.0.0.1"}) as up:
        answer = await up.send(f"http://worker.invalid:{worker.port}", "GET", "/version", [], None)
        assert answer.status == 200
        answer.close()


async def test_a_name_that_was_not_resolved_is_a_failure_to_connect() -> None:
    async with upstream() as up:
        with pytest.raises(AttemptFailed, match="has not been resolved") as failure:
            await up.send("http://localhost:1", "GET", "/version", [], None)
    assert failure.value.connected is False


async def test_redirects_are_the_clients_business(start_worker: StartWorker) -> None:
    async def elsewhere(_: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "/other"})

    worker = await start_worker(answer=elsewhere)
    async with upstream() as up:
        answer = await up.send(worker.spec().address, "GET", "/version", [], None)
        assert answer.status == 307
        answer.close()
    assert len(worker.seen) == 1


async def test_a_prefix_of_an_attached_backend_comes_first(start_worker: StartWorker) -> None:
    worker = await start_worker()
    async with upstream() as up:
        (await up.send(worker.spec(path="/a/b").address, "GET", "/version?x=1", [], None)).close()
    assert worker.seen[0].target == "/a/b/version?x=1"


async def test_metrics_are_asked_for_with_the_backends_key(start_worker: StartWorker) -> None:
    worker = await start_worker()
    async with upstream() as up:
        assert "worker" in await up.get_text(worker.spec().address, "/metrics", "secret", 2.0)
    assert worker.seen[0].headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("status", [204, 404, 500])
async def test_a_text_that_is_not_a_200_is_a_failed_attempt(start_worker: StartWorker, status: int) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    worker = await start_worker(answer=refuse)
    async with upstream() as up:
        with pytest.raises(AttemptFailed, match=str(status)):
            await up.get_text(worker.spec().address, "/metrics", None, 2.0)


async def test_a_text_that_takes_too_long_is_a_failed_attempt(start_raw: StartRaw) -> None:
    async def say_nothing(reader: object, _: object) -> None:
        await reader.read()

    worker = await start_raw(say_nothing)
    async with upstream() as up:
        with pytest.raises(AttemptFailed):
            await up.get_text(worker.spec().address, "/metrics", None, 0.05)
