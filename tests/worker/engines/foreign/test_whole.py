"""One answer of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker.engines.foreign.whole import Broken, WholeAnswer

HEAD = {"id": "x", "created": 1, "model": "m", "object": "chat.completion.chunk"}


def _event(**choice: Any) -> bytes:
    return b"data: " + json.dumps({**HEAD, "choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


CHAT = [
    _event(delta={"role": "assistant"}), _event(delta={"reasoning_content": "well"}), _event(delta={"content": "Ah"}),
    _event(delta={"content": "oy"}), _event(delta={"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f"}}]}),
    b"data: " + json.dumps({
        **HEAD, "usage": {"completion_tokens": 2}, "choices": [{"delta": {}, "finish_reason": "stop"}],
    }).encode() + b"\n\n",
    b"data: [DONE]\n\n",
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_chat_is_put_together_however_its_stream_is_cut(size: int) -> None:
    whole, data = WholeAnswer(chat=True), b"".join(CHAT)
    for start in range(0, len(data), size):
        whole.feed(data[start : start + size])
    assert whole.answer() == {
        "id": "x", "created": 1, "model": "m", "object": "chat.completion", "usage": {"completion_tokens": 2},
        "choices": [{
            "index": 0, "finish_reason": "stop", "logprobs": None,
            "message": {"role": "assistant", "content": "Ahoy", "reasoning_content": "well",
                        "tool_calls": [{"id": "t", "function": {"name": "f"}}]},
        }],
    }  # fmt: skip


def test_a_completion_too() -> None:
    whole = WholeAnswer(chat=False)
    whole.feed(_event(text="a") + _event(text="b", finish_reason="length"))
    answer = whole.answer()
    assert answer["choices"] == [{"index": 0, "finish_reason": "length", "logprobs": None, "text": "ab"}]
    assert answer["object"] == "text_completion"


def test_a_stream_without_an_end_is_no_answer() -> None:
    whole = WholeAnswer(chat=True)
    for event in CHAT[:-2]:
        whole.feed(event)
    with pytest.raises(Broken, match="no end"):
        whole.answer()


@pytest.mark.parametrize("wrong", [b'data: {"error": "it failed"}\n\n', b"data: {no json\n\n", b"data: 5\n\n",
                                   b'data: {"choices": 7}\n\n'])  # fmt: skip
def test_a_stream_that_says_what_is_wrong_is_broken(wrong: bytes) -> None:
    whole = WholeAnswer(chat=True)
    whole.feed(CHAT[0])
    with pytest.raises(Broken):
        whole.feed(wrong)


def test_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engines.foreign.whole.MOST", 100)
    with pytest.raises(Broken, match="more than 100 bytes"):
        WholeAnswer(chat=True).feed(b"data: " + b"x" * 200)
