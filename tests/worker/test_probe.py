"""The questions put to a worker, against a small server that answers as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from config.topology import Capabilities
from fakes import soon
from worker.probe import NotNumbers, NotProvided, ProbeFailed, Target, parse_models, readiness, wait_until_up
from worker.spec import SEATS


class Worker:
    """Answers by path: (status, text), or None to never answer. ``loads`` become models of their own."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str] | None] = {"/health": (200, ""), "/v1/completions": (200, "{}")}
        self.models: list[dict[str, Any]] = [{"id": "demo"}]
        self.asked: list[tuple[str, Any]] = []
        self.keys: set[str | None] = set()
        self.hang = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self.server = TestServer(app, host="127.0.0.1")

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        self.asked.append((request.path, body))
        self.keys.add(request.headers.get("Authorization"))
        answer = self.answers.get(request.path, (404, "no route"))
        if answer is None:
            await self.hang.wait()
            return web.Response()
        if request.path not in self.answers:
            if request.path == "/v1/models":
                return web.json_response({"data": self.models})
            if request.path == "/v1/load_lora_adapter":
                self.models.append({"id": body["lora_name"], "parent": "demo"})
                return web.Response(text="Success")
        return web.Response(status=answer[0], text=answer[1])

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    served = Worker()
    await served.server.start_server()
    yield served
    served.hang.set()
    await served.server.close()


@pytest.fixture
async def target(worker: Worker) -> AsyncIterator[Target]:
    async with aiohttp.ClientSession() as session:
        yield Target(session, f"http://127.0.0.1:{worker.server.port}", "key")


async def test_a_healthy_worker_passes_and_is_asked_with_its_key(worker: Worker, target: Target) -> None:
    await target.healthy()
    assert worker.keys == {"Bearer key"}


@pytest.mark.parametrize(("status", "required", "passes"), [(503, True, False), (404, True, False), (404, False, True),
                                                            (405, False, True), (500, False, False)])  # fmt: skip
async def test_a_health_route_must_be_green_if_there_has_to_be_one(
    worker: Worker, target: Target, status: int, required: bool, passes: bool
) -> None:
    worker.answers["/health"] = (status, "why")
    if passes:
        await target.healthy(required)
        return
    with pytest.raises(ProbeFailed, match=f"^/health: {status} why$"):
        await target.healthy(required)


async def test_no_answer_in_time_is_a_failure(worker: Worker, target: Target) -> None:
    worker.answers["/health"] = None
    with pytest.raises(ProbeFailed, match=r"^/health: no answer in "):
        await target.call("GET", "/health", timeout=0.05)


async def test_nobody_there_is_a_failure(worker: Worker, target: Target) -> None:
    await worker.server.close()
    with pytest.raises(ProbeFailed, match=r"^/v1/models: .+"):
        await target.models()


async def test_without_a_key_none_is_sent(worker: Worker) -> None:
    async with aiohttp.ClientSession() as session:
        await Target(session, f"http://127.0.0.1:{worker.server.port}").healthy()
    assert worker.keys == {None}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"data": 1}', '{"data": ["x"]}', '{"data": [{}]}', "null"])
def test_what_is_no_list_of_models_is_a_failure(text: str) -> None:
    with pytest.raises(ProbeFailed, match="no list of models"):
        parse_models(text)


def test_model_cards_are_kept_whole() -> None:
    cards = ({"id": "a", "max_model_len": 9}, {"id": "b"})
    assert parse_models(json.dumps({"data": cards})) == cards


async def test_models_that_are_refused_are_a_failure(worker: Worker, target: Target) -> None:
    worker.answers["/v1/models"] = (401, "key")
    with pytest.raises(ProbeFailed, match=r"^/v1/models: 401 key$"):
        await target.models()


async def test_one_token_is_asked_of_the_model(worker: Worker, target: Target) -> None:
    await target.one_token("demo", 5.0)
    ((path, body),) = worker.asked
    assert path == "/v1/completions" and (body["model"], body["max_tokens"]) == ("demo", 1)


@pytest.mark.parametrize("status", [400, 404, 405, 501])
@pytest.mark.parametrize("route", ["/v1/embeddings", "/pooling", "/classify"])
async def test_a_model_that_completes_nothing_is_asked_what_it_can(
    worker: Worker, target: Target, status: int, route: str
) -> None:
    worker.answers |= {"/v1/completions": (status, ""), route: (200, "{}")}
    await target.one_token("demo", 5.0)
    assert worker.paths()[-1] == route


async def test_an_engine_that_is_dead_is_not_asked_again(worker: Worker, target: Target) -> None:
    worker.answers["/v1/completions"] = (500, "EngineCore\n  died")
    with pytest.raises(ProbeFailed, match=r"^/v1/completions: 500 EngineCore died$"):
        await target.one_token("demo", 5.0)
    assert worker.paths() == ["/v1/completions"]


async def test_a_hung_engine_is_not_ready_whatever_its_health(worker: Worker, target: Target) -> None:
    worker.answers["/v1/completions"] = None
    with pytest.raises(ProbeFailed, match="no answer"):
        await readiness(target, 0.05)


async def test_a_worker_is_ready_once_its_base_model_has_made_one_token(worker: Worker, target: Target) -> None:
    worker.models.append({"id": "there", "parent": "demo"})
    assert [card["id"] for card in await readiness(target, 5.0)] == ["demo", "there"]
    assert worker.asked[-1][1]["model"] == "demo" and worker.paths() == ["/v1/models", "/v1/completions"]


@pytest.mark.parametrize(
    ("answer", "seats"),
    [((200, '{"seats": 48}'), 48), ((200, '{"seats": null}'), None), ((404, ""), None), ((200, "[]"), None),
     ((200, '{"seats": 0}'), None)],
)  # fmt: skip
async def test_how_many_requests_it_computes_at_a_time_is_not_told_by_all(
    worker: Worker, target: Target, answer: tuple[int, str], seats: int | None
) -> None:
    worker.answers[SEATS] = answer
    assert await target.seats() == seats


@pytest.mark.parametrize("models", [[], [{"id": "poet", "parent": "demo"}]])
async def test_a_worker_without_a_base_model_is_not_ready(
    worker: Worker, target: Target, models: list[dict[str, Any]]
) -> None:
    worker.models = models
    with pytest.raises(ProbeFailed, match="serves no model"):
        await readiness(target, 5.0)


async def test_the_startup_probe_waits_until_health_is_green(worker: Worker, target: Target) -> None:
    worker.answers["/health"] = (503, "")
    up = asyncio.create_task(wait_until_up(target, 0.001), name="up")
    await soon(lambda: len(worker.asked) > 3)
    assert not up.done()
    worker.answers["/health"] = (200, "")
    await asyncio.wait_for(up, 5)


async def test_an_answer_without_end_is_given_up(worker: Worker, target: Target) -> None:
    worker.answers["/v1/models"] = (200, "x" * (33 << 20))
    with pytest.raises(ProbeFailed, match="more than 33554432 bytes"):
        await target.models()


def _completion(*values: float | None) -> str:
    shown = [{"top_logprobs": [{"a": value}]} if value is not None else None for value in values]
    return json.dumps({"choices": [{"logprobs": one} for one in shown]})


async def test_numbers_are_the_log_probabilities_of_one_token(worker: Worker, target: Target) -> None:
    worker.answers["/v1/completions"] = (200, _completion(-0.5, -1.25))
    assert await target.numbers("demo", 5.0) == [{"top_logprobs": [{"a": -0.5}]}, {"top_logprobs": [{"a": -1.25}]}]
    (asked,) = [body for path, body in worker.asked if path == "/v1/completions"]
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("demo", 1, 0)
    assert len(asked["prompt"]) > 1, "a small change need not show in one"


async def test_a_model_without_text_is_asked_for_vectors(worker: Worker, target: Target) -> None:
    worker.answers["/v1/completions"] = (404, "")
    worker.answers["/v1/embeddings"] = (200, '{"data": [{"embedding": [0.5, 1]}]}')
    assert await target.numbers("demo", 5.0) == [[0.5, 1]]
    worker.answers["/v1/embeddings"] = (404, "")
    assert await target.numbers("demo", 5.0) is None
    worker.answers["/v1/completions"] = (200, _completion(None))
    assert await target.numbers("demo", 5.0) is None


@pytest.mark.parametrize("text", [_completion(float("nan")), _completion(float("-inf")), "no JSON"])
async def test_what_is_no_number_is_said(worker: Worker, target: Target, text: str) -> None:
    worker.answers["/v1/completions"] = (200, text)
    with pytest.raises(NotNumbers, match="/v1/completions"):
        await target.numbers("demo", 5.0)


async def test_a_failure_is_one_with_its_status(worker: Worker, target: Target) -> None:
    worker.answers["/v1/completions"] = (500, "boom")
    with pytest.raises(ProbeFailed) as failed:
        await target.numbers("demo", 5.0)
    assert failed.value.status == 500


def test_a_list_of_more_models_than_any_server_has_is_not_parsed() -> None:
    with pytest.raises(ProbeFailed, match="no list of models"):
        parse_models('{"data": [' + "[]," * 300_000 + "{}]}")


@pytest.mark.parametrize("able", [True, False])
async def test_an_engine_is_not_asked_for_what_it_is_not_able_to(worker: Worker, able: bool) -> None:
    worker.answers = {"/metrics": (200, "vllm:num_requests_running 1.0\n"), "/v1/embeddings": (200, "{}")}
    async with aiohttp.ClientSession() as session:
        capabilities = Capabilities(progress=able, embeddings=able)
        target = Target(session, f"http://127.0.0.1:{worker.server.port}", able=capabilities)
        assert (await target.progress(1.0) is not None) == able
        with contextlib.nullcontext() if able else pytest.raises(ProbeFailed, match=r"^/v1/completions: 404"):
            await target.one_token("demo", 1.0)
        assert await target.numbers("demo", 1.0) is None
    more = {"/metrics", "/v1/embeddings", "/classify"} if able else set()
    assert set(worker.paths()) == {"/v1/completions", *more}


class Elsewhere:
    """Adapters of /here are in /there; ``error``: why they are not brought."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.held: list[Path] = []

    async def provide(self, folder: Path, held: Collection[Path]) -> Path:
        if self.error is not None:
            raise self.error
        self.held = list(held)
        return Path("/there") / folder.name

    def origin(self, path: str) -> str:
        return path.replace("/there/", "/here/")


async def test_a_worker_elsewhere_is_told_of_folders_there_and_its_cards_of_those_here(worker: Worker) -> None:
    async with aiohttp.ClientSession() as session:
        elsewhere = Elsewhere()
        target = Target(session, str(worker.server.make_url("")), folders=elsewhere)
        assert await target.provide("/here/a", ["/here/b"]) == "/there/a" and elsewhere.held == [Path("/here/b")]
        cards = [{"id": "demo", "root": "/model", "parent": None}, {"id": "a", "root": "/there/a", "parent": "demo"}]
        worker.answers["/v1/models"] = 200, json.dumps({"data": cards})
        assert [card["root"] for card in await target.models()] == ["/model", "/here/a"]
        elsewhere.error = OSError(28, "no room")
        with pytest.raises(NotProvided, match="no room"):
            await target.provide("/here/a", [])
        elsewhere.error = ConnectionError("lost")
        with pytest.raises(ProbeFailed, match="lost"):
            await target.provide("/here/a", [])


async def test_a_worker_of_which_nothing_else_is_known_reads_what_lies_here(target: Target) -> None:
    assert await target.provide("/here/a", []) == "/here/a"
