"""Messages and Responses of the simulated worker: what is asked for, and what is refused in which shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from worker.sim.api.chats import anthropic, responses
from worker.sim.errors import ApiError

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
USER = [{"role": "user", "content": "hi"}]


def test_a_message_is_a_chat() -> None:
    made = anthropic.chat({
        "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "be"}], "stop_sequences": ["x"],
        "messages": [*USER, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "tool_result"}]}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "tool", "name": "f"},
    })  # fmt: skip
    assert made["messages"][0] == {"role": "system", "content": "be"} and made["stop"] == ["x"]
    assert made["messages"][2]["content"] == 'a\n{"type": "tool_result"}'
    assert made["tools"][0]["function"]["parameters"] == {"type": "object"}
    assert made["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_a_response_is_a_chat() -> None:
    made = responses.chat({
        "model": "m", "instructions": "be", "max_output_tokens": 4, "tools": [{"type": "function", "name": "f"}],
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}, {"type": "reasoning", "x": 1}],
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}, "tool_choice": "required",
    })  # fmt: skip
    assert [m["content"] for m in made["messages"]] == ["be", "a", '{"type": "reasoning", "x": 1}']
    assert made["response_format"]["json_schema"]["schema"] == {}
    assert (made["tool_choice"], made["max_tokens"]) == ("required", 4)


@pytest.mark.parametrize("body", [{}, {"model": "m", "max_tokens": 1, "messages": [5]},
                                  {"model": "m", "max_tokens": 1, "messages": [{"role": "user"}]}])  # fmt: skip
def test_what_is_no_message_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        anthropic.chat(body)
    assert refused.value.status == 400


@pytest.mark.parametrize("body", [{}, {"input": [5]}, {"input": 5}, {"input": "x", "tools": [{}]}])
def test_what_is_no_response_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        responses.chat(body)
    assert refused.value.status == 400


@pytest.mark.processes
async def test_errors_and_whole_answers_have_the_shape_of_their_api(sim: Callable[..., Any]) -> None:
    worker = await sim()
    status, body = await worker.post(MESSAGES, {"model": "nope", "messages": USER, "max_tokens": 3})
    assert (status, body["type"], body["error"]["type"]) == (404, "error", "NotFoundError")
    status, body = await worker.post(MESSAGES, {"model": "demo"})
    assert (status, body["error"]["type"], body["error"]["param"]) == (400, "Bad Request", "body.messages")
    status, body = await worker.post(RESPONSES, {"model": "nope", "input": "x"})
    assert (status, body["error"]["code"]) == (404, 404)
    status, body = await worker.post(MESSAGES, {"model": "demo", "messages": USER, "max_tokens": 3})
    assert (status, body["stop_reason"], body["content"][0]["type"]) == (200, "max_tokens", "text")
    asked = {"model": "demo", "input": "x", "max_output_tokens": 3, "request_id": "resp_given"}
    status, body = await worker.post(RESPONSES, asked)
    assert (status, body["status"], body["id"]) == (200, "incomplete", "resp_given")
    assert body["output"][0]["content"][0]["type"] == "output_text"


@pytest.mark.processes
async def test_a_stream_that_fails_says_so_or_breaks(sim: Callable[..., Any]) -> None:
    worker = await sim("--fault", "error_event:after_chunks=2")
    message = {"model": "demo", "messages": USER, "max_tokens": 30, "stream": True}
    async with worker.session.post(worker.url + MESSAGES, json=message) as answer:
        last = (await answer.text()).rstrip().split("\n\n")[-1]
    assert last.startswith("event: error\n") and json.loads(last.partition("data: ")[2])["error"]
    with pytest.raises(aiohttp.ClientPayloadError):
        async with worker.session.post(worker.url + RESPONSES, json={"input": "x", "stream": True}) as answer:
            await answer.read()
