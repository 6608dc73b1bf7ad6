"""Engines that die under API servers that go on to answer 500 for a moment: who was there loses nothing, but for the
one that kills whoever takes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from config.topology import BackendSpec
from fakes import soon
from lbfakes import Balanced, running_worker, spec
from simstreams import CONTEXT, seen, stream
from stubengines import CLOSE, DEATH, ENGINE_DIES, Fault, Stub, answer, chunk, engine_dies_after, error, start
from worker.sim.engine import tokens

pytestmark = pytest.mark.processes

StartBalancer = Callable[..., Awaitable[Balanced]]

STREAM: dict[str, Any] = {
    "model": "base", "stream": True, "max_tokens": 40, "temperature": 0, "ignore_eos": True, "prompt": "hello",
}  # fmt: skip
PLAIN = {"model": "base", "prompt": "hello"}
WORDS = b"EngineCore encountered an issue"


async def ask(balancer: Balanced, body: dict[str, Any], path: str = "/v1/completions") -> tuple[int, bytes]:
    async with balancer.request("POST", path, json=body) as response:
        return response.status, await response.read()


def whole(got: tuple[int, bytes]) -> bool:
    status, raw = got
    if status != 200 or b'"error"' in raw:
        return False
    if raw.startswith(b"{"):
        return bool(json.loads(raw)["choices"])
    found, right = seen(raw), seen(b"".join(stream(STREAM, False)))
    return len(found.pop("heads")) == 1 and bool(right.pop("heads")) and found == right


def dying(balancer: Balanced, name: str) -> bool:
    shared = balancer.parts.shared
    return shared.pool.backends[name].ejection.dying(shared.clock())


@pytest.mark.parametrize("body", [STREAM, PLAIN], ids=["stream", "plain"])
async def test_its_500_is_nobodys_answer_and_it_is_not_asked_again(
    balancer: Balanced, stack: AsyncExitStack, body: dict[str, Any]
) -> None:
    first, second = await start(stack, Stub("instance_0", always=ENGINE_DIES), Stub("instance_1"))
    balancer.push(first.spec(), second.spec())
    assert all([whole(await ask(balancer, body)) for _ in range(4)])
    assert (len(first.asked), len(second.asked)) == (1, 4)
    assert balancer.metric("clusterctl_attempt_failures_total", instance="instance_0", cause="engine") == 1
    assert balancer.metric("clusterctl_ejections_total", instance="instance_0") == 1


@pytest.mark.parametrize("body", [STREAM, PLAIN], ids=["stream", "plain"])
async def test_where_nobody_else_is_left_it_is_waited_for_its_next_life(
    balancer: Balanced, stack: AsyncExitStack, body: dict[str, Any]
) -> None:
    old, new = await start(stack, Stub("instance_0", always=ENGINE_DIES), Stub("instance_0"))
    balancer.push(old.spec())
    asking = [asyncio.create_task(ask(balancer, body)) for _ in range(3)]
    await soon(lambda: dying(balancer, "instance_0") and balancer.in_flight == 0)
    balancer.push(old.spec(state="unhealthy"))
    balancer.push(old.spec(state="backoff"))
    asked = len(old.asked)
    balancer.push(new.spec(incarnation=2))
    assert all(map(whole, await asyncio.gather(*asking)))
    assert asked == len(old.asked) <= 3


async def test_the_budget_of_repetitions_is_not_for_what_a_dead_engine_leaves(
    balancer: Balanced, stack: AsyncExitStack
) -> None:
    budget, now = balancer.parts.shared.budget, balancer.parts.shared.clock()
    while budget.take(now):
        pass
    taken = budget.under_way
    first, second = await start(stack, Stub("instance_0", always=ENGINE_DIES), Stub("instance_1"))
    balancer.push(first.spec(), second.spec())
    assert whole(await ask(balancer, PLAIN))
    assert (len(first.asked), len(second.asked)) == (1, 1)
    assert budget.under_way == taken


async def test_an_excluded_worker_is_not_asked_again_while_it_is_dying(
    balancer: Balanced, stack: AsyncExitStack
) -> None:
    """Its only other worker fails too; before, the request went back to who had said that it was dying."""
    first, second = await start(
        stack, Stub("instance_0", always=ENGINE_DIES), Stub("instance_1", [Fault(b"", end=CLOSE)])
    )
    balancer.push(first.spec(), second.spec())
    assert whole(await ask(balancer, PLAIN))
    assert (len(first.asked), len(second.asked)) == (1, 2)


async def test_a_stream_that_outlives_its_engine_has_not_been_moved(
    start_balancer: StartBalancer, stack: AsyncExitStack
) -> None:
    """Three engines die under it, and one worker breaks it off: of the moves that it may have only that one counts."""
    balancer = await start_balancer(migration_limit=1)
    plans = [engine_dies_after(9), Fault(events=3, end=CLOSE), Fault()]
    stubs = await start(stack, *(Stub(f"instance_{n}", [plan]) for n, plan in enumerate(plans)))
    balancer.push(*(stub.spec() for stub in stubs))
    assert whole(await ask(balancer, STREAM))
    assert [len(stub.asked) for stub in stubs] == [1, 1, 1]
    assert balancer.metric("clusterctl_streams_moved_total", instance="instance_0", cause="engine", way="tokens") == 1


async def test_a_stream_under_which_every_engine_dies_ends(
    start_balancer: StartBalancer, stack: AsyncExitStack
) -> None:
    """Though it gets tokens from each: it may be what kills them."""
    balancer = await start_balancer(migration_limit=2)
    stubs = await start(stack, *(Stub(f"instance_{n}", always=engine_dies_after(9)) for n in range(5)))
    balancer.push(*(stub.spec() for stub in stubs))
    async with balancer.request("POST", "/v1/completions", json={**STREAM, "stream": True}) as response:
        with pytest.raises(aiohttp.ClientError):
            while data := await response.content.readany():
                assert b"[DONE]" not in data
    assert 2 <= sum(len(stub.asked) for stub in stubs) <= 3


async def test_who_goes_on_with_a_stream_may_have_died_as_well(balancer: Balanced, stack: AsyncExitStack) -> None:
    first, second, third = await start(
        stack, Stub("instance_0", [Fault(events=9, end=CLOSE)]), Stub("instance_1", always=ENGINE_DIES),
        Stub("instance_2"),
    )  # fmt: skip
    balancer.push(first.spec(), second.spec(), third.spec())
    assert whole(await ask(balancer, STREAM))
    assert dying(balancer, "instance_1")
    assert [path for path, _ in third.asked] == ["/v1/completions"]


@pytest.mark.parametrize("message", [
    f"cannot parse prompt: {WORDS.decode()}. See stack trace", "EngineCore is well", {"text": WORDS.decode()}, None,
])  # fmt: skip
async def test_words_that_a_request_brought_eject_nobody(
    balancer: Balanced, stack: AsyncExitStack, message: object
) -> None:
    quoted = Fault(answer(500, {"error": {"message": message, "type": "InternalServerError", "code": 500}}))
    first, second = await start(stack, Stub("instance_0", [quoted]), Stub("instance_1"))
    balancer.push(first.spec(), second.spec())
    assert whole(await ask(balancer, PLAIN))
    assert not dying(balancer, "instance_0")


async def test_a_500_of_another_kind_is_the_answer_where_nobody_else_is(
    balancer: Balanced, stack: AsyncExitStack
) -> None:
    (only,) = await start(stack, Stub("instance_0", always=Fault(error(500, "a bug"))))
    balancer.push(only.spec())
    status, got = await ask(balancer, PLAIN)
    assert (status, json.loads(got)["error"]["message"]) == (500, "a bug")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_streams_that_nobody_reads_along_are_made_again_as_long_as_they_are_errors_only(
    balancer: Balanced, stack: AsyncExitStack, path: str
) -> None:
    """vLLM's Messages API says it in the words of a validation error."""
    said = (
        b'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"1 validation error for '
        b'ChatCompletionStreamResponse: input_value={\'error\': {\'message\': \'EngineCore encountered"}}\n\n'
    )
    first, second = await start(stack, Stub("instance_0", [Fault(events=0, extra=chunk(said))]), Stub("instance_1"))
    balancer.push(first.spec(), second.spec())
    status, got = await ask(balancer, STREAM, path)
    assert status == 200
    assert b"event: error" not in got
    assert (len(first.asked), len(second.asked)) == (1, 1)


class Engine:
    """A worker whose engine can be killed: all that is under way there is told so, and all that comes later."""

    def __init__(self, name: str) -> None:
        self.name, self.port = name, 0
        self.dead = asyncio.Event()
        self.asked: list[str] = []

    def spec(self, **fields: Any) -> BackendSpec:
        made = spec(self.name, self.port, **fields)
        cards = tuple({**card, "max_model_len": CONTEXT} for card in made.models)
        return BackendSpec(**{**{name: getattr(made, name) for name in made.__slots__}, "models": cards})

    async def handle(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        body = await request.json()
        if request.path == "/detokenize":
            return aiohttp.web.json_response({"prompt": tokens.decode(body["tokens"], special=True)})
        self.asked.append(str(body["prompt"]))
        if not body.get("stream"):
            return await self._plain(body)
        response = aiohttp.web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in stream(body, False, name=self.name):
            if await self._dies_within(0.02):
                event = DEATH.event().encode() + b"data: [DONE]\n\n"
            await response.write(event)
            if self.dead.is_set():
                break
        return response

    async def _plain(self, body: dict[str, Any]) -> aiohttp.web.StreamResponse:
        if "poison" in body["prompt"]:
            await asyncio.sleep(0.05)
            self.dead.set()
        if await self._dies_within(0.6):
            return aiohttp.web.json_response(DEATH.body(), status=500)
        return aiohttp.web.json_response({"choices": [{"finish_reason": "stop"}], "worker": self.name})

    async def _dies_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self.dead.wait(), seconds)
        except TimeoutError:
            return False
        return True


@pytest.fixture
def engines(stack: AsyncExitStack) -> Callable[..., Awaitable[list[Engine]]]:
    async def make(*names: str) -> list[Engine]:
        made = [Engine(name) for name in names]
        for engine in made:
            engine.port = (await stack.enter_async_context(running_worker(engine.name, engine.handle))).port
        return made

    return make


Engines = Callable[..., Awaitable[list[Engine]]]
BOTH = ("instance_0", "instance_1")


async def test_poison_is_told_after_two_engines_and_those_beside_it_lose_nothing(
    start_balancer: StartBalancer, engines: Engines
) -> None:
    balancer = await start_balancer(queue_timeout=20)
    old, new = await engines(*BOTH), await engines(*BOTH)
    balancer.push(*(engine.spec() for engine in old))
    innocent = [asyncio.create_task(ask(balancer, STREAM)) for _ in range(4)]
    innocent += [asyncio.create_task(ask(balancer, PLAIN)) for _ in range(2)]
    await soon(lambda: balancer.in_flight == 6)
    poison = asyncio.create_task(ask(balancer, {**PLAIN, "prompt": "poison"}))
    await soon(lambda: all(dying(balancer, name) for name in BOTH))
    status, got = await poison
    assert status == 500
    assert b"2 workers have died while they worked on this request" in got
    assert WORDS not in got
    balancer.push(*(engine.spec(incarnation=2) for engine in new))
    assert all(map(whole, await asyncio.gather(*innocent)))
    assert "poison" not in [prompt for engine in new for prompt in engine.asked]


@pytest.mark.parametrize("body", [STREAM, PLAIN], ids=["streams", "plain"])
async def test_engines_of_both_that_are_killed_one_after_the_other_cost_nothing(
    start_balancer: StartBalancer, engines: Engines, body: dict[str, Any]
) -> None:
    balancer = await start_balancer(queue_timeout=20)
    old, new = await engines(*BOTH), await engines(*BOTH)
    balancer.push(*(engine.spec() for engine in old))
    asking = [asyncio.create_task(ask(balancer, body)) for _ in range(4)]
    await soon(lambda: all(len(engine.asked) == 2 for engine in old))
    await asyncio.sleep(0.1)  # into the streams
    old[0].dead.set()
    await asyncio.sleep(0.3)  # what is tried: those of the first are on their way to the second when it dies
    old[1].dead.set()
    await soon(lambda: all(dying(balancer, name) for name in BOTH))
    balancer.push(*(engine.spec(state="backoff") for engine in old))
    balancer.push(*(engine.spec(incarnation=2) for engine in new))
    assert all(map(whole, await asyncio.gather(*asking)))
