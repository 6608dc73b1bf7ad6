"""What a strategy that learns is told: a whole balancer with such a one in the place of another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiohttp import web

from lb.routing.backend import Backend
from lb.routing.learning import Rates
from lb.routing.strategies.adaptive import Adaptive
from lb.routing.strategies.base import AttemptOutcome, Choice, Feature, Features, Strategy
from lb.routing.strategies.registry import STRATEGIES
from lbfakes import Balanced, RawWorker, Worker, raw_answer, spec

StartWorker = Callable[..., Awaitable[Worker]]
StartRaw = Callable[..., Awaitable[RawWorker]]


class Learning(Strategy):
    rule = "the last one"
    needs = frozenset(Feature)
    outcomes: list[AttemptOutcome]
    there: list[tuple[str, int]]
    told: list[Features]

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        self.told.append(features)
        return candidates[-1], None

    def observe(self, outcome: AttemptOutcome) -> None:
        self.outcomes.append(outcome)

    def joined(self, backend: Backend) -> None:
        self.there.append(backend.key)

    def left(self, backend: Backend) -> None:
        self.there.remove(backend.key)


Learning.name = "random"


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> type[Learning]:
    monkeypatch.setitem(STRATEGIES, "random", Learning)
    Learning.outcomes, Learning.there, Learning.told = [], [], []
    return Learning


async def test_a_single_candidate_is_observed_too(
    learning: type[Learning], balancer: Balanced, start_worker: StartWorker
) -> None:
    balancer.push((await start_worker()).spec(models=("base", "poet")), strategy="random", registered=({"id": "poet"},))
    await balancer.ask(model="poet", user="u1")
    await balancer.ask(model="poet", user="u1")
    await balancer.ask(stream=True, chunks=3, prompt="another")
    one, two, stream = learning.outcomes
    assert learning.told == []  # there was nothing to choose
    assert (one.backend, one.status, one.cause) == (("instance_0", 1), 200, "")
    assert one.first_byte is not None and 0 < one.first_byte <= one.seconds < 30
    assert one.features == two.features
    assert (one.features.adapter, one.features.session) == ("poet", "u1")
    assert (stream.features.adapter, stream.features.session) == (None, None)
    assert stream.features.prompt not in (None, one.features.prompt)


async def test_failed_attempts_are_observed_with_their_cause(
    learning: type[Learning], balancer: Balanced, start_worker: StartWorker, start_raw: StartRaw
) -> None:
    good, bad = await start_worker("instance_0"), await start_raw(raw_answer(b"HTTP/1.1 200 O"), "instance_1")
    balancer.push(good.spec(), bad.spec(), strategy="random")
    assert (await balancer.ask())[0] == 200
    assert [(o.backend[0], o.status, o.cause) for o in learning.outcomes] == [
        ("instance_1", 0, "broken"), ("instance_0", 200, ""),
    ]  # fmt: skip
    assert len(learning.told) == 1


async def test_it_hears_who_comes_and_goes_by_incarnation(learning: type[Learning], balancer: Balanced) -> None:
    balancer.push(spec("instance_0", 1), spec("instance_1", 2), strategy="random")
    assert sorted(learning.there) == [("instance_0", 1), ("instance_1", 1)]
    balancer.push(spec("instance_1", 2, incarnation=2), spec("instance_2", 3), strategy="random")
    assert sorted(learning.there) == [("instance_1", 2), ("instance_2", 1)]
    balancer.push(spec("instance_2", 3), strategy="round_robin")
    learning.there.clear()
    balancer.push(spec("instance_2", 3), strategy="random")
    assert learning.there == [("instance_2", 1)]  # a new one is told of all that are there


async def test_nothing_is_looked_up_or_told_where_a_strategy_wants_nothing(
    balancer: Balanced, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lb.forwarding.features.of", None)
    monkeypatch.setattr(balancer.parts.shared.router, "observe", None)
    balancer.push((await start_worker()).spec())
    assert (await balancer.ask())[0] == 200


async def test_adaptive_hears_of_every_attempt_and_keeps_its_books(
    balancer: Balanced, start_worker: StartWorker, start_raw: StartRaw
) -> None:
    """Answers that come whole, streams, attempts that come to nothing: what it counts is nothing again in the end."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if b'"stream": true' not in await request.read():
            return web.json_response({})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in (b'data: {"choices": [{"text": "a", "index": 0, "finish_reason": "stop"}]}', b"data: [DONE]"):
            await response.write(event + b"\n\n")
            await asyncio.sleep(0.005)
        return response

    good, bad = await start_worker("instance_0", answer), await start_raw(raw_answer(b"HTTP/1.1 200 O"), "instance_1")
    served: dict[str, Any] = {"models": ("base", "poet", "cook"), "slots": 2, "places": 4}
    balancer.push(
        good.spec(**served), bad.spec(**served), strategy="adaptive", registered=({"id": "poet"}, {"id": "cook"})
    )
    for model in ("base", "poet", "cook") * 3:
        assert (await balancer.ask(model=model, prompt="word " * 4000))[0] == 200
        async with balancer.generate(model=model, stream=True, prompt="word " * 4000) as response:
            assert response.status == 200 and (await response.read()).endswith(b"data: [DONE]\n\n")
    strategy = balancer.parts.shared.router._all[0]
    assert isinstance(strategy, Adaptive) and not strategy._open
    for view in strategy._views.values():
        assert (view.backlog, view.active, view.top) == (0, {}, 0)
    view = strategy._views["instance_0", 1]
    assert len(view.prefixes) == 3 * (len("word ") * 4000 // 2048)  # of each model its own
    assert view.rates.decode.value < Rates().decode.value
