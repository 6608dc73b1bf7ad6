"""``/v1/completions`` and ``/v1/chat/completions``: one request from body to last byte."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from config.aio import Tasks
from worker.llamacpp import requests, tools
from worker.llamacpp.answers import AnswerHead, EventWriter, LlamaStep, whole
from worker.llamacpp.engine import LlamaEngine
from worker.llamacpp.requests import LlamaRequest
from worker.sim.api import checks, fields, protocol
from worker.sim.api.sse import DONE, dumps
from worker.sim.errors import ApiError, internal

ENGINE: web.AppKey[LlamaEngine] = web.AppKey("engine", LlamaEngine)
FINGERPRINT: web.AppKey[str] = web.AppKey("fingerprint", str)

_UNFINISHED = "llama.cpp ended its answer before it was finished"
_STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}


async def completions(http: web.Request) -> web.StreamResponse:
    """POST /v1/completions."""
    body = await body_of(http)
    made = protocol.check_fields(body, chat=False)
    engine = http.app[ENGINE]
    model, adapter = engine.resolve(made.get("model"))
    request = requests.read(made, body, chat=False)
    given = made["prompt"]
    several = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    prompts = [await _ids(engine, item, request.special) for item in several]
    echoed = []
    if request.echo:
        echoed = [item if isinstance(item, str) else await engine.native.text_of(item) for item in several]
    return await _answer(http, request, model, adapter, prompts, echoed)


async def chat_completions(http: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    body = await body_of(http)
    made = protocol.check_fields(body, chat=True)
    engine = http.app[ENGINE]
    model, adapter = engine.resolve(made.get("model"))
    text_only(made["messages"])
    request = requests.read(made, body, chat=True)
    if tools.wanted(body):
        return await _tools(http, request, body, model, adapter)
    return await _answer(http, request, model, adapter, [await engine.prompt_of(body)], [])


async def body_of(http: web.Request) -> dict[str, Any]:
    """Raises ApiError."""
    return fields.body_object(await http.read(), http.headers.get("Content-Type", ""))


def text_only(messages: list[Any]) -> None:
    """Raises ApiError for pictures and sounds, and for no messages at all."""
    if not messages:
        raise ApiError("Cannot apply chat template to an empty conversation. Provide at least one message.")
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else ()
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in parts):
            raise ApiError("this worker reads messages of text only")


async def _ids(engine: LlamaEngine, prompt: str | list[int], special: bool) -> list[int]:
    return prompt if isinstance(prompt, list) else await engine.native.ids_of(prompt, special)


async def _answer(
    http: web.Request, request: LlamaRequest, model: str, adapter: str | None, prompts: list[list[int]],
    echoed: list[str],
) -> web.StreamResponse:
    engine, context = http.app[ENGINE], http.app[ENGINE].settings.context
    for prompt in prompts:
        if not prompt:
            raise ApiError("The decoder prompt cannot be empty")
        checks.token_length(len(prompt), context)
    bodies = [request.body(number, prompt, context) for prompt in prompts for number in range(request.n)]
    head = _head(http, request.chat, request.stream, model)
    if request.stream:
        writer = EventWriter(request, head, prompts, echoed)
        return await _sent(http, _events(writer, _merged(engine, request, bodies, adapter), len(bodies)))
    answers: list[list[LlamaStep]] = [[] for _ in bodies]
    async with aclosing(_merged(engine, request, bodies, adapter)) as steps:
        async for index, step in steps:
            answers[index].append(step)
    if any(not made or made[-1].finish_reason is None for made in answers):
        raise internal(_UNFINISHED)
    made = whole(request, head, prompts, echoed, answers)
    return web.Response(body=dumps(made).encode(), content_type="application/json")


def _head(http: web.Request, chat: bool, stream: bool, model: str) -> AnswerHead:
    given = http.headers.get("X-Request-Id") or os.urandom(8).hex()
    kind = ("chat.completion.chunk" if stream else "chat.completion") if chat else "text_completion"
    name = f"chatcmpl-{given}" if chat else f"cmpl-{given}"
    return AnswerHead(name, kind, int(time.time()), model, http.app[FINGERPRINT])


async def _sent(http: web.Request, events: AsyncGenerator[str, None]) -> web.StreamResponse:
    """As a stream. What is wrong before anything is made is still an answer of its own."""
    response = web.StreamResponse(headers=_STREAM)
    try:
        async with aclosing(events):
            async for text in events:
                if not response.prepared:
                    await response.prepare(http)
                await response.write(text.encode())
    except ApiError as error:
        if not response.prepared:
            raise
        await response.write((error.event() + DONE).encode())
    await response.write_eof()
    return response


async def _events(
    writer: EventWriter, merged: AsyncGenerator[tuple[int, LlamaStep], None], choices: int
) -> AsyncGenerator[str, None]:
    """Raises ApiError."""
    begun, left = False, choices
    async with aclosing(merged) as steps:
        async for index, step in steps:
            text = writer.event(index, step)
            yield text if begun else writer.first() + text
            begun = True
            left -= step.finish_reason is not None
    if left:
        raise internal(_UNFINISHED)
    yield writer.last()


async def _merged(
    engine: LlamaEngine, request: LlamaRequest, bodies: list[dict[str, Any]], adapter: str | None
) -> AsyncGenerator[tuple[int, LlamaStep], None]:
    """The steps of all choices as they come. Raises ApiError."""
    if len(bodies) == 1:
        async with aclosing(engine.steps(request, bodies[0], adapter)) as steps:
            async for step in steps:
                yield 0, step
        return
    queue: asyncio.Queue[tuple[int, LlamaStep | ApiError | None]] = asyncio.Queue(len(bodies))

    async def follow(index: int) -> None:
        try:
            async with aclosing(engine.steps(request, bodies[index], adapter)) as steps:
                async for step in steps:
                    await queue.put((index, step))
            await queue.put((index, None))
        except ApiError as error:
            await queue.put((index, error))

    tasks, left = Tasks(), len(bodies)
    for index in range(len(bodies)):
        tasks.start(follow(index), f"choice {index}")
    try:
        while left:
            index, found = await queue.get()
            if isinstance(found, ApiError):
                raise found
            if found is None:
                left -= 1
            else:
                yield index, found
    finally:
        await tasks.close()


async def _tools(
    http: web.Request, request: LlamaRequest, body: dict[str, Any], model: str, adapter: str | None
) -> web.StreamResponse:
    """A chat that may call tools: llama.cpp's own answer, under the name of our model."""
    engine = http.app[ENGINE]
    if not engine.knows_tools:  # llama.cpp would leave them out of the prompt without a word
        raise ApiError("the chat template of this model knows no tools")
    if request.n > 1 or request.ids or request.logprobs is not None:
        raise ApiError("with tools, llama.cpp gives one answer, without ids of tokens and log probabilities")
    native = {**request.native, **tools.offered(body), "messages": body["messages"], "stream": True}
    native["n_predict"] = -1 if request.limit is None else request.limit
    if request.seed is not None:
        native["seed"] = request.seed % (2**32 - 1)
    if body.get("chat_template_kwargs") is not None:
        native["chat_template_kwargs"] = body["chat_template_kwargs"]
    native["stream_options"] = {"include_usage": request.include_usage or not request.stream}
    head = _head(http, True, request.stream, model)
    events = engine.chat(native, adapter)
    if request.stream:
        return await _sent(http, _told(events, head))
    async with aclosing(events):
        made = tools.joined([event async for event in events])
    return web.Response(body=dumps({**head.fields(), **made}).encode(), content_type="application/json")


async def _told(events: AsyncGenerator[dict[str, Any], None], head: AnswerHead) -> AsyncGenerator[str, None]:
    async with aclosing(events):
        async for event in events:
            usage = {"usage": event["usage"]} if event.get("usage") else {}
            yield f"data: {dumps({**head.fields(), 'choices': event.get('choices', []), **usage})}\n\n"
    yield DONE
