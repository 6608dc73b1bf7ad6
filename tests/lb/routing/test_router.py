"""Who takes a request, what is tried again, what is waited for: a whole balancer between real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from config.topology import STRATEGIES
from lb.protocol.errors import AttemptFailed
from lb.protocol.failures import Failure
from lbfakes import (
    Balanced,
    RawHandler,
    RawWorker,
    Worker,
    backend_set,
    closed_port,
    in_time,
    raw_answer,
    spec,
    until,
)

StartWorker = Callable[..., Awaitable[Worker]]
StartRaw = Callable[..., Awaitable[RawWorker]]
StartBalancer = Callable[..., Awaitable[Balanced]]

OK = raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def dead(name: str = "instance_0", **fields: object) -> object:
    """A backend that is said to be ready, but nobody listens on its port."""
    return spec(name, closed_port(), **fields)


# who takes it


async def test_300_requests_over_three_are_100_each(balancer: Balanced, start_worker: StartWorker) -> None:
    workers = [await start_worker(f"instance_{n}") for n in range(3)]
    balancer.push(*(worker.spec() for worker in workers))
    for _ in range(30):
        await asyncio.gather(*(balancer.ask() for _ in range(10)))
    assert [len(worker.seen) for worker in workers] == [100, 100, 100]
    assert [balancer.counts(worker.name) for worker in workers] == [(100, 0)] * 3


async def test_a_model_that_one_worker_has_goes_there(balancer: Balanced, start_worker: StartWorker) -> None:
    one, other = await start_worker("instance_0"), await start_worker("instance_1")
    balancer.push(one.spec(models=("base",)), other.spec(models=("base", "poet")))
    assert [(await balancer.ask(model="poet"))[1]["worker"] for _ in range(4)] == ["instance_1"] * 4


async def test_a_model_that_nobody_has_is_404_in_openais_shape(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    status, answer = await balancer.ask(model="nobody")
    assert (status, answer["error"]["type"], answer["error"]["param"]) == (404, "NotFoundError", "model")
    assert "nobody" in answer["error"]["message"]
    assert worker.seen == []


async def test_a_request_without_a_model_goes_to_anybody(balancer: Balanced, start_worker: StartWorker) -> None:
    balancer.push((await start_worker()).spec())
    assert (await balancer.ask(model=None))[0] == 200


@pytest.mark.parametrize("path", ["/v1/nothing", "/docs", "/sleep", "/v1/%63ompletions", "//v1/completions"])
async def test_a_route_that_is_not_passed_on_is_404(balancer: Balanced, start_worker: StartWorker, path: str) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    answer = await balancer.raw(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"NotFoundError" in answer
    assert worker.seen == []


async def test_a_wrong_method_is_405_and_says_which_are_right(balancer: Balanced) -> None:
    status, answer = await balancer.answer("GET", "/v1/completions")
    assert (status, answer["error"]["type"]) == (405, "MethodNotAllowedError")
    assert "POST" in answer["error"]["message"]


async def test_a_body_that_is_too_big_is_413(start_balancer: StartBalancer, start_worker: StartWorker) -> None:
    balancer, worker = await start_balancer(max_body=1024), await start_worker()
    balancer.push(worker.spec())
    status, answer = await balancer.ask(prompt="x" * 2000)
    assert (status, answer["error"]["type"]) == (413, "RequestTooLargeError")
    assert worker.seen == []


async def test_a_body_with_broken_chunks_is_the_clients_fault(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert (await balancer.raw(head + b"zz\r\nwhat\r\n")).split(b" ")[1] == b"400"
    assert worker.seen == []


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


async def test_the_largest_body_without_an_answer_is_told(balancer: Balanced, start_worker: StartWorker) -> None:
    go = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await go.wait()
        return web.json_response({})

    balancer.push((await start_worker(answer=answer)).spec())
    asking = [asyncio.ensure_future(balancer.ask(prompt="x" * size)) for size in (10, 5000)]
    await until(lambda: balancer.in_flight == 2)
    count, largest = balancer.parts.pool.waiting()["instance_0"]
    assert (count, 5000 < largest < 5200) == (2, True)
    go.set()
    await asyncio.gather(*asking)
    assert balancer.parts.pool.waiting() == {}


async def test_a_stream_that_has_begun_does_not_wait(balancer: Balanced, start_worker: StartWorker) -> None:
    go = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: {}\n\n")
        await go.wait()
        return response

    balancer.push((await start_worker(answer=answer)).spec())
    async with balancer.generate(stream=True) as response:
        await response.content.readany()
        assert (balancer.in_flight, balancer.parts.pool.waiting()) == (1, {})
        go.set()


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
    await until(lambda: balancer.counts()[1])
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


# waiting


async def test_a_request_waits_for_a_worker_to_become_ready(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(state="starting"))
    asking = asyncio.ensure_future(balancer.ask())
    await until(lambda: balancer.metric("clusterctl_queued_requests") == 1)
    balancer.push(worker.spec())
    assert (await asyncio.wait_for(asking, 5))[0] == 200
    assert balancer.metric("clusterctl_queued_requests") == 0


async def test_before_the_first_set_a_request_waits(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    asking = asyncio.ensure_future(balancer.ask())
    await until(lambda: balancer.metric("clusterctl_queued_requests") == 1)
    balancer.push(worker.spec())
    assert (await asyncio.wait_for(asking, 5))[0] == 200


async def test_all_who_wait_are_served(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(state="starting"))
    asking = [asyncio.ensure_future(balancer.ask()) for _ in range(20)]
    await until(lambda: balancer.metric("clusterctl_queued_requests") == 20)
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
        await until(lambda: balancer.metric("clusterctl_queued_requests") == 1)
    await until(lambda: balancer.metric("clusterctl_queued_requests") == 0)


async def test_where_all_have_failed_it_is_503_at_once(balancer: Balanced) -> None:
    balancer.push(spec("instance_0", state="failed"), spec("instance_1", state="failed"))
    status, answer = await asyncio.wait_for(balancer.ask(), 2)
    assert (status, answer["error"]["type"]) == (503, "ServiceUnavailableError")
    assert "failed" in answer["error"]["message"]


async def test_one_who_waits_is_told_when_the_last_one_fails(balancer: Balanced) -> None:
    balancer.push(spec(state="starting"))
    asking = asyncio.ensure_future(balancer.ask())
    await until(lambda: balancer.metric("clusterctl_queued_requests") == 1)
    balancer.push(spec(state="failed"))
    assert (await asyncio.wait_for(asking, 2))[0] == 503


async def test_one_who_waits_is_told_of_the_shutdown(balancer: Balanced) -> None:
    balancer.push(spec(state="starting"))
    asking = asyncio.ensure_future(balancer.ask())
    await until(lambda: balancer.metric("clusterctl_queued_requests") == 1)
    balancer.push(shutting_down=True)
    status, answer = await asyncio.wait_for(asking, 2)
    assert status == 503
    assert "shutting down" in answer["error"]["message"]


# changes while requests run


async def test_a_restarted_worker_starts_at_0_and_old_requests_do_not_make_it_negative(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    go_on, taken = asyncio.Event(), asyncio.Event()

    async def hold(_: web.Request) -> web.StreamResponse:
        taken.set()
        await go_on.wait()
        return web.json_response({})

    old, new = await start_worker("instance_0", hold), await start_worker("instance_0", hold)
    balancer.push(old.spec(incarnation=1))
    asking = [asyncio.ensure_future(balancer.ask("/v1/responses", background=True)) for _ in range(3)]
    await until(lambda: len(old.seen) == 3)
    balancer.push(new.spec(incarnation=2))
    assert balancer.in_flight == 0
    again = asyncio.ensure_future(balancer.ask())
    await until(lambda: balancer.in_flight == 1)
    assert [(await one)[0] for one in asking] == [502] * 3
    assert balancer.in_flight == 1
    go_on.set()
    assert (await again)[0] == 200
    assert balancer.in_flight == 0


async def test_a_switch_of_strategies_drops_nothing(balancer: Balanced, start_worker: StartWorker) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(5):
            await response.write(b"x")
            await asyncio.sleep(0)
        return response

    workers = [await start_worker(f"instance_{n}", slow) for n in range(3)]

    async def ask() -> tuple[int, bytes]:
        async with balancer.generate() as response:
            return response.status, await response.read()

    asking = []
    for name in STRATEGIES * 3:
        balancer.push(*(worker.spec() for worker in workers), strategy=name)
        asking += [asyncio.ensure_future(ask()) for _ in range(5)]
        await asyncio.sleep(0)
    assert Counter(await asyncio.gather(*asking)) == {(200, b"xxxxx"): 5 * 3 * len(STRATEGIES)}
    assert balancer.in_flight == 0


async def test_a_switch_is_in_force_for_the_next_request(balancer: Balanced, start_worker: StartWorker) -> None:
    heavy, light = await start_worker("instance_0"), await start_worker("instance_1")
    balancer.push(heavy.spec(weight=4), light.spec(), strategy="round_robin")
    await asyncio.gather(*(balancer.ask() for _ in range(10)))
    assert (len(heavy.seen), len(light.seen)) == (5, 5)
    balancer.push(heavy.spec(weight=4), light.spec(), strategy="weighted")
    await asyncio.gather(*(balancer.ask() for _ in range(10)))
    assert (len(heavy.seen), len(light.seen)) == (13, 7)


# answers that a worker keeps in memory


async def make_response(request: web.Request) -> web.StreamResponse:
    return web.json_response({"id": "resp_1", "path": request.path})


async def test_a_response_is_read_where_it_was_made(balancer: Balanced, start_worker: StartWorker) -> None:
    workers = [await start_worker(f"instance_{n}", make_response) for n in range(3)]
    balancer.push(*(worker.spec() for worker in workers))
    await balancer.ask("/v1/responses")
    maker = next(worker for worker in workers if worker.seen)
    for _ in range(3):
        assert (await balancer.answer("GET", "/v1/responses/resp_1"))[0] == 200
    assert (await balancer.ask("/v1/responses/resp_1/cancel"))[0] == 200
    assert (await balancer.ask("/v1/responses", previous_response_id="resp_1"))[0] == 200
    assert [len(worker.seen) for worker in workers if worker is not maker] == [0, 0]


async def test_an_unknown_response_is_404(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    assert (await balancer.answer("GET", "/v1/responses/resp_9"))[0] == 404
    assert (await balancer.ask("/v1/responses", previous_response_id="resp_9"))[0] == 404
    assert {(seen.method, seen.target) for seen in worker.seen} == {("GET", "/v1/responses/resp_9")}  # asked by us


async def test_a_response_that_an_earlier_balancer_made_is_found_at_its_worker(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    async def knows(request: web.Request) -> web.StreamResponse:
        return web.json_response({"id": "resp_7", "path": request.path})

    other, maker = await start_worker("instance_0"), await start_worker("instance_1", knows)
    balancer.push(other.spec(), maker.spec())
    answer = await balancer.answer("POST", "/v1/responses/resp_7/cancel")
    assert answer == (200, {"id": "resp_7", "path": "/v1/responses/resp_7/cancel"})
    assert [seen.target for seen in other.seen] == ["/v1/responses/resp_7"]


async def test_a_response_is_lost_with_its_worker(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker(answer=make_response)
    balancer.push(worker.spec(incarnation=1))
    await balancer.ask("/v1/responses")
    balancer.push(worker.spec(incarnation=2))
    assert (await balancer.answer("GET", "/v1/responses/resp_1"))[0] == 404


async def test_a_response_whose_worker_cannot_be_connected_to_is_not_asked_for_without_end(
    start_balancer: StartBalancer, start_worker: StartWorker
) -> None:
    balancer, worker = await start_balancer(queue_timeout=0.2), await start_worker(answer=make_response)
    balancer.push(worker.spec())
    await balancer.ask("/v1/responses")
    balancer.push(dead("instance_0"))
    asking = asyncio.ensure_future(balancer.answer("GET", "/v1/responses/resp_1"))
    done, _ = await asyncio.wait([asking], timeout=2)
    asking.cancel()
    assert done, f"it was tried {balancer.counts()[1]} times"
    assert (await asking)[0] == 503
    assert balancer.counts()[1] < 10


async def test_a_workers_own_key_is_sent_and_the_clients_is_not(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(api_key="worker-key"))
    await balancer.answer("GET", "/version", headers={"Authorization": "Bearer client-key"})
    assert worker.seen[0].headers.getall("Authorization") == ["Bearer worker-key"]


async def test_a_set_from_json_serves(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    sent = backend_set(worker.spec(host="worker.invalid"), revision=1)
    assert balancer.parts.pool.apply(type(sent).from_json(sent.to_json()))
    assert (await balancer.ask())[0] == 200


async def test_a_held_request_does_not_hold_the_others(balancer: Balanced, start_worker: StartWorker) -> None:
    taken, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_: web.Request) -> web.StreamResponse:
        taken.set()
        await go_on.wait()
        return web.json_response({})

    slow, quick = await start_worker("instance_0", hold), await start_worker("instance_1")
    balancer.push(slow.spec(), quick.spec(), strategy="least_connections")
    held = asyncio.ensure_future(balancer.ask())
    await in_time(taken)
    assert [(await balancer.ask())[1] for _ in range(5)] == [{"worker": "instance_1"}] * 5
    go_on.set()
    assert (await held)[0] == 200
