"""What is asked of a worker for the sake of continuing, and when nothing is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lb.forwarding.resume import events, plan
from lb.protocol.http1.chunked import frame, payload_of

CHAT: dict[str, Any] = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
COMPLETION: dict[str, Any] = {"model": "m", "stream": True, "prompt": "hello"}


def of(body: dict[str, Any]) -> plan.ResumePlan:
    return plan.read(json.dumps(body).encode(), chat="messages" in body, resume=True)


@pytest.mark.parametrize("body", [
    CHAT, COMPLETION, {**CHAT, "n": 1}, {**COMPLETION, "n": None}, {**CHAT, "tools": []},
    {**CHAT, "tools": [{"type": "function"}], "tool_choice": "none"}, {**CHAT, "response_format": {"type": "text"}},
    {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
    {**CHAT, "messages": [{"role": "user", "content": '"n": 2, "echo": true'}]}, {**COMPLETION, "prompt": [1, 2, 3]},
    {**COMPLETION, "prompt": ["one"]}, {**COMPLETION, "stop": ["x"], "logprobs": 2},
    {**COMPLETION, "return_token_ids": False},
])  # fmt: skip
def test_ids_are_asked_for_beside_everything_else(body: dict[str, Any]) -> None:
    found = of(body)
    assert (found.ids, found.obstacle) == (True, "")
    assert json.loads(found.body) == {**body, "return_token_ids": True}


@pytest.mark.parametrize(("body", "why"), [
    ({**CHAT, "n": 2}, "several choices"), ({**COMPLETION, "best_of": 3}, "several choices"),
    ({**COMPLETION, "use_beam_search": True}, "beam search"),
    ({**CHAT, "structured_outputs": {"regex": "a"}}, "guided"), ({**COMPLETION, "guided_json": {}}, "guided"),
    ({**CHAT, "response_format": {"type": "json_object"}}, "format"),
    ({**CHAT, "tools": [{"type": "function"}]}, "tools"), ({**CHAT, "include_reasoning": False}, "reasoning"),
    ({**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "not text alone"),
    ({**COMPLETION, "prompt_embeds": "abc"}, "not text"), ({**COMPLETION, "prompt": ["a", "b"]}, "several prompts"),
    ({**COMPLETION, "prompt": [[1], [2]]}, "several prompts"), ({**CHAT, "echo": True}, "repeats a message"),
    ({**COMPLETION, "echo": True, "logprobs": 1}, "log probabilities"),
    ({**COMPLETION, "echo": True, "prompt": [1, 2]}, "repeats a prompt"),
    ({**COMPLETION, "kv_transfer_params": {"a": 1}}, "KV cache"),
    ({**CHAT, "logprobs": True, "return_tokens_as_token_ids": True}, "by id"),
])  # fmt: skip
def test_what_cannot_be_continued_is_asked_as_it_came(body: dict[str, Any], why: str) -> None:
    found = of(body)
    assert why in found.obstacle
    assert (found.ids, found.body) == (False, json.dumps(body).encode())


def test_a_key_in_escapes_is_a_key() -> None:
    raw = b'{"model": "m", "stream": true, "prompt": "x", "\\u006e": 2}'
    assert "several choices" in plan.read(raw, chat=False, resume=True).obstacle


def test_who_asks_for_ids_gets_them() -> None:
    found = of({**COMPLETION, "return_token_ids": True})
    assert (found.ids, found.obstacle) == (False, "")


def test_the_prompt_that_is_to_be_repeated_is_repeated_by_us() -> None:
    found = of({**COMPLETION, "echo": True})
    assert (found.echo, found.obstacle) == ("hello", "")
    assert json.loads(found.body) == {**COMPLETION, "echo": False, "return_token_ids": True}


@pytest.mark.parametrize("raw", [b"", b"[1]", b'"n": 2}', b"{not json", b'{"n": [}', b"{}"])
def test_what_is_not_understood_goes_on_as_it_is(raw: bytes) -> None:
    found = plan.read(raw, chat=True, resume=True)
    assert found.body == raw
    assert found.obstacle


def event(text: str, reason: str | None = None, ids: list[int] | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": reason, "token_ids": ids}
    return events.dump({"id": "a", "created": 1, "model": "m", "choices": [choice]})


def cut(data: bytes) -> bytes | None:
    return events.cut(data, max(0, payload_of(data)))


QUOTED = 'he said "token_ids":[7] and "finish_reason":null\n\n'


def test_ids_are_cut_out_and_nothing_else_is() -> None:
    for text in ("x", QUOTED, "é日", "a" * 5000):
        assert cut(frame(event(text, ids=[1, 22]))) == frame(event(text))
        plain = frame(event(text))
        assert events.plain(plain, payload_of(plain)) == plain


def test_chunks_that_came_together_go_out_as_one() -> None:
    together = b"".join(frame(event(text, ids=[1])) for text in ("x", QUOTED, "y"))
    assert cut(together) == frame(b"".join(event(text) for text in ("x", QUOTED, "y")))
    assert cut(frame(event("x", ids=[1]) + event("y", ids=[2]))) == frame(event("x") + event("y"))


@pytest.mark.parametrize("last", [
    event("y", "stop", [2]), b"data: [DONE]\n\n", b'data: {"error":{"code":500}}\n\n', event("y"),
])  # fmt: skip
def test_what_is_not_in_the_middle_of_a_stream_is_looked_at(last: bytes) -> None:
    assert cut(frame(last)) is None
    assert cut(frame(event("x", ids=[1])) + frame(last)) is None
    assert cut(frame(event("x", ids=[1]) + last)) is None


def test_ids_are_read_from_whatever_came() -> None:
    data = frame(event("x", ids=[1])) + frame(event(QUOTED, ids=[2, 3]) + event("z")) + frame(event("", ids=[]))
    assert events.ids(data) == [b"1", b"2,3"]
