"""What is tried again, on whom and how often: a whole balancer between real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from fakes import soon
from lb.protocol.errors import AttemptFailed
from lb.protocol.failures import Failure
from lbfakes import Balanced, RawHandler, RawWorker, Worker, dead, raw_answer

StartWorker = Callable[..., Awaitable[Worker]]
StartRaw = Callable[..., Awaitable[RawWorker]]
StartBalancer = Callable[..., Awaitable[Balanced]]

OK = raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


# a worker that cannot be connected to


async def test_a_refused_connection_is_made_good_elsewhere(balancer: Balanced, start_worker: StartWorker) -> None:
    balancer.push(dead("instance_0"), (await start_worker("instance_1")).spec())
    assert await balancer.ask() == (200, {"worker": "instance_1"})
    assert balancer.counts("instance_0") == (0, 1)
    assert balancer.metric("clusterctl_ejections_total", instance="instance_0") == 1


def slow(balancer: Balanced, monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """Nobody of ``names`` takes a connection in time; returns who was tried."""
    upstream, tried = balancer.parts.shared.upstream, []
    connect = upstream.connect
    ports = {balancer.parts.pool.backends[name].spec.port: name for name in names}

    async def never(endpoint: Any) -> Any:
        name = ports.get(endpoint.port)
        if name is None:
            return await connect(endpoint)
        tried.append(name)
        await asyncio.sleep(0.02)
        raise AttemptFailed("no connection in 2 s", Failure.SLOW_CONNECT)

    monkeypatch.setattr(upstream, "connect", never)
    return tried


async def test_a_slow_connection_is_made_good_elsewhere(
    balancer: Balanced, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer.push(dead("instance_0"), dead("instance_1"), (await start_worker("instance_2")).spec())
    tried = slow(balancer, monkeypatch, "instance_0", "instance_1")
    assert await balancer.ask() == (200, {"worker": "instance_2"})
    assert sorted(tried) == ["instance_0", "instance_1"]
    ejected = [b.id for b in balancer.parts.pool.backends.values() if b.ejection.until]
    assert len(ejected) == 1  # of three, no more than one is left out for slowness


async def test_where_all_are_slow_it_is_503_after_the_queue_timeout(
    start_balancer: StartBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = await start_balancer(queue_timeout=0.2)
    balancer.push(dead("instance_0"), dead("instance_1"))
    tried = slow(balancer, monkeypatch, "instance_0", "instance_1")
    status, answer = await balancer.ask()
    assert (status, answer["error"]["type"]) == (503, "ServiceUnavailableError")
    assert len(tried) > 2
    assert balancer.in_flight == 0


async def test_it_is_made_good_whatever_the_route_is(balancer: Balanced, start_worker: StartWorker) -> None:
    balancer.push(dead("instance_0"), (await start_worker("instance_1")).spec())
    assert await balancer.ask("/v1/responses") == (200, {"worker": "instance_1"})


async def test_a_dead_worker_is_left_out_for_a_while(balancer: Balanced, start_worker: StartWorker) -> None:
    balancer.push(dead("instance_0"), (await start_worker("instance_1")).spec())
    for _ in range(10):
        assert (await balancer.ask())[0] == 200
    assert balancer.counts("instance_0")[1] == 1


async def test_a_dead_worker_that_comes_back_gets_requests_again(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    port = dead("instance_0")
    balancer.push(port)
    asking = asyncio.ensure_future(balancer.ask())
    await soon(lambda: balancer.counts()[1])
    balancer.push((await start_worker("instance_0")).spec(incarnation=2))
    assert await asyncio.wait_for(asking, 5) == (200, {"worker": "instance_0"})


async def test_where_all_refuse_it_is_503_after_the_queue_timeout(start_balancer: StartBalancer) -> None:
    balancer = await start_balancer(queue_timeout=0.1)
    balancer.push(dead("instance_0"), dead("instance_1"))
    status, answer = await balancer.ask()
    assert (status, answer["error"]["type"]) == (503, "ServiceUnavailableError")
    assert balancer.in_flight == 0


# a worker that takes it and does not answer


async def test_a_generation_without_an_answer_is_made_again_elsewhere(
    balancer: Balanced, start_raw: StartRaw, start_worker: StartWorker
) -> None:
    bad, good = await start_raw(raw_answer(), "instance_0"), await start_worker("instance_1")
    balancer.push(bad.spec(), good.spec())
    assert await balancer.ask() == (200, {"worker": "instance_1"})
    assert (balancer.counts("instance_0"), balancer.counts("instance_1")) == ((1, 1), (1, 0))
    assert balancer.in_flight == 0


def _failing(status: int) -> RawHandler:
    return raw_answer(b"HTTP/1.1 %d Sorry\r\nContent-Length: 2\r\n\r\n{}" % status)


@pytest.mark.parametrize("status", [500, 503])
async def test_a_worker_that_cannot_is_not_the_clients_answer_if_another_can(
    balancer: Balanced, start_raw: StartRaw, start_worker: StartWorker, status: int
) -> None:
    broken, well = await start_raw(_failing(status), "instance_0"), await start_worker("instance_1")
    balancer.push(broken.spec(), well.spec())
    assert {(await balancer.ask())[0] for _ in range(4)} == {200}
    assert balancer.counts("instance_0")[1] > 0


@pytest.mark.parametrize("status", [500, 503])
async def test_its_answer_is_the_clients_if_the_other_cannot_either(
    balancer: Balanced, start_raw: StartRaw, status: int
) -> None:
    broken = [await start_raw(_failing(status), f"instance_{n}") for n in range(2)]
    balancer.push(*(worker.spec() for worker in broken))
    assert (await balancer.ask())[0] == status
    assert [balancer.counts(worker.name) for worker in broken] == [(1, 1), (1, 1)]


@pytest.mark.usefixtures("nobody_says_who_died")
async def test_it_is_made_again_three_times_at_most(balancer: Balanced, start_raw: StartRaw) -> None:
    workers = [await start_raw(raw_answer(), f"instance_{n}") for n in range(5)]
    balancer.push(*(worker.spec() for worker in workers))
    status, answer = await balancer.ask()
    assert (status, answer["error"]["type"]) == (502, "BadGatewayError")
    assert sorted(len(worker.requests) for worker in workers) == [0, 1, 1, 1, 1]


@pytest.mark.usefixtures("settles_soon")
async def test_a_request_of_which_two_workers_died_is_not_given_to_a_third(
    balancer: Balanced, start_raw: StartRaw
) -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(dead)
        dead.append(number)
        balancer.push(*(w.spec(state="backoff" if n in dead else "ready") for n, w in enumerate(workers)))

    dead: list[int] = []
    workers = [await start_raw(dies, f"instance_{n}") for n in range(4)]
    balancer.push(*(worker.spec() for worker in workers))
    status, answer = await balancer.ask()
    assert (status, answer["error"]["type"]) == (500, "InternalServerError")
    assert "2 workers have died" in answer["error"]["message"]
    assert len(dead) == 2
    assert "clusterctl_poison_requests_total 1.0" in balancer.parts.shared.metrics.render()


@pytest.mark.usefixtures("settles_soon")
async def test_who_was_beside_a_request_that_kills_workers_is_answered(
    balancer: Balanced, start_raw: StartRaw
) -> None:
    """Five were on the first worker with it, and nobody can tell which of them it was: each is tried on a worker where
    no other suspect is, if it has to wait for that."""

    async def answer(worker: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kills = b"poison" in workers[worker].requests[-1]
        there[worker].append(kills)
        if worker == 0:
            if len(there[0]) == 6:
                die(0)
            await asyncio.Event().wait()
        if kills:
            async with asyncio.timeout(10):
                while sum(answered) < 5 and len(there[worker]) == 1:
                    await asyncio.sleep(0.001)
            die(worker)
        elif any(there[worker]):
            await asyncio.Event().wait()  # it dies with the other
        else:
            there[worker].remove(False)
            answered.append(1)
            await OK(reader, writer)

    def die(worker: int) -> None:
        dead.append(worker)
        balancer.push(*(w.spec(state="backoff" if n in dead else "ready") for n, w in enumerate(workers)))

    def on(worker: int) -> RawHandler:
        return lambda reader, writer: answer(worker, reader, writer)

    there: list[list[bool]] = [[], [], []]
    answered: list[int] = []
    dead: list[int] = []
    workers = [await start_raw(on(n), f"instance_{n}") for n in range(3)]
    balancer.push(workers[0].spec())
    asked = [balancer.ask(prompt="poison" if n == 2 else "hello") for n in range(6)]
    statuses = [status for status, _ in await asyncio.gather(*asked)]
    assert statuses == [200, 200, 500, 200, 200, 200]
    assert len(dead) == 2
    assert all(backend.suspects == 0 for backend in balancer.parts.pool.backends.values())


async def test_a_single_worker_is_asked_again(balancer: Balanced, start_raw: StartRaw) -> None:
    asked: list[int] = []

    async def second_time(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(1)
        if len(asked) > 1:
            await OK(reader, writer)

    balancer.push((await start_raw(second_time)).spec())
    assert (await balancer.ask())[0] == 200
    assert len(asked) == 2


@pytest.mark.parametrize("answer", [raw_answer(), raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")])
async def test_what_is_no_generation_is_not_made_again(
    balancer: Balanced, start_raw: StartRaw, answer: RawHandler
) -> None:
    worker = await start_raw(answer)
    balancer.push(worker.spec())
    status, body = await balancer.ask("/v1/responses", background=True)
    assert (status, body["error"]["type"]) == (502, "BadGatewayError")
    assert len(worker.requests) == 1


async def test_an_answer_that_breaks_before_its_first_byte_is_made_again(
    balancer: Balanced, start_raw: StartRaw, start_worker: StartWorker
) -> None:
    head_only = raw_answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\n")
    bad, good = await start_raw(head_only, "instance_0"), await start_worker("instance_1")
    balancer.push(bad.spec(), good.spec())
    assert await balancer.ask() == (200, {"worker": "instance_1"})


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_an_answer_is_an_answer_whatever_its_status(
    balancer: Balanced, start_worker: StartWorker, status: int
) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {}}, status=status)

    worker = await start_worker(answer=refuse)
    balancer.push(worker.spec())
    assert (await balancer.ask())[0] == status
    assert len(worker.seen) == 1
    assert balancer.counts() == (1, int(status >= 500))


async def test_an_error_of_a_worker_does_not_take_it_out(balancer: Balanced, start_worker: StartWorker) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {}}, status=500)

    balancer.push((await start_worker(answer=refuse)).spec())
    for _ in range(5):
        assert (await balancer.ask())[0] == 500
    assert await balancer.answer("GET", "/health") == (200, {"status": "ok", "ready": 1})
