"""What is waited for where nobody can take a request: a whole balancer between real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fakes import soon
from lbfakes import Balanced, Worker, spec

StartWorker = Callable[..., Awaitable[Worker]]
StartBalancer = Callable[..., Awaitable[Balanced]]


async def test_a_request_waits_for_a_worker_to_become_ready(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(state="starting"))
    asking = asyncio.ensure_future(balancer.ask())
    await soon(lambda: balancer.metric("clusterctl_queued_requests") == 1)
    balancer.push(worker.spec())
    assert (await asyncio.wait_for(asking, 5))[0] == 200
    assert balancer.metric("clusterctl_queued_requests") == 0


async def test_before_the_first_set_a_request_waits(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    asking = asyncio.ensure_future(balancer.ask())
    await soon(lambda: balancer.metric("clusterctl_queued_requests") == 1)
    balancer.push(worker.spec())
    assert (await asyncio.wait_for(asking, 5))[0] == 200


async def test_all_who_wait_are_served(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(state="starting"))
    asking = [asyncio.ensure_future(balancer.ask()) for _ in range(20)]
    await soon(lambda: balancer.metric("clusterctl_queued_requests") == 20)
    balancer.push(worker.spec())
    assert [(await asyncio.wait_for(one, 5))[0] for one in asking] == [200] * 20


async def test_after_the_queue_timeout_it_is_503_with_retry_after(start_balancer: StartBalancer) -> None:
    balancer = await start_balancer(queue_timeout=0.05)
    balancer.push(spec(state="starting"))
    async with balancer.generate() as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        error = (await response.json())["error"]
    assert (error["type"], error["code"], error["param"]) == ("ServiceUnavailableError", 503, None)
    assert balancer.metric("clusterctl_queued_requests") == 0


async def test_a_client_that_gives_up_waiting_is_forgotten(balancer: Balanced) -> None:
    balancer.push(spec(state="starting"))
    async with balancer.connection() as (_, writer):
        writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        await soon(lambda: balancer.metric("clusterctl_queued_requests") == 1)
    await soon(lambda: balancer.metric("clusterctl_queued_requests") == 0)


@pytest.mark.measured
async def test_where_all_have_failed_it_is_503_at_once(balancer: Balanced) -> None:
    balancer.push(spec("instance_0", state="failed"), spec("instance_1", state="failed"))
    status, answer = await asyncio.wait_for(balancer.ask(), 2)
    assert (status, answer["error"]["type"]) == (503, "ServiceUnavailableError")
    assert "failed" in answer["error"]["message"]


@pytest.mark.measured
async def test_one_who_waits_is_told_when_the_last_one_fails(balancer: Balanced) -> None:
    balancer.push(spec(state="starting"))
    asking = asyncio.ensure_future(balancer.ask())
    await soon(lambda: balancer.metric("clusterctl_queued_requests") == 1)
    balancer.push(spec(state="failed"))
    assert (await asyncio.wait_for(asking, 2))[0] == 503


@pytest.mark.measured
async def test_one_who_waits_is_told_of_the_shutdown(balancer: Balanced) -> None:
    balancer.push(spec(state="starting"))
    asking = asyncio.ensure_future(balancer.ask())
    await soon(lambda: balancer.metric("clusterctl_queued_requests") == 1)
    balancer.push(shutting_down=True)
    status, answer = await asyncio.wait_for(asking, 2)
    assert status == 503
    assert "shutting down" in answer["error"]["message"]
