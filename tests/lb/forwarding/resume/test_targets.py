"""Where a broken stream can go on, and from what."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from brokenengines import CHAT, COMPLETION, Engine, Engines, ask, undisturbed, without_names
from config.topology import BackendSpec
from fakes import soon
from lbfakes import Balanced
from simstreams import CONTEXT, seen


async def test_it_goes_on_where_the_same_version_of_the_adapter_is(balancer: Balanced, engines: Engines) -> None:
    def card(version: str) -> tuple[dict[str, Any], ...]:
        return ({"id": "base", "root": version, "max_model_len": CONTEXT},)

    def at(engine: Engine, version: str, **fields: Any) -> BackendSpec:
        made = engine.spec(**fields)
        return BackendSpec(**{**{n: getattr(made, n) for n in made.__slots__}, "models": card(version)})

    workers = await engines(3, (9, "stall"))
    waiting = [at(workers[1], "v2", state="unhealthy"), at(workers[2], "v1", state="unhealthy")]
    balancer.push(at(workers[0], "v1"), *waiting)
    asking = asyncio.create_task(ask(balancer, CHAT))
    await workers[0].stalled.wait()
    await soon(lambda: balancer.parts.pool.backends["instance_0"].in_flight == 1)
    balancer.push(at(workers[1], "v2"), at(workers[2], "v1"))
    assert without_names(seen((await asking)[1])) == without_names(undisturbed(CHAT))
    assert [len(worker.asked) for worker in workers] == [1, 0, 1]
    workers[0].gone.set()


async def test_before_it_has_begun_any_version_will_do_and_then_the_one_it_began_with(
    balancer: Balanced, engines: Engines
) -> None:
    """As in a rolling update of an adapter."""
    workers = await engines(4, (0, "close"), (9, "stall"))
    versions = ("v1", "v2", "v1", "v2")

    def push(*states: str) -> None:
        specs = [w.spec(state=state, weight=w is not workers[1]) for w, state in zip(workers, states, strict=True)]
        cards = [({"id": "base", "root": version, "max_model_len": CONTEXT},) for version in versions]
        balancer.push(*(replace(one, models=models) for one, models in zip(specs, cards, strict=True)))

    push("ready", "ready", "unhealthy", "unhealthy")
    asking = asyncio.create_task(ask(balancer, CHAT))
    await workers[1].stalled.wait()
    await soon(lambda: balancer.parts.pool.backends["instance_1"].in_flight == 1)
    push("ready", "backoff", "ready", "ready")
    assert without_names(seen((await asking)[1])) == without_names(undisturbed(CHAT))
    assert [len(worker.asked) for worker in workers] == [1, 1, 0, 1]
    workers[1].gone.set()


@pytest.mark.parametrize(("body", "limit"), [
    (CHAT, 25), ({**CHAT, "max_tokens": None}, 25), ({**CHAT, "max_tokens": None}, 16), (COMPLETION, 25),
])  # fmt: skip
async def test_a_limit_that_the_engine_sets_itself_counts_from_the_beginning(
    balancer: Balanced, engines: Engines, body: dict[str, Any], limit: int
) -> None:
    """Of the model's `generation_config.json` or a flag: the request does not have it, the engine knows it."""
    workers = await engines(2, (9, "close"), (3, "close"))
    sampling = {"temperature": 0.0, **({} if limit == 16 else {"max_tokens": limit})}
    for worker in workers:
        worker.rendered = {"sampling_params": sampling, "reasoning_parser_kwargs": None, "reasoning_ended": None}
    # The worker it begins on has that limit too; it is only asked for nothing of the kind.
    raw = seen((await ask(balancer, body))[1])
    assert without_names(raw) == without_names(undisturbed({**body, "max_tokens": limit}))


@pytest.mark.parametrize("rendered", [
    {"sampling_params": {"skip_special_tokens": False}}, {"sampling_params": {"spaces_between_special_tokens": False}},
    {"sampling_params": {}, "reasoning_parser_kwargs": {"chat_template_kwargs": {}}, "reasoning_ended": False},
    {"sampling_params": {"structured_outputs": {"json": "{}"}}},
])  # fmt: skip
async def test_what_a_parser_of_the_engines_reads_is_not_continued_as_text(
    balancer: Balanced, engines: Engines, rendered: dict[str, Any]
) -> None:
    workers = await engines(2, (9, "close"))
    for worker in workers:
        worker.rendered = rendered
    data = json.dumps(CHAT).encode()
    async with balancer.connection() as (reader, writer):
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(data) + data)
        raw = await asyncio.wait_for(reader.read(), 5)
    assert b'data: {"error"' in raw
    assert b"parser of its worker" in raw or b"guided" in raw
    assert b"[DONE]" not in raw
    assert sum(len(worker.asked) for worker in workers) == 1


async def test_a_chat_whose_reasoning_is_over_in_its_prompt_goes_on(balancer: Balanced, engines: Engines) -> None:
    workers = await engines(2, (9, "close"))
    for worker in workers:
        sampling = {"max_tokens": 40, "temperature": 0.0}
        worker.rendered = {"sampling_params": sampling, "reasoning_parser_kwargs": {}, "reasoning_ended": True}
    assert without_names(seen((await ask(balancer, CHAT))[1])) == without_names(undisturbed(CHAT))
