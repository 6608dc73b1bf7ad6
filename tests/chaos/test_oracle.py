"""The checker is checked: hand-made transcripts, right and wrong in every way that a lost worker can make them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from chaos import cases, oracle
from chaos.cases import Case
from chaos.oracle import Failed, Kind, Wrong
from chaos.wire import Answer

Chunk = dict[str, Any]
WORDS = ["Once", " upon", " a", " time"]


def chunk(choice: Chunk | None, chat: bool, **more: Any) -> Chunk:
    kind = "chat.completion.chunk" if chat else "text_completion"
    head = {"id": "chatcmpl-1" if chat else "cmpl-1", "created": 5, "model": "demo", "object": kind}
    return {**head, "choices": [] if choice is None else [{"index": 0, **choice}], **more}


def stream(chat: bool) -> list[Any]:
    """A right one, with ids, log probabilities and usage, as the list of its events."""
    events: list[Any] = []
    if chat:
        role = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        events.append(chunk(role, chat))
    for number, word in enumerate(WORDS):
        choice: Chunk = {"delta": {"content": word}} if chat else {"text": word}
        entry = {"token": word, "logprob": -0.5}
        choice["logprobs"] = {"content": [entry]} if chat else {"tokens": [word], "token_logprobs": [-0.5]}
        choice |= {"token_ids": [300 + number], "finish_reason": "length" if number == len(WORDS) - 1 else None}
        events.append(chunk(choice, chat))
    usage = {"prompt_tokens": 3, "completion_tokens": len(WORDS), "total_tokens": 3 + len(WORDS)}
    return [*events, chunk(None, chat, usage=usage), "[DONE]"]


def body(events: list[Any]) -> bytes:
    return b"".join(f"data: {e if isinstance(e, str) else json.dumps(e)}\n\n".encode() for e in events)


def answer(data: bytes, **changes: Any) -> Answer:
    return Answer(1.0, 2.0, 200, {"content-type": "text/event-stream; charset=utf-8"}, data, **changes)


def case(chat: bool) -> Case:
    return Case("x", "/v1/chat/completions" if chat else "/v1/completions", {"stream": True})


def judge(events: list[Any], chat: bool, **changes: Any) -> cases.Verdict:
    right = oracle.read_stream(body(stream(chat)), chat=chat)
    return cases.judge(case(chat), answer(body(events), **changes), [right])


def choice_of(event: Chunk) -> Chunk:
    found: Chunk = event["choices"][0]
    return found


def first(events: list[Any]) -> int:
    """The first event with text."""
    return next(i for i, e in enumerate(events) if "token_ids" in e["choices"][0])


def write(event: Chunk, text: str) -> None:
    if "delta" in choice_of(event):
        choice_of(event)["delta"]["content"] = text
    else:
        choice_of(event)["text"] = text


ERROR = {"error": {"message": "it broke off", "code": 502}}


def missing_text(e: list[Any]) -> None:
    del e[first(e) + 1]


def repeated_text(e: list[Any]) -> None:
    e.insert(first(e) + 1, e[first(e)])


def other_text(e: list[Any]) -> None:
    write(e[first(e) + 1], " Upon")


def gap_in_text_only(e: list[Any]) -> None:
    write(e[first(e) + 1], "")


def no_done(e: list[Any]) -> None:
    e.pop()


def two_dones(e: list[Any]) -> None:
    e.append("[DONE]")


def text_after_done(e: list[Any]) -> None:
    e.append(e[first(e)])


def no_finish(e: list[Any]) -> None:
    choice_of(e[-3])["finish_reason"] = None


def two_finishes(e: list[Any]) -> None:
    e.insert(-2, e[-3])


def other_finish(e: list[Any]) -> None:
    choice_of(e[-3])["finish_reason"] = "stop"


def early_finish(e: list[Any]) -> None:
    choice_of(e[first(e)])["finish_reason"] = "length"


def stop_reason(e: list[Any]) -> None:
    choice_of(e[-3])["stop_reason"] = " life"


def wrong_usage(e: list[Any]) -> None:
    e[-2]["usage"]["completion_tokens"] += 1


def no_usage(e: list[Any]) -> None:
    del e[-2]


def two_usages(e: list[Any]) -> None:
    e.insert(-1, e[-2])


def usage_along_the_way(e: list[Any]) -> None:
    e[first(e)]["usage"] = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}


def usage_goes_back(e: list[Any]) -> None:
    usage_along_the_way(e)
    e[first(e)]["usage"]["completion_tokens"] = 99


def changed_id(e: list[Any]) -> None:
    e[first(e) + 1]["id"] += "2"


def changed_time(e: list[Any]) -> None:
    e[first(e) + 1]["created"] += 1


def other_model(e: list[Any]) -> None:
    for event in e[:-1]:
        event["model"] = "poet"


def id_of_another_kind(e: list[Any]) -> None:
    for event in e[:-1]:
        event["id"] = "cmpl-1" if event["id"].startswith("chat") else "chatcmpl-1"


def wrong_ids(e: list[Any]) -> None:
    choice_of(e[first(e)])["token_ids"] = [299]


def ids_twice(e: list[Any]) -> None:
    choice_of(e[first(e)])["token_ids"] = [300, 300]


def prompt_ids_that_nobody_asked_for(e: list[Any]) -> None:
    e[first(e)]["prompt_token_ids"] = [1, 2]


def a_field_that_nobody_asked_for(e: list[Any]) -> None:
    choice_of(e[first(e)])["resume"] = None


def wrong_logprob(e: list[Any]) -> None:
    found = choice_of(e[first(e)])["logprobs"]
    if "content" in found:
        found["content"][0]["logprob"] = -0.6
    else:
        found["token_logprobs"] = [-0.6]


def logprobs_missing(e: list[Any]) -> None:
    choice_of(e[first(e)])["logprobs"] = None


BOTH: list[Callable[[list[Any]], None]] = [
    missing_text, repeated_text, other_text, gap_in_text_only, no_done, two_dones, text_after_done, no_finish,
    two_finishes, other_finish, early_finish, stop_reason, wrong_usage, no_usage, two_usages, usage_along_the_way,
    usage_goes_back, changed_id, changed_time, other_model, id_of_another_kind, wrong_ids, ids_twice,
    prompt_ids_that_nobody_asked_for, a_field_that_nobody_asked_for, wrong_logprob, logprobs_missing,
]  # fmt: skip


@pytest.mark.parametrize("chat", [True, False])
def test_what_is_right_is_right(chat: bool) -> None:
    assert judge(stream(chat), chat) == cases.Verdict(Kind.OK)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("change", BOTH, ids=lambda change: change.__name__)
def test_what_is_wrong_is_wrong(change: Callable[[list[Any]], None], chat: bool) -> None:
    events = json.loads(json.dumps(stream(chat)))
    change(events)
    verdict = judge(events, chat)
    assert verdict.kind is Kind.WRONG and verdict.reason


def test_two_roles_no_role_and_a_late_role_are_wrong() -> None:
    events = stream(chat=True)
    for changed in ([events[0], *events], events[1:], [events[1], events[0], *events[2:]]):
        verdict = judge(changed, chat=True)
        assert verdict.kind is Kind.WRONG and "role" in verdict.reason


@pytest.mark.parametrize("chat", [True, False])
def test_an_error_is_a_failure_with_or_without_done(chat: bool) -> None:
    events = stream(chat)
    for ending in ([ERROR], [ERROR, "[DONE]"]):
        verdict = judge([*events[:3], *ending], chat)
        assert verdict.kind is Kind.FAILED and "it broke off" in verdict.reason
        assert ("[DONE] after it" in verdict.reason) == (len(ending) == 2)


@pytest.mark.parametrize("chat", [True, False])
def test_an_aborted_answer_is_a_failure(chat: bool) -> None:
    events = stream(chat)
    choice_of(events[-3])["finish_reason"] = "abort"
    assert judge(events, chat).kind is Kind.FAILED


def test_an_answer_that_broke_off_is_a_failure_whatever_came() -> None:
    verdict = judge(stream(chat=False), chat=False, problem="connection lost: reset")
    assert verdict.kind is Kind.FAILED and "reset" in verdict.reason
    verdict = judge([*stream(chat=False)[:2], ERROR], chat=False, problem="connection closed")
    assert "it broke off" in verdict.reason


@pytest.mark.parametrize("data", [b"", b"data: {}", b"data: x\n\n", b"hello\n\n", b"data: [DONE]\n\n", b"\xff\n\n"])
def test_what_is_no_stream_is_wrong(data: bytes) -> None:
    with pytest.raises(Wrong):
        oracle.read_stream(data, chat=False)


def test_where_chunks_are_cut_and_comments_do_not_matter() -> None:
    events = stream(chat=False)
    one, two = events[0], events[1]
    write(one, WORDS[0] + WORDS[1])
    choice_of(one)["token_ids"] += choice_of(two)["token_ids"]
    for name, values in choice_of(two)["logprobs"].items():
        choice_of(one)["logprobs"][name] += values
    data = b": waiting\n\n" + body([one, *events[2:]])
    right = oracle.read_stream(body(stream(chat=False)), chat=False)
    assert cases.judge(case(chat=False), answer(data), [right]).kind is Kind.OK


PLAIN = {
    "id": "cmpl-1", "created": 3, "model": "demo", "usage": {"completion_tokens": 2},
    "choices": [{"text": "Once upon", "finish_reason": "length", "logprobs": {"token_logprobs": [-0.5]}}],
}  # fmt: skip


def plain(**changes: Any) -> cases.Verdict:
    asked = Case("x", "/v1/completions", {})
    right = oracle.read_plain(json.dumps(PLAIN).encode())
    came = Answer(1.0, 2.0, 200, {"content-type": "application/json"}, json.dumps({**PLAIN, **changes}).encode())
    return cases.judge(asked, came, [right])


def test_plain_answers_are_compared_whole() -> None:
    assert plain(id="cmpl-2", created=9).kind is Kind.OK
    for changes in ({"usage": {"completion_tokens": 3}}, {"model": "poet"}, {"choices": []}, {"extra": 1}, {"id": ""}):
        assert plain(**changes).kind is Kind.WRONG
    aborted = {**PLAIN["choices"][0], "finish_reason": "abort"}  # type: ignore[index]
    assert plain(choices=[aborted]).kind is Kind.FAILED


def test_a_status_other_than_200_is_a_failure_and_another_type_is_wrong() -> None:
    asked, right = case(chat=False), [oracle.read_stream(body(stream(chat=False)), chat=False)]
    refused = Answer(1.0, 2.0, 503, {"content-type": "application/json"}, b'{"error": {"message": "no worker"}}')
    verdict = cases.judge(asked, refused, right)
    assert verdict.kind is Kind.FAILED and "no worker" in verdict.reason
    other = Answer(1.0, 2.0, 200, {"content-type": "text/html"}, body(stream(chat=False)))
    assert cases.judge(asked, other, right).kind is Kind.WRONG


def test_a_real_engine_may_differ_a_little_in_log_probabilities_and_in_nothing_else() -> None:
    right = oracle.read_stream(body(stream(chat=False)), chat=False)
    events = stream(chat=False)
    choice_of(events[0])["logprobs"]["token_logprobs"] = [-0.52]
    seen = oracle.read_stream(body(events), chat=False)
    assert not oracle.difference(seen, right, 0.05) and oracle.difference(seen, right, 0.01)
    other_text(events)
    assert oracle.difference(oracle.read_stream(body(events), chat=False), right, 0.05)


def test_either_of_two_undisturbed_answers_is_right() -> None:
    events = stream(chat=False)
    other_text(events)
    both = [oracle.read_stream(body(e), chat=False) for e in (stream(chat=False), events)]
    assert cases.judge(case(chat=False), answer(body(events)), both).kind is Kind.OK


def test_failed_is_told_from_wrong() -> None:
    with pytest.raises(Failed):
        oracle.read_stream(body([ERROR]), chat=True)
