"""What every engine's worker does, each started as a cluster starts it. A new engine is asked the same by its file
alone; what it needs for that stands in `enginecases.CASES`."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import aiohttp
import httpx
import pytest

from enginecases import NAMES, EngineWorker, chat, events, said
from fakes import Processes, eventually
from harness import WORKER_KEY
from worker.demo import adapter_path
from worker.engines import base
from worker.probe import Target, readiness
from worker.spec import SEATS

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

#: Seconds until a worker answers; and within which it has to have noticed that its client left.
_START_S, _NOTICES_S = 240.0, 4.0


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.vllm] if name == "vllm" else []


@pytest.fixture(scope="module", params=[pytest.param(name, marks=_marks(name)) for name in base.names()])
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorker]:
    folder = tmp_path_factory.mktemp(request.param)
    processes = Processes(folder)
    made = EngineWorker(request.param, processes, folder)
    try:
        made.wait(_START_S)
        yield made
    finally:
        made.close()
        processes.end()


@pytest.mark.parametrize("key", [None, "Bearer wrong", "Basic x", "Bearer"])
def test_nobody_without_the_key_is_answered_on_any_route(worker: EngineWorker, key: str | None) -> None:
    headers = {} if key is None else {"Authorization": key}
    with httpx.Client(base_url=worker.url, headers=headers) as stranger:
        for path in ("/", "/health", "/v1/models", "/metrics", "/v1/completions", "/load_model", "/reset", "/v3/models",
                     "/v1/load_lora_adapter", "/docs", "/openapi.json", SEATS, "/v2/health/live", "/x"):  # fmt: skip
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"):
                assert stranger.request(method, path).status_code == 401, (method, path)


async def test_it_is_up_ready_and_tells_its_models(worker: EngineWorker) -> None:
    async with aiohttp.ClientSession() as http:
        target = Target(http, worker.url, WORKER_KEY, 30, worker.engine.capabilities)
        await target.healthy()
        cards = await readiness(target, 30)
        assert {card["id"] for card in cards} >= set(NAMES)
        assert all(not card.get("parent") for card in cards)
        seats = await target.seats()
        assert seats is None or seats > 0
        assert (await target.progress(30) is not None) is worker.engine.capabilities.progress
        await target.numbers(NAMES[0], 30)  # whether it has any or not


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_at_once_and_piece_by_piece_the_same(worker: EngineWorker, name: str) -> None:
    for route, body in (
        ("chat/completions", {**chat("The capital of France is", max_tokens=20), "model": name}),
        ("completions", {"model": name, "prompt": "The capital of", "max_tokens": 8, "temperature": 0}),
    ):
        whole = worker.ask(route, **body)
        assert whole.status_code == 200, whole.text
        answer = whole.json()
        (choice,) = answer["choices"]
        text = choice["message"]["content"] if "chat" in route else choice["text"]
        assert answer["model"] in NAMES and choice["finish_reason"] in ("stop", "length")
        assert answer["usage"]["completion_tokens"] > 0
        stream = worker.ask(route, **body, stream=True, stream_options={"include_usage": True})
        assert stream.status_code == 200 and "text/event-stream" in stream.headers["content-type"], stream.text
        found = events(stream.text)
        assert said(found).strip() == text.strip() != ""
        assert {event["model"] for event in found} == {answer["model"]}
        finishes = [choice.get("finish_reason") for event in found for choice in event["choices"]]
        assert [reason for reason in finishes if reason] == [choice["finish_reason"]]
        assert any((event.get("usage") or {}).get("completion_tokens") for event in found)


def test_a_stream_tells_ids_of_tokens_where_it_says_so(worker: EngineWorker) -> None:
    """The balancer asks for them in every stream, before it knows who takes it."""
    stream = worker.ask("chat/completions", **chat("Hello", max_tokens=5), stream=True, return_token_ids=True)
    assert stream.status_code == 200, stream.text
    told = [choice.get("token_ids") for event in events(stream.text) for choice in event["choices"]]
    assert any(told) is worker.engine.capabilities.token_ids
    asked = worker.http.post("/detokenize", json={"model": NAMES[0], "tokens": [5, 6]})
    assert (asked.status_code == 200) is worker.engine.capabilities.detokenize


def test_what_it_does_not_have_is_refused(worker: EngineWorker) -> None:
    for stream in (False, True):
        for route, body in (("chat/completions", chat("Hi")), ("completions", {"prompt": "Hi"})):
            refused = worker.ask(route, **{**body, "model": "no-such-model"}, stream=stream)
            assert refused.status_code == 404 and refused.json()["error"]["message"], refused.text
    for body in ({**chat("Hi"), "messages": "no list"}, {**chat("Hi"), "temperature": -1}, {"model": NAMES[0]}):
        assert worker.ask("chat/completions", **body).status_code in (400, 422)
    adapter = {"lora_name": "pirate", "lora_path": str(adapter_path("pirate"))}
    loaded = worker.ask("load_lora_adapter", **adapter)
    assert (loaded.status_code == 200) is worker.engine.capabilities.lora
    cards = worker.http.get("/v1/models").json()["data"]
    assert [c["id"] for c in cards if c.get("parent")] == ["pirate"] * worker.engine.capabilities.lora


def _leave(client: httpx.Client, body: dict[str, Any]) -> bool:
    """Whether the answer was still being made."""
    try:
        client.post("/v1/chat/completions", json=body, timeout=0.7)
    except httpx.ReadTimeout:
        return True
    return False


@pytest.mark.measured
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_request_whose_client_leaves_takes_nobody_s_place(worker: EngineWorker, stream: bool) -> None:
    """As many as it computes at a time are left; the next is served at once."""
    seats = worker.http.get(SEATS).json()["seats"] or 1
    body = {**chat("Tell me of the sea.", max_tokens=1900, stream=stream), **worker.case.endless}
    with ExitStack() as there:
        clients = [there.enter_context(worker.client()) for _ in range(min(seats, 8) if stream else min(seats + 1, 8))]
        if stream:
            for client in clients:
                answer = there.enter_context(client.stream("POST", "/v1/chat/completions", json=body))
                assert next(answer.iter_raw())
        else:
            pool = there.enter_context(ThreadPoolExecutor(len(clients)))
            assert set(pool.map(lambda client: _leave(client, body), clients)) == {True}
    began = time.monotonic()
    assert worker.ask("completions", model=NAMES[0], prompt="Hi", max_tokens=1).status_code == 200
    assert time.monotonic() - began < _NOTICES_S


@pytest.mark.parametrize("name", [pytest.param(name, marks=_marks(name)) for name in base.names() if name != "vllm"])
def test_it_ends_when_it_is_asked_to_and_leaves_nothing_when_it_is_killed(
    name: str, processes: Processes
) -> None:
    """vLLM's end is looked at in `tests/e2e`: it takes long to start."""
    stopped, killed = (EngineWorker(name, processes, processes.folder, log) for log in ("stopped", "killed"))
    ended = (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    for worker, sent, statuses in ((stopped, signal.SIGTERM, ended), (killed, signal.SIGKILL, (-signal.SIGKILL,))):
        worker.wait(_START_S)
        worker.close()
        worker.process.signal(sent)
        assert worker.process.popen is not None
        assert worker.process.popen.wait(timeout=20) in statuses
        eventually(lambda process=worker.process: not process.kill_tree())  # type: ignore[misc]
        with pytest.raises(httpx.ConnectError):
            httpx.get(worker.url)
