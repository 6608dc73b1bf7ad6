"""A real vLLM worker makes answers of all kinds again, exactly, from any of their tokens; and what cannot be made again
it refuses and lives."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import replaying
from config import replay
from harness import AS_CLUSTER
from oneworker import one_worker
from worker.demo import model_path
from worker.engines.replay.note import NOTE

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

PARSERS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3")


@pytest.fixture(scope="module")
def url(
    tmp_path_factory: pytest.TempPathFactory, demo_adapters: dict[str, str], vllm_zygote: Path
) -> Iterator[str]:
    """With the parsers on, and a model that has tokens for the beginning and the end of thinking: by name only."""
    folder = tmp_path_factory.mktemp("replay")
    model = Path(shutil.copytree(model_path(), folder / "model"))
    for file in (model / "tokenizer.json", model / "tokenizer_config.json"):
        file.write_text(file.read_text().replace("<|pad|>", "</think>").replace("<|system|>", "<think>"))
    with one_worker(folder, model, demo_adapters, *PARSERS, zygote=vllm_zygote) as found:
        yield found


@pytest.mark.parametrize("name", replaying.CASES)
def test_made_again_from_any_of_its_tokens_an_answer_is_the_same(url: str, name: str) -> None:
    made = replaying.check(url, name)
    if name.startswith("thinking"):
        told = replaying.gathered(made.events)
        assert told[None, "choices", 0, "delta", "reasoning"] and told[None, "choices", 0, "delta", "content"]
    if name == "tools auto, called":
        (arguments,) = (v for k, v in replaying.gathered(made.events).items() if k[-1] == "arguments")
        assert set(json.loads(arguments)) == {"city", "days"}


@pytest.fixture(scope="module")
def simulated(
    url: str, demo_adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A simulated worker told what the real one was told."""
    told = ("--max-model-len", "2048", "--itl-ms", "0", *PARSERS)
    folder = tmp_path_factory.mktemp("sim")
    with one_worker(folder, model_path(), demo_adapters, *told, engine="sim") as found:
        yield found


def test_the_simulator_speaks_the_same_events(url: str, simulated: str) -> None:
    """Of every API, with tools and thoughts: names and keys in order. What the two models choose to say differs."""
    real: dict[str, set[str]] = {}
    for name, (path, body) in replaying.CASES.items():
        limit = {"max_output_tokens" if path == replaying.RESPONSES else "max_tokens": 250}
        seen = replaying.shapes(replaying.ask(simulated, path, {**body, **limit}).events)
        for _ in range(5):  # on a busy machine what usually takes several events may come in one
            real[name] = replaying.shapes(replaying.ask(url, path, {**body, **limit}).events)
            if seen == real[name]:
                break
        if "auto" in name or "thought first" in name:
            assert seen <= set().union(*real.values()), name
        elif name == "logprobs of a chat":  # tokens without text have an event too, and the real one makes none here
            assert real[name] <= seen
        else:
            assert seen == real[name], name


def test_eight_at_a_time_are_as_exact(url: str) -> None:
    names = [name for name in replaying.CASES if "unseeded" not in name and "logprobs" not in name][:8]

    async def all_at_once() -> None:
        await asyncio.gather(*(asyncio.to_thread(replaying.check, url, name) for name in names))

    asyncio.run(all_at_once())


def test_tokens_that_the_grammar_refuses_end_in_an_error_and_the_engine_lives(url: str) -> None:
    path, body = replaying.CASES["regex"]
    made = replaying.ask(url, path, body)
    for first in ([100, 101], [*made.first[0][:5], 300]):
        refused = replaying.ask(url, path, body, [first])
        assert refused.status == 500 or '"code": 500' in refused.events
    assert replaying.ask(url, path, body).tokens == made.tokens


WRONG: list[Any] = [
    -1, 2**31, 2**63, 2**70, 1.5, True, None, "1", [], [1], {"a": 1}, 1e308, "x" * 1000, 1536, [[1]], [1, None],
]  # fmt: skip


def _hostile(draw: random.Random) -> tuple[str, bytes, dict[str, str]]:
    """A path, a body and heads: a client's own note, an envelope that is none, or heads that are nearly ours."""
    path = draw.choice([replaying.CHAT, replaying.COMPLETIONS, replaying.MESSAGES, replaying.RESPONSES, "/invocations"])
    body: dict[str, Any] = {"model": "demo", "stream": draw.random() < 0.5, "max_tokens": 3}
    if path == replaying.RESPONSES:
        body = {"model": "demo", "input": "hi", "stream": body["stream"], "max_output_tokens": 3}
    elif path in (replaying.COMPLETIONS, "/invocations"):
        body["prompt"] = "hi"
    else:
        body["messages"] = replaying.USER
    heads = {"Content-Type": "application/json"}
    match draw.randrange(3):
        case 0:
            note = draw.choice([*WRONG, [draw.choice(WRONG) for _ in range(5)], list(range(60_000)), [[5], [6]]])
            body["vllm_xargs"] = draw.choice([{NOTE: note}, {"replay": note, NOTE: note}, note])
            return path, json.dumps(body).encode(), heads
        case 1:
            heads["Content-Type"] = replay.CONTENT_TYPE
            tokens = draw.choice([[[draw.choice(WRONG)]], draw.choice(WRONG), [[1]] * 9, [[5] * 5000], [[5] * 500_000]])
            line = json.dumps(tokens).encode()
            line = draw.choice([line, line, line, line[:-1], b"", b"\xff", b"[" * 100_000])
            sent = draw.choice([json.dumps(body).encode()] * 3 + [b"", b"{", b"null", b"[1]"])
            return path, line + draw.choice([b"\n", b"\n", b""]) + sent, heads
        case _:
            heads["Content-Type"] = draw.choice([replay.CONTENT_TYPE.upper(), f"{replay.CONTENT_TYPE}; x=y", "text/x"])
            heads[replay.TELL] = draw.choice(["1", "0", "x", "11", "1,1"])
            return path, json.dumps(body).encode(), heads


def test_nothing_that_is_sent_ends_the_engine(url: str) -> None:
    """A thousand tries, of which none is answered by anything but an answer or 400."""
    draw, seen = random.Random(17), Counter[int]()
    path, body = replaying.CASES["text"]
    before = replaying.ask(url, path, body)

    async def send(client: httpx.AsyncClient, request: tuple[str, bytes, dict[str, str]]) -> None:
        where, content, heads = request
        answer = await client.post(url + where, content=content, headers={**AS_CLUSTER, **heads})
        seen[answer.status_code] += 1
        assert answer.status_code in (200, 400), (where, content[:200], heads, answer.text)

    async def all_of_them() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            for _ in range(125):
                await asyncio.gather(*(send(client, _hostile(draw)) for _ in range(8)))

    asyncio.run(all_of_them())
    assert seen.total() == 1000 and seen[200] > 100 and seen[400] > 300
    after = replaying.ask(url, path, body)
    assert (after.tokens, replaying.gathered(after.events)) == (before.tokens, replaying.gathered(before.events))
