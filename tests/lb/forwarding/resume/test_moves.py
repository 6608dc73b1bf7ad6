"""Streams whose worker goes wrong in every way we know: clients see the undisturbed answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from brokenengines import CHAT, COMPLETION, Engine, Engines, StartRaw, ask, ask_raw, undisturbed, without_names
from config.topology import Capabilities
from fakes import soon
from lbfakes import Balanced
from simstreams import seen, stream

FAULTS = ["close", "reset", "half", "error", "abort", "done", "end", "garbage", "nonsense"]


@pytest.mark.usefixtures("nobody_says_who_died")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("body", [CHAT, COMPLETION], ids=["chat", "completion"])
async def test_a_stream_outlives_what_its_worker_does(
    balancer: Balanced, engines: Engines, body: dict[str, Any], fault: str
) -> None:
    """After the role, after the first token, in the middle, and shortly before the end; twice in one stream."""
    workers = await engines(3)
    for number, after in enumerate((1, 2, 17, 37), 1):
        workers[0].plan[:] = [(after, fault), (1, fault)]
        status, raw = await ask(balancer, body)
        assert status == 200
        assert without_names(seen(raw)) == without_names(undisturbed({**body, "model": "base"}))
        assert sum(len(worker.asked) for worker in workers) == 3 * number
    await soon(lambda: balancer.in_flight == 0)
    moved = balancer.parts.shared.metrics.render()
    assert "clusterctl_streams_moved_total" in moved
    assert "clusterctl_streams_broken_total{" not in moved


@pytest.mark.parametrize("spelling", [
    {"stream": 1}, {"stream": "true"}, {"stream": "On", "n": "1", "max_tokens": "30", "temperature": "0"},
    {"max_tokens": 30.0, "stream_options": {"include_usage": "false"}, "return_token_ids": 1},
])  # fmt: skip
@pytest.mark.parametrize("body", [CHAT, COMPLETION], ids=["chat", "completion"])
async def test_a_stream_outlives_its_worker_however_it_is_asked_for(
    balancer: Balanced, engines: Engines, body: dict[str, Any], spelling: dict[str, Any]
) -> None:
    body = {**body, **spelling}
    workers = await engines(2, (9, "close"))
    assert without_names(seen((await ask(balancer, body))[1])) == without_names(undisturbed(body))
    assert sum(len(worker.asked) for worker in workers) == 2


@pytest.mark.parametrize("body", [CHAT, COMPLETION], ids=["chat", "completion"])
async def test_a_stream_whose_end_alone_is_missing_gets_it(
    balancer: Balanced, engines: Engines, body: dict[str, Any]
) -> None:
    length = len(stream(body, "messages" in body))
    workers = await engines(2, (length - 2, "close"))
    assert without_names(seen((await ask(balancer, body))[1])) == without_names(undisturbed(body))
    assert sum(len(worker.asked) for worker in workers) == 1


@pytest.mark.usefixtures("nobody_says_who_died")
async def test_a_stream_moves_so_often_and_no_more(balancer: Balanced, engines: Engines) -> None:
    workers = await engines(3, *[(5, "error")] * 9)
    _, raw = await ask_raw(balancer, COMPLETION)
    assert sum(len(worker.asked) for worker in workers) == 4
    assert raw.count(b'data: {"error"') == 1
    assert b"it was moved 3 times before" in raw
    assert b"[DONE]" not in raw


@pytest.mark.parametrize("unable", [Capabilities(token_ids=False), Capabilities(detokenize=False)])
async def test_it_goes_on_only_where_the_engine_goes_on_from_tokens(
    balancer: Balanced, engines: Engines, unable: Capabilities
) -> None:
    workers = await engines(3, (9, "stall"))
    balancer.push(workers[0].spec(), *(worker.spec(state="unhealthy") for worker in workers[1:]))
    asking = asyncio.create_task(ask(balancer, COMPLETION), name="ask")
    await workers[0].stalled.wait()
    await soon(lambda: balancer.parts.pool.backends["instance_0"].in_flight == 1)
    balancer.push(workers[1].spec(capabilities=unable), workers[2].spec())
    assert without_names(seen((await asking)[1])) == without_names(undisturbed(COMPLETION))
    assert [len(worker.asked) for worker in workers] == [1, 0, 1]
    workers[0].gone.set()


async def test_where_no_engine_goes_on_from_tokens_the_stream_says_so(balancer: Balanced, engines: Engines) -> None:
    workers = await engines(3, (9, "close"), capabilities=Capabilities(token_ids=False))
    _, raw = await ask_raw(balancer, COMPLETION)
    assert b"no engine here goes on from tokens" in raw and b"[DONE]" not in raw
    assert sum(len(worker.asked) for worker in workers) == 1


async def test_a_worker_that_is_lost_loses_its_streams_to_others(balancer: Balanced, engines: Engines) -> None:
    workers = await engines(2, (9, "stall"))
    asking = asyncio.create_task(ask(balancer, CHAT))
    await workers[0].stalled.wait()
    await soon(lambda: balancer.parts.pool.backends["instance_0"].in_flight == 1)
    balancer.push(workers[0].spec(state="stopping"), workers[1].spec())
    assert without_names(seen((await asking)[1])) == without_names(undisturbed(CHAT))
    assert balancer.metric("clusterctl_streams_moved_total", instance="instance_0", cause="evicted", way="tokens") == 1
    workers[0].gone.set()


async def test_the_last_of_several_that_lose_their_worker_was_not_alone_there(
    balancer: Balanced, engines: Engines
) -> None:
    """They are told one after the other. On the second worker neither gets a token: one death for each, and not two."""
    first, second, third = await engines(3, *[(9, "stall")] * 2, *[(0, "stall")] * 2)
    balancer.push(first.spec())
    asking = [asyncio.create_task(ask(balancer, CHAT)) for _ in range(2)]
    await soon(lambda: len(first.asked) == 2 and first.stalled.is_set())
    await soon(lambda: balancer.metric("clusterctl_model_time_to_first_token_seconds_count", model=CHAT["model"]) == 2)
    balancer.push(first.spec(state="backoff"), second.spec())
    await soon(lambda: len(second.asked) == 2 and balancer.parts.pool.backends["instance_1"].in_flight == 2)
    balancer.push(first.spec(state="backoff"), second.spec(state="backoff"), third.spec())
    for answer in await asyncio.gather(*asking):
        assert without_names(seen(answer[1])) == without_names(undisturbed(CHAT))
    first.gone.set()
    second.gone.set()


async def test_streams_that_had_begun_are_not_blamed_for_workers_that_die_before_they_go_on(
    balancer: Balanced, engines: Engines
) -> None:
    """What kills by being read never begins: two more deaths in a row are somebody else's fault."""
    workers = await engines(4, *[(9, "stall")] * 2, *[(0, "stall")] * 4)
    balancer.push(workers[0].spec())
    asking = [asyncio.create_task(ask(balancer, CHAT)) for _ in range(2)]
    await soon(lambda: len(workers[0].asked) == 2 and workers[0].stalled.is_set())
    await soon(lambda: balancer.metric("clusterctl_model_time_to_first_token_seconds_count", model=CHAT["model"]) == 2)
    for number, worker in enumerate(workers[1:], 1):
        balancer.push(*(dead.spec(state="backoff") for dead in workers[:number]), worker.spec())
        if worker is not workers[-1]:
            await soon(lambda w=worker: len(w.asked) == 2)  # type: ignore[misc]
            await soon(lambda w=worker: balancer.parts.pool.backends[w.name].in_flight == 2)  # type: ignore[misc]
    for answer in await asyncio.gather(*asking):
        assert without_names(seen(answer[1])) == without_names(undisturbed(CHAT))
    for worker in workers:
        worker.gone.set()


async def test_a_stream_that_stands_still_is_taken_elsewhere(
    start_balancer: Callable[..., Awaitable[Balanced]], start_raw: StartRaw
) -> None:
    balancer = await start_balancer(stall_timeout=0.3)
    plan = [(9, "stall")]
    workers = [Engine("instance_0", plan), Engine("instance_1", plan)]
    for engine in workers:
        engine.worker = await start_raw(engine.answer, engine.name)
    balancer.push(*(engine.spec() for engine in workers))
    assert without_names(seen((await ask(balancer, CHAT))[1])) == without_names(undisturbed(CHAT))
    assert balancer.metric("clusterctl_streams_stalled_total", instance="instance_0") == 1
    workers[0].gone.set()


async def test_it_waits_for_a_worker_if_there_is_none(balancer: Balanced, engines: Engines) -> None:
    (worker,) = await engines(1, (9, "stall"))
    asking = asyncio.create_task(ask(balancer, CHAT))
    await worker.stalled.wait()
    await soon(lambda: balancer.parts.pool.backends["instance_0"].in_flight == 1)
    balancer.push(worker.spec(state="backoff"))
    await soon(lambda: b"clusterctl_queued_requests 1.0" in balancer.parts.shared.metrics.render().encode())
    worker.gone.set()
    balancer.push(worker.spec(incarnation=2))
    assert without_names(seen((await asking)[1])) == without_names(undisturbed(CHAT))
