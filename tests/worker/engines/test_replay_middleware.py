"""The middleware of a vLLM worker, around an application and an engine that are not vLLM's."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from config import replay
from worker.engines.replay.middleware import Replay
from worker.engines.replay.note import NOTE, PROCESSOR

PARENTS, IMPLEMENTED = "vllm.v1.engine.parallel_sampling", PROCESSOR.partition(":")[0]


@dataclass
class Params:
    n: int = 1
    seed: int | None = None
    extra_args: dict[str, Any] | None = None
    output_kind: Any = field(default_factory=lambda: SimpleNamespace(name="DELTA"))


class Parent:
    """As vLLM's: the parameters of a request's children, of which the unseeded share one copy."""

    def __init__(self, params: Params) -> None:
        self.params, self.shared = params, Params(1, None, params.extra_args)

    def _get_child_sampling_params(self, index: int) -> Params:
        return self.shared if self.params.seed is None else Params(1, self.params.seed + index, self.params.extra_args)


class Engine:
    """Makes the tokens of a choice's note, and then 70, 71 …: as many as are asked for, two at a time."""

    def __init__(self, obeys: bool = True, length: int = 6) -> None:
        self.obeys, self.length = obeys, length
        self.calls: list[Params] = []
        self.closed = 0

    async def generate(self, prompt: Any, sampling_params: Params, request_id: str) -> AsyncGenerator[Any, None]:
        self.calls.append(sampling_params)
        parent = Parent(sampling_params)
        children = [parent._get_child_sampling_params(i) for i in range(sampling_params.n)]
        if sampling_params.n == 1:
            children = [sampling_params]
        notes = [(child.extra_args or {}).get(NOTE) or [] for child in children]
        lines = [[*(note if self.obeys else []), *range(70, 90)][: self.length] for note in notes]
        try:
            for at in range(0, self.length, 2):
                whole = sampling_params.output_kind.name != "DELTA"
                for index, line in enumerate(lines):
                    ids = line[: at + 2] if whole else line[at : at + 2]
                    yield SimpleNamespace(outputs=[SimpleNamespace(index=index, token_ids=ids)])
                    await asyncio.sleep(0)
        finally:
            self.closed += 1


def _application(engine: Engine, params: Callable[[dict[str, Any]], list[Params]]) -> Any:
    """Answers with an event for each output, in two parts, or with all at once; what it was asked is `asked`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        app.asked = scope, message["body"]  # type: ignore[attr-defined]
        body = json.loads(message["body"])
        kind = b"text/event-stream; charset=utf-8" if body.get("stream") else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        try:
            for given in params(body):
                async for output in scope["app"].state.engine_client.generate("x", given, request_id="r"):
                    if body.get("stream"):
                        (made,) = output.outputs
                        event = b"data: %d %s\n\n" % (made.index, json.dumps(list(made.token_ids)).encode())
                        await send({"type": "http.response.body", "body": event[:7], "more_body": True})
                        await send({"type": "http.response.body", "body": event[7:], "more_body": True})
        except RuntimeError as error:
            await send({"type": "http.response.body", "body": b"data: %s\n\n" % repr(error).encode()})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    return app


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def told(self) -> dict[int, list[int]]:
        told: dict[int, list[int]] = {}
        for choice, ids in replay.take_comments(self.body)[1]:
            told.setdefault(choice, []).extend(map(int, ids.split(b",")))
        return told


class Worker:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, engine: Engine, params: Any = None, **config: Any) -> None:
        """``config``: what is otherwise than usual in the engine's configuration."""
        parents = SimpleNamespace(ParentRequest=Parent)
        monkeypatch.setattr(Parent, "_get_child_sampling_params", Parent._get_child_sampling_params)  # put back
        monkeypatch.setitem(sys.modules, PARENTS, config.pop("parents", parents))
        monkeypatch.setitem(sys.modules, IMPLEMENTED, SimpleNamespace(V1=(object,), V2=()))
        installed = [SimpleNamespace(value=config.pop("installed", PROCESSOR))]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: installed)
        self.engine = engine
        self.app = _application(engine, params or (lambda body: [Params(body.get("n", 1), body.get("seed"))]))
        model = SimpleNamespace(
            runner_type=config.pop("runner_type", "generate"), max_model_len=100, get_vocab_size=lambda: 1000
        )
        settings = {"speculative_config": None, "use_v2_model_runner": False, **config}
        state = SimpleNamespace(
            engine_client=engine, vllm_config=SimpleNamespace(model_config=model, **settings)
        )
        self.scope = {"type": "http", "app": SimpleNamespace(state=state)}
        self.replay = Replay(self.app)

    async def ask(self, body: Any, kind: bytes = b"application/json", tell: bool = True) -> Answer:
        sent = [body[:5], body[5:]] if isinstance(body, bytes) else [json.dumps(body).encode()]
        headers = [(b"content-type", kind), (b"content-length", b"%d" % sum(map(len, sent))), (b"x-else", b"y")]
        headers += [(replay.TELL.encode(), b"1")] if tell else []
        got: list[Any] = []

        async def receive() -> Any:
            part = sent.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(sent)}

        async def send(message: Any) -> None:
            got.append(message)

        await self.replay({**self.scope, "headers": headers}, receive, send)
        return Answer(got[0]["status"], dict(got[0]["headers"]), b"".join(m.get("body", b"") for m in got[1:]))

    async def again(self, tokens: list[list[int]], body: dict[str, Any]) -> Answer:
        return await self.ask(replay.body(tokens, json.dumps(body).encode()), replay.CONTENT_TYPE.encode())


STREAM = {"stream": True}


async def test_each_event_is_preceded_by_the_tokens_made_since_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = await Worker(monkeypatch, Engine()).ask(STREAM)
    assert answer.headers[replay.TELL.encode()] == b"1"
    assert answer.body.startswith(b": tokens 0 70,71\ndata: 0 [70, 71]\n\n: tokens 0 72,73\ndata: 0 [72, 73]\n\n")
    assert replay.take_comments(answer.body)[0].endswith(b"data: 0 [74, 75]\n\ndata: [DONE]\n\n")


async def test_nobody_is_told_unasked_or_of_a_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch, Engine())
    for body, tell in ((STREAM, False), ({}, True)):
        answer = await worker.ask(body, tell=tell)
        assert b": tokens" not in answer.body and replay.TELL.encode() not in answer.headers


@pytest.mark.parametrize("seed", [None, 5])
async def test_each_choice_begins_with_its_own_tokens(monkeypatch: pytest.MonkeyPatch, seed: int | None) -> None:
    worker = Worker(monkeypatch, Engine())
    answer = await worker.again([[1, 2, 3], [], [9]], {**STREAM, "n": 3, "seed": seed})
    assert answer.told == {0: [1, 2, 3, 70, 71, 72], 1: list(range(70, 76)), 2: [9, *range(70, 75)]}


async def test_choices_are_counted_over_the_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch, Engine(length=2), lambda body: [Params(2), Params(2)])
    answer = await worker.again([[1], [2], [3]], {**STREAM, "n": 2, "prompt": ["a", "b"]})
    assert answer.told == {0: [1, 70], 1: [2, 70], 2: [3, 70], 3: [70, 71]}


async def test_the_application_sees_the_clients_own_body(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch, Engine())
    sent = b'{"stream":  true}'
    await worker.ask(replay.body([[1]], sent), replay.CONTENT_TYPE.encode())
    scope, body = worker.app.asked
    assert body == sent
    assert dict(scope["headers"])[b"content-type"] == b"application/json"
    assert dict(scope["headers"])[b"content-length"] == b"%d" % len(sent) and dict(scope["headers"])[b"x-else"] == b"y"


async def test_a_note_of_a_clients_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {NOTE: [5], "other": 1}
    worker = Worker(monkeypatch, Engine(), lambda body: [Params(extra_args=given)])
    assert (await worker.ask(STREAM, tell=False)).body.startswith(b"data: 0 [70, 71]")
    assert (await worker.ask(STREAM)).told == {0: list(range(70, 76))}
    assert (await worker.again([[8]], STREAM)).told == {0: [8, *range(70, 75)]}
    assert [call.extra_args for call in worker.engine.calls] == [{"other": 1}, {"other": 1}, {"other": 1, NOTE: [8]}]
    assert given == {NOTE: [5], "other": 1}
    only = Worker(monkeypatch, Engine(), lambda body: [Params(extra_args={NOTE: "x" * 1_000_000})])
    await only.ask(STREAM)
    assert only.engine.calls[0].extra_args is None


async def test_tokens_that_come_again_each_time_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = SimpleNamespace(name="CUMULATIVE")
    worker = Worker(monkeypatch, Engine(), lambda body: [Params(output_kind=kind)])
    assert (await worker.again([[3]], STREAM)).told == {0: [3, *range(70, 75)]}


async def test_an_engine_that_makes_other_tokens_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch, Engine(obeys=False))
    answer = await worker.again([[70, 71, 5, 6]], STREAM)
    assert b"did not follow" in answer.body and b"[72, 73]" not in answer.body
    assert worker.engine.closed == 1, "it is taken out of the engine"


async def test_who_stops_listening_takes_the_request_out_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch, Engine())
    await worker.ask({}, tell=False)
    outputs = worker.engine.generate("x", Params(), "r")
    async for _ in outputs:
        break
    await outputs.aclose()
    assert worker.engine.closed == 2


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [("[[1],[2]]", "2 choices"), ("[[1000]]", "out of the vocabulary"), ("[1]", "first line"),
     (json.dumps([[1] * 101]), "more than the 100"), ("", "first line")],
)  # fmt: skip
async def test_what_cannot_be_made_is_refused(monkeypatch: pytest.MonkeyPatch, tokens: str, reason: str) -> None:
    worker = Worker(monkeypatch, Engine())
    answer = await worker.ask(tokens.encode() + b"\n{}", replay.CONTENT_TYPE.encode())
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["type"], error["code"]) == (400, "BadRequestError", 400) and reason in error["message"]
    assert worker.engine.calls == []


UNABLE: dict[str, dict[str, Any]] = {
    "not installed": {"installed": "some.other:Processor"}, "pooling": {"runner_type": "pooling"},
    "speculative": {"speculative_config": object()}, "interface": {"use_v2_model_runner": True},
    "built otherwise": {"parents": SimpleNamespace()},
}  # fmt: skip


@pytest.mark.parametrize("why", UNABLE)
async def test_what_this_vllm_cannot_do_is_not_promised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    worker = Worker(monkeypatch, Engine(), **UNABLE[why])
    with caplog.at_level(logging.INFO, "vllm.clusterctl"):
        for _ in range(3):
            answer = await worker.ask(STREAM)
            assert answer.status == 200 and replay.TELL.encode() not in answer.headers
            assert b": tokens" not in answer.body
    assert (await worker.again([[1]], STREAM)).status == 400
    assert len(caplog.records) == 1


async def test_a_client_that_goes_before_its_body_is_there_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch, Engine())
    headers = [(b"content-type", replay.CONTENT_TYPE.encode())]

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    await worker.replay({**worker.scope, "headers": headers}, receive, lambda message: pytest.fail("answered"))
    assert worker.engine.calls == []
