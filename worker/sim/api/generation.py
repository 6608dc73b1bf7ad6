"""The APIs that make text: one request from body to last byte."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, repeat
from typing import Any

from aiohttp import web

from config import replay
from worker.engines.replay import envelope
from worker.sim.api import answers, checks, fields, protocol, sse
from worker.sim.api.chats import anthropic
from worker.sim.api.chats import responses as openai
from worker.sim.api.guidance import guided
from worker.sim.api.protocol import GenerationRequest
from worker.sim.engine import tokens as vocabulary
from worker.sim.engine.core import Batch
from worker.sim.engine.generate import Sequence, start
from worker.sim.engine.requests import EngineRequest
from worker.sim.errors import ApiError, EngineDead
from worker.sim.faults import Fault
from worker.sim.worker import Worker


class Reset(Exception):
    """The connection was torn down on purpose; nothing is to be sent."""


@dataclass(frozen=True, slots=True)
class Api:
    """How requests of one kind are answered: in events, or with ``whole``. ``prefix``: how the ids of answers begin;
    ``id``: this one's, where the request says it."""

    chat: bool
    prefix: str
    stream: Callable[[GenerationRequest, sse.Identity], sse.Stream]
    whole: Callable[[GenerationRequest, sse.Identity, list[Sequence]], dict[str, Any]]
    id: str | None = None


_COMPLETION = Api(False, "cmpl-", sse.CompletionStream, answers.body)
_CHAT = Api(True, "chatcmpl-", sse.ChatStream, answers.body)
_MESSAGE = Api(True, "chatcmpl-", anthropic.MessagesStream, anthropic.answer)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's body, the tokens that each choice begins with, and whether it is told which were made."""

    body: dict[str, Any]
    first: envelope.Tokens
    tell: bool


async def completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/completions."""
    return await _generate(request, await _body(request), _COMPLETION)


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    return await _generate(request, await _body(request), _CHAT)


async def invocations(request: web.Request) -> web.StreamResponse:
    """POST /invocations: either of the two, with the model that a header names, never the one in the body."""
    asked = await _body(request)
    asked.body["model"] = request.headers.get("X-Amzn-SageMaker-Adapter-Identifier")
    return await _generate(request, asked, _CHAT if "messages" in asked.body else _COMPLETION)


async def messages(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages: a chat, whose errors have another shape."""
    asked = await _body(request)
    body = anthropic.chat(asked.body)
    try:
        return await _generate(request, replace(asked, body=body), _MESSAGE)
    except ApiError as exc:
        raise anthropic.MessagesError(exc.message, exc.status, exc.kind) from None


async def responses(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses: a chat, whose answer repeats what was asked for."""
    asked = await _body(request)
    stream, whole = partial(openai.ResponsesStream, asked=asked.body), partial(openai.answer, asked=asked.body)
    api = Api(True, "resp_", stream, whole, asked.body.get("request_id"))
    return await _generate(request, replace(asked, body=openai.chat(asked.body)), api)


async def _body(http: web.Request) -> Asked:
    worker: Worker = http.app["worker"]
    _before(worker, http)
    raw, kind = await http.read(), http.headers.get("Content-Type", "")
    first: envelope.Tokens = []
    if kind == replay.CONTENT_TYPE:
        try:
            first, raw = envelope.opened(raw, vocabulary.VOCAB_SIZE, worker.settings.max_model_len)
        except envelope.BadEnvelope as exc:
            raise ApiError(str(exc)) from None
        kind = "application/json"
    return Asked(fields.body_object(raw, kind), first, http.headers.get(replay.TELL) == "1")


async def _generate(http: web.Request, asked: Asked, api: Api) -> web.StreamResponse:
    worker: Worker = http.app["worker"]
    body, chat = asked.body, api.chat
    made = protocol.check_fields(body, chat=chat)
    if body.get("stream") and body.get("use_beam_search"):
        raise ApiError("Streaming is not currently supported with beam search")
    model, adapter = worker.resolve(made.get("model"))
    worker.engine.preflight(made.get("n") or 1)
    if chat:
        if body.get("chat_template"):
            text = "Chat template is passed with request, but --trust-request-chat-template is not set. "
            raise ApiError(text + "Refused request with untrusted chat template.")
        checks.tool_parser(body, _parsers(worker))
    if chat or not _is_ids(made.get("prompt")):
        worker.check_tokenizer()
    served = worker.settings.served_names[0]
    length, guide = worker.settings.max_model_len, guided.of_request(body, chat, _parsers(worker))
    request = protocol.build(made, chat=chat, max_model_len=length, served=served, guide=guide)
    given = http.headers.get("X-Request-Id") or request.request_id or os.urandom(8).hex()
    identity = sse.Identity(api.id or f"{api.prefix}{given}", int(time.time()), model)
    rank = worker.adapters.loaded[adapter].rank if adapter else 0
    job = _job(request, worker.voice(model), adapter, rank, asked.first)
    if request.stream:
        return await _stream(worker, http, request, api.stream(request, identity), job, tell=asked.tell)
    if request.late_error:
        raise request.late_error
    async with aclosing(_with_faults(worker, http, job)) as batches:
        async for _ in batches:
            pass
    text = sse.dumps(api.whole(request, identity, job.sequences))
    return web.Response(body=text.encode(), content_type="application/json")


def _job(
    request: GenerationRequest, model: str, adapter: str | None, rank: int, first: envelope.Tokens
) -> EngineRequest:
    pairs = zip(request.prompts, request.sampling, strict=True)
    choices = [(prompt, params, index) for prompt, params in pairs for index in range(request.n)]
    try:
        envelope.check_choices(first, len(choices))
    except envelope.BadEnvelope as exc:
        raise ApiError(str(exc)) from None
    forced = chain(first, repeat([]))
    sequences = [start(model, prompt.ids, params, next(forced), index) for prompt, params, index in choices]
    return EngineRequest(sequences, [prompt.ids for prompt in request.prompts], request.n, model, adapter, rank)


def _parsers(worker: Worker) -> guided.Parsers:
    settings = worker.settings
    return guided.Parsers(settings.tool_parser, settings.automatic_tools, settings.reasoning_parser)


def _is_ids(prompt: object) -> bool:
    while isinstance(prompt, list) and prompt:
        prompt = prompt[0]
    return isinstance(prompt, int)


async def _stream(
    worker: Worker, http: web.Request, request: GenerationRequest, events: sse.Stream, job: EngineRequest, *, tell: bool
) -> web.StreamResponse:
    headers = {"Content-Type": "text/event-stream; charset=utf-8", **({replay.TELL: "1"} if tell else {})}
    response = web.StreamResponse(headers=headers)
    await response.prepare(http)
    told = sse.Told(tell)
    try:
        if request.late_error:
            raise request.late_error
        begun = False
        async with aclosing(_with_faults(worker, http, job)) as batches:
            async for batch in batches:
                out = [] if begun else events.first()
                begun = True
                for index, step in batch:
                    told.add(index, step)
                    if text := events.event(index, step):
                        out += told.comments(), text
                if out:
                    await response.write("".join(out).encode())
        last: str | None = events.last()
    except ApiError as exc:
        last = events.failed(exc)
    if last is None:
        tear_down(http)
        raise Reset
    await response.write((told.comments() + last).encode())
    await response.write_eof()
    return response


async def _with_faults(worker: Worker, http: web.Request, job: EngineRequest) -> AsyncGenerator[Batch, None]:
    """The steps of the job, and what goes wrong after so many of them."""
    sent = 0
    poison = worker.faults.poison(job.prompts, time.monotonic())
    async with aclosing(worker.engine.run(job)) as batches:
        await _hit(worker, http, job, sent, poison)
        async for batch in batches:
            yield batch
            sent += 1
            await _hit(worker, http, job, sent, poison)


async def _hit(worker: Worker, http: web.Request, job: EngineRequest, sent: int, poison: Fault | None) -> None:
    if poison is not None and sent >= (poison.after_chunks or 0):
        worker.act(poison)
        await worker.engine.death.wait()  # which its API server hears of a moment later
        raise EngineDead
    fault = worker.faults.due(sent, time.monotonic())
    if fault is None:
        return
    if fault.kind == "abort":
        worker.engine.abort(job)
    elif fault.kind == "error_event":
        raise ApiError("Internal server error", 500, "InternalServerError")
    elif fault.kind == "reset":
        tear_down(http)
        raise Reset
    elif fault.kind == "garbage":
        _write_garbage(http)
    elif fault.kind == "stall":
        await worker.engine.stall(job)
    else:
        worker.act(fault)


def _before(worker: Worker, http: web.Request) -> None:
    """Faults of one request, before anything of it is read."""
    now = time.monotonic()
    if worker.faults.fire("error500", now):
        raise ApiError("Internal server error", 500, "InternalServerError")
    garbage = worker.faults.get("garbage", now)
    if garbage is not None and garbage.after_chunks is None:
        worker.faults.fire("garbage", now)
        _write_garbage(http)


def _write_garbage(http: web.Request) -> None:
    """What is no HTTP, neither as an answer's head nor as the next chunk of one, and the end; raises `Reset`."""
    if http.transport is not None:
        http.transport.write(b"\x00\xfe\x16 no status line\r\n\xff\xff: \x01\r\n\r\n{]")
        http.transport.close()
    raise Reset


def tear_down(http: web.Request) -> None:
    """Reset the connection: the peer gets RST instead of an orderly end."""
    if http.transport is None:
        return
    raw = http.transport.get_extra_info("socket")
    if raw is not None and raw.family != socket.AF_UNIX:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    http.transport.abort()
