"""Answers out of what llama.cpp tells, in vLLM's form: the simulator's, which is held to vLLM's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lb.forwarding.resume import events as resumable
from simstreams import stream
from worker.llamacpp import requests
from worker.llamacpp.answers import AnswerHead, EventWriter, LlamaStep, StepReader, whole
from worker.llamacpp.metrics import LlamaCounts
from worker.progress import read
from worker.sim.api import protocol

HEAD = AnswerHead("x", "o", 5, "m", "llamacpp-1")


def _event(content: str, predicted: int, *tokens: int, **more: Any) -> dict[str, Any]:
    return {"content": content, "tokens": list(tokens), "tokens_predicted": predicted, "stop": False, **more}


def _end(predicted: int, kind: str = "eos", word: str = "") -> dict[str, Any]:
    return _event("", predicted, stop=True, stop_type=kind, stopping_word=word)


def _take(reader: StepReader, event: dict[str, Any]) -> LlamaStep | None:
    return reader.take(event, event["tokens"])


def test_tokens_without_text_go_with_the_next_that_has_some() -> None:
    reader = StepReader()
    assert _take(reader, _event("a", 1, 7)) == LlamaStep("a", (7,), 1)
    assert _take(reader, _event("", 2, 8)) is None
    assert _take(reader, _event("bc", 3, 9)) == LlamaStep("bc", (8, 9), 2)
    assert _take(reader, _event("", 4, 2)) is None
    assert _take(reader, _end(4)) == LlamaStep("", (2,), 1, (), "stop")


def test_where_a_token_is_not_known_none_after_it_is_told() -> None:
    """Else the next worker would go on from other tokens than were made."""
    reader = StepReader()
    assert reader.untold(_event("é", 2, 9)) == 1
    assert reader.take(_event("é", 2, 9), [8, 9]) == LlamaStep("é", (8, 9), 2)
    assert reader.take(_event("ö", 4, 9), None) == LlamaStep("ö", None, 2)
    assert _take(reader, _event("a", 5, 7)) == LlamaStep("a", None, 1)


@pytest.mark.parametrize(("kind", "word", "include", "text", "reason", "stop"), [
    ("eos", "", False, "", "stop", None), ("limit", "", False, "", "length", None),
    ("word", "END", False, "", "stop", "END"), ("word", "END", True, "END", "stop", "END"),
])  # fmt: skip
def test_an_end_has_openai_s_reason(
    kind: str, word: str, include: bool, text: str, reason: str, stop: str | None
) -> None:
    step = _take(StepReader(include), _end(0, kind, word))
    assert step is not None
    assert (step.text, step.finish_reason, step.stop_reason) == (text, reason, stop)


def test_with_stop_strings_text_stays_behind_as_far_as_in_vllm() -> None:
    reader = StepReader(lag=3)
    steps = [_take(reader, event) for event in (_event("ab", 1, 1), _event("cd", 2, 2), _event("e", 3, 3), _end(3))]
    assert [step and step.text for step in steps] == ["", "a", "b", "cde"]


def _writer(body: dict[str, Any], chat: bool) -> EventWriter:
    made = protocol.check_fields(body, chat=chat)
    return EventWriter(requests.read(made, body, chat=chat), HEAD, [[5, 6]], ["Hi"])


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("more", [
    {"return_token_ids": True}, {}, {"stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
])  # fmt: skip
def test_events_have_vllm_s_keys_in_vllm_s_order(chat: bool, more: dict[str, Any]) -> None:
    given = {"messages": [{"role": "user", "content": "Hi"}]} if chat else {"prompt": "Hi"}
    body = {**given, "max_tokens": 2, "stream": True, "temperature": 0, **more}
    writer = _writer(body, chat)
    ours = writer.first() + writer.event(0, LlamaStep("a", (7,), 1))
    ours += writer.event(0, LlamaStep("", (), 0, (), "length")) + writer.last()
    expected = [event.decode() for event in stream(body, chat)]
    made = [f"{event}\n\n" for event in ours.split("\n\n")[:-1]]
    assert [_keys(event) for event in made] == [_keys(event) for event in expected]


def _keys(event: str) -> Any:
    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return [(key, shape(item)) for key, item in value.items()]
        return [shape(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else None

    text = event.removeprefix("data: ").strip()
    return text if text == "[DONE]" else shape(json.loads(text))


def test_the_balancer_reads_them_without_parsing() -> None:
    writer = _writer({"messages": [{"role": "user", "content": "x"}], "stream": True, "return_token_ids": True}, True)
    first, one = writer.first().encode()[:-2], writer.event(0, LlamaStep(" a\"", (7, 8), 2)).encode()[:-2]
    last = writer.event(0, LlamaStep("", (2,), 1, (), "stop")).encode()[:-2]
    assert resumable.without_prompt(first)[1] == b"5,6"
    assert resumable.says_something(one, ids=True)
    assert resumable.ids(one) == [b"7,8"]
    assert resumable.build_at_end(last) == "llamacpp-1"


def _prob(token: int, text: str, logprob: float, *tops: tuple[int, str, float]) -> dict[str, Any]:
    def one(token: int, text: str, logprob: float) -> dict[str, Any]:
        return {"id": token, "token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {**one(token, text, logprob), "top_logprobs": [one(*top) for top in tops]}


def test_probabilities_begin_with_the_token_that_was_taken() -> None:
    probs = (_prob(1, "ab", -2.0, (2, "x", -0.5), (1, "ab", -2.0)), _prob(3, "c", -1e9, (3, "c", -1e9)))
    step = LlamaStep("abc", (1, 3), 2, probs, "stop")
    body = {"prompt": "Hi", "logprobs": 1}
    made = whole(requests.read(protocol.check_fields(body, chat=False), body, chat=False), HEAD, [[5]], [], [[step]])
    assert made["choices"][0]["logprobs"] == {
        "text_offset": [0, 2], "token_logprobs": [-2.0, -9999.0], "tokens": ["ab", "c"],
        "top_logprobs": [{"ab": -2.0, "x": -0.5}, {"c": -9999.0}],
    }  # fmt: skip
    body = {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 1}
    made = whole(requests.read(protocol.check_fields(body, chat=True), body, chat=True), HEAD, [[5]], [], [[step]])
    (first, _) = made["choices"][0]["logprobs"]["content"]
    assert (first["token"], first["bytes"], [top["token"] for top in first["top_logprobs"]]) == ("ab", [97, 98], ["ab"])
    assert made["usage"]["total_tokens"] == 3


def test_steps_are_counted_over_servers_and_missing_ones_change_nothing() -> None:
    counts = LlamaCounts(running=2, waiting=1, tokens=9)
    marks = []
    for told, pid in ((5, 1), (None, 1), (7, 1), (2, 4)):
        counts.note_steps(told, pid)
        found = read(counts.page('a"b'))
        assert found is not None
        assert (found.running, found.waiting, found.tokens) == (2, 1, 9)
        marks.append(found.marks)
    assert marks[0] == marks[1]
    assert len({*marks}) == 3
    assert "iteration_tokens_total_count{model_name=\"a\\\"b\",engine=\"0\"} 9.0" in counts.page('a"b')
