"""Connections to workers that do not come about."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

import lb.upstream.connections
import movedloop
from fakes import soon
from lb.upstream.connection import WorkerConnection
from lb.upstream.connections import Upstream
from lbfakes import (
    DEADLINE_S,
    closed_port,
)
from talkers import GET, StartTalker, StartWorker, Talker, failed, fetched, talking, where


async def test_where_nobody_listens_nothing_was_sent(upstream: Upstream) -> None:
    failure = await failed(fetched(upstream, closed_port()))
    assert not failure.follows.sent
    assert upstream.connections == 0


async def test_a_host_that_was_not_resolved_is_not_asked(upstream: Upstream) -> None:
    failure = await failed(upstream.connect(where(upstream, 1, host="gpu.local", ip="")))
    assert not failure.follows.sent
    assert "gpu.local" in str(failure)


async def test_tls_where_none_is_spoken_is_no_connection(upstream: Upstream, start_worker: StartWorker) -> None:
    worker = await start_worker()
    failure = await failed(upstream.connect(where(upstream, worker.port, scheme="https")))
    assert not failure.follows.sent
    assert str(failure).startswith("cannot connect: ")
    assert len(str(failure)) > len("cannot connect: ")
    assert (worker.seen, upstream.connections) == ([], 0)


async def test_tls_of_somebody_unknown_is_no_connection(
    upstream: Upstream, stack: AsyncExitStack, trusting: ssl.SSLContext
) -> None:
    talker = await stack.enter_async_context(talking(Talker(), trusting))
    assert not (
        await failed(upstream.connect(where(upstream, talker.port, scheme="https", host="gpu.local")))
    ).follows.sent
    assert upstream.connections == 0
    assert await upstream.fetch(where(upstream, talker.port, scheme="https"), GET, DEADLINE_S) == (200, b"ok")
    assert await upstream.fetch(where(upstream, talker.port, scheme="https"), GET, DEADLINE_S) == (200, b"ok")
    assert talker.asked == [GET, GET]


async def test_a_handshake_that_never_ends_is_given_up_and_closed(
    upstream: Upstream, start_talker: StartTalker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lb.upstream.connections, "_CONNECT_S", 0.1)
    talker = await start_talker(lambda number: b"")
    failure = await failed(upstream.connect(where(upstream, talker.port, scheme="https")))
    assert not failure.follows.sent
    await soon(lambda: talker.opened == 1 and talker.open == 0)
    assert upstream.connections == 0


@dataclass
class Slow:
    """An endpoint that has a connection and does not say so."""

    port: int
    key: object = "slow"
    patience: float | None = None

    async def open(self, make: Callable[[], WorkerConnection]) -> WorkerConnection:
        _, connection = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", self.port)
        await asyncio.Event().wait()
        return connection


async def test_a_connection_that_comes_too_late_is_closed(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker()
    failure = await failed(upstream.connect(Slow(talker.port, patience=0.1)))
    assert (failure.follows.sent, str(failure)) == (False, "no connection in 0.1 s")
    await soon(lambda: talker.opened == 1 and talker.open == 0)


@pytest.mark.parametrize("turns", range(5))
@movedloop.moved
async def test_a_worker_is_not_to_blame_for_a_time_in_which_we_stood_still(turns: int) -> None:
    """Longer than a connection may take, at any step of the way to it."""
    upstream = Upstream()
    async with talking(Talker()) as talker:
        task = asyncio.ensure_future(upstream.connect(where(upstream, talker.port)))
        for _ in range(turns):
            await asyncio.sleep(0)
        movedloop.stand_still(3.0)
        (await task).drop()


async def test_a_connection_that_nobody_wants_any_more_is_closed(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker()
    task = asyncio.ensure_future(upstream.connect(Slow(talker.port)))
    await soon(lambda: talker.opened)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(lambda: talker.open == 0)


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("tls", [False, True])
async def test_a_cancelled_connect_leaves_no_connection_open(
    upstream: Upstream, stack: AsyncExitStack, trusting: ssl.SSLContext, turns: int, tls: bool
) -> None:
    talker = await stack.enter_async_context(talking(Talker(), trusting if tls else None))
    endpoint = where(upstream, talker.port, scheme="https" if tls else "http")
    for _ in range(10):
        task = asyncio.ensure_future(upstream.connect(endpoint))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            task.result().drop()
    last = await upstream.connect(endpoint)  # behind all others in the listener's queue
    await soon(lambda: upstream.connections == 1 and talker.open == 1)
    last.drop()
    await soon(lambda: upstream.connections == 0 and talker.open == 0)
