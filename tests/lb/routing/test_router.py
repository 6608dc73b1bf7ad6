"""Who takes a request: a whole balancer between real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from config.topology import STRATEGIES
from fakes import soon
from lbfakes import Balanced, Worker, backend_set, dead, in_time

StartWorker = Callable[..., Awaitable[Worker]]
StartBalancer = Callable[..., Awaitable[Balanced]]


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


async def test_the_largest_body_without_an_answer_is_told(balancer: Balanced, start_worker: StartWorker) -> None:
    go = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await go.wait()
        return web.json_response({})

    balancer.push((await start_worker(answer=answer)).spec())
    asking = [asyncio.ensure_future(balancer.ask(prompt="x" * size)) for size in (10, 5000)]
    await soon(lambda: balancer.in_flight == 2)
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
    await soon(lambda: len(old.seen) == 3)
    balancer.push(new.spec(incarnation=2))
    assert balancer.in_flight == 0
    again = asyncio.ensure_future(balancer.ask())
    await soon(lambda: balancer.in_flight == 1)
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
