"""A stream that is more than its text is not continued, whenever that shows: an explicit error and no other answer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.forwarding.resume import events, obstacles, plan
from lb.forwarding.resume.point import CannotResume
from lb.forwarding.resume.resumption import Resumption
from lb.forwarding.resume.transcript import StreamTranscript
from lb.protocol.fields import lax
from lb.protocol.http1.chunked import frame, payload_of
from transcripts import broken, feed, read, transcript_of

CHAT: dict[str, Any] = {
    "model": "m", "stream": True, "temperature": 0, "max_tokens": 200,
    "messages": [{"role": "user", "content": "hello"}],
}  # fmt: skip
COMPLETION = {"model": "m", "stream": True, "temperature": 0, "max_tokens": 40, "ignore_eos": True, "prompt": "hello"}
LOGPROBS = {"content": [{"token": "x", "logprob": -0.1, "bytes": [120], "top_logprobs": []}]}


def named(value: object) -> str:
    return "-".join(value) if isinstance(value, dict) else ""


def event(delta: dict[str, Any], ids: list[int] | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": more.pop("logprobs", None), "finish_reason": None}
    if ids is not None:
        choice["token_ids"] = ids
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1764290000, "model": "m"}
    return events.dump({**head, "choices": [choice], **more})


ROLE = event({"role": "assistant", "content": ""}, prompt_token_ids=[1, 2])
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
MORE: list[tuple[dict[str, Any], str]] = [
    ({"tool_calls": [CALL]}, "calls tools"), ({"content": "x", "tool_calls": [CALL]}, "calls tools"),
    ({"function_call": {"name": "f"}}, "calls tools"), ({"reasoning": "so"}, "reasoning parser"),
    ({"reasoning_content": "so"}, "reasoning parser"), ({"content": "x", "reasoning": "so"}, "reasoning parser"),
    ({"reasoning": "so", "content": "x"}, "reasoning parser"), ({"refusal": "no"}, "more than text: refusal"),
    ({"content": "x", "refusal": "no"}, "more than text: refusal"), ({"audio": {"id": "a"}}, "more than text: audio"),
    ({"content": "x", "annotations": [{"text": "y"}]}, "more than text: annotations"),
    ({"content": "x", "citations": [1]}, "more than text: citations"),
]  # fmt: skip


def transcript_with(body: dict[str, Any], coming: list[bytes]) -> StreamTranscript:
    transcript = transcript_of(body, True)
    for one in coming:
        feed(transcript, one, straight=True)
    return transcript


@pytest.mark.parametrize("logprobs", [None, LOGPROBS], ids=["", "logprobs"])
@pytest.mark.parametrize("shown", [False, True], ids=["", "ids"])
@pytest.mark.parametrize(("delta", "why"), MORE, ids=named)
async def test_what_comes_after_text_is_seen_before_anything_is_continued(
    delta: dict[str, Any], why: str, shown: bool, logprobs: Any
) -> None:
    """Early or late, as the latest event or long before, which is when only the ids are still known."""
    body = {**CHAT, "return_token_ids": shown, "logprobs": logprobs is not None}
    text = [event({"content": f" word{n}"}, [n], logprobs=logprobs) for n in range(70)]
    for at in (1, 2, 15, 16, 17, 40):
        for after in (0, 1, 20):
            odd = event(delta, [7], logprobs=logprobs)
            transcript = transcript_with(body, [ROLE, *text[:at], odd, *text[at : at + after]])
            assert why in transcript.hindrance()
            with pytest.raises(CannotResume, match=why):
                await Resumption(transcript).point(read)


@pytest.mark.parametrize(("delta", "why"), MORE[:6], ids=named)
async def test_it_is_seen_among_events_that_came_together(delta: dict[str, Any], why: str) -> None:
    text = [event({"content": f" word{n}"}, [n]) for n in range(4)]
    for coming in ([*text[:2], event(delta, [7]), text[2]], [event(delta, [7]), *text[:3]]):
        for chunks in (frame(b"".join(coming)), b"".join(map(frame, coming))):
            transcript = transcript_with(CHAT, [ROLE, text[0]])
            assert transcript.straight is not None
            assert transcript.straight(chunks, max(0, payload_of(chunks))) is not None, "it goes straight through"
            transcript.recorder.latest.append(chunks)
            assert why in transcript.hindrance()


@pytest.mark.parametrize("every", [1, 2])
async def test_it_is_seen_where_every_other_event_is_of_that_kind(every: int) -> None:
    coming = [ROLE, event({"content": "a"}, [1])]
    for n in range(40):
        coming += [event({"content": "a"}, [n])] * every + [event({"reasoning": "b"}, [n])]
    assert "reasoning parser" in transcript_with(CHAT, coming).hindrance()


HARD = [
    '"tool_calls":[{', '"},"logprobs":', 'ends in a quote"', "ends in a backslash\\", '\\"}', "\n\n", "é日",
    '"reasoning":"',
]  # fmt: skip


@given(st.lists(st.sampled_from([*HARD, " word", ""]), min_size=1, max_size=40), st.booleans(), st.booleans())
def test_text_is_text_whatever_it_says(texts: list[str], logprobs: bool, usage: bool) -> None:
    found = LOGPROBS if logprobs else None
    more = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}} if usage else {}
    coming = [event({"content": text}, [n], logprobs=found, **more) for n, text in enumerate(texts)]
    transcript = transcript_with({**CHAT, "logprobs": logprobs}, [ROLE, *coming])
    assert not transcript.hindrance()
    assert transcript.tokens.all() == list(range(len(texts)))
    assert not events.not_text(b"".join(coming))
    assert (events.ids_of_text(b"".join(coming), 120, first=False) is None) == (logprobs or (usage and len(texts) > 1))


@given(st.lists(st.sampled_from([*HARD, " word", ""]), min_size=1, max_size=9), st.booleans(), st.booleans())
def test_no_token_is_left_out(texts: list[str], role: bool, first: bool) -> None:
    """However early a text with something escaped in it comes, which the plainer pattern does not find."""
    data = b"".join([ROLE] * role + [event({"content": text}, [n]) for n, text in enumerate(texts)])
    assert events.ids_of_text(data, 120, first=first) in (None, events.ids(data))


def test_deltas_without_text_are_no_obstacle() -> None:
    """A parser that waits for more sends them, for the sake of the ids."""
    coming = [ROLE, event({"content": "a"}, [1]), *[event({}, [n]) for n in range(20)], event({"content": "b"}, [9])]
    transcript = transcript_with(CHAT, coming)
    assert not transcript.hindrance()
    assert transcript.tokens.count() == 22


LASTING: list[tuple[dict[str, Any], str]] = [
    ({"bad_words": ["bad word"]}, "bad word"), ({"thinking_token_budget": 9}, "budget for thinking"),
    ({"repetition_detection": {"max_pattern_size": 4, "min_count": 2}}, "repetitions"),
    ({"vllm_xargs": {"own": 1}}, "extension"), ({"presence_penalty": "0.5"}, "penalties"),
    ({"frequency_penalty": -1, "temperature": "0"}, "penalties"),
]  # fmt: skip


@pytest.mark.parametrize("base", [CHAT, COMPLETION], ids=["chat", "completion"])
@pytest.mark.parametrize(("extra", "why"), LASTING, ids=[next(iter(extra)) for extra, _ in LASTING])
async def test_what_the_tokens_made_have_a_part_in_later_is_made_again_whole(
    base: dict[str, Any], extra: dict[str, Any], why: str
) -> None:
    chat, body = "messages" in base, {**base, **extra}
    requested = plan.fields(json.dumps(body).encode(), chat=chat)
    assert not obstacles.of_request(requested, chat) and re.search(why, obstacles.lasting(requested))
    assert plan.read(json.dumps(body).encode(), chat=chat, resume=True).follows


def test_all_alternatives_are_more_than_a_continuation_tells() -> None:
    """A completion names them by what they read, so that of two that read the same one is lost."""
    body = json.dumps({**CHAT, "logprobs": True, "top_logprobs": -1}).encode()
    assert plan.read(body, chat=True, resume=True).follows


@pytest.mark.parametrize(("extra", "always"), [
    ({"seed": 7, "temperature": 1}, True), ({"temperature": 1, "presence_penalty": 0.5}, False),
    ({"logprobs": True}, False), ({"n": 2}, True), ({"tools": [{"type": "function"}]}, True),
])  # fmt: skip
def test_what_is_exact_only_as_a_whole_is_made_again_so_where_that_can_be(extra: dict[str, Any], always: bool) -> None:
    body = json.dumps({**CHAT, **extra}).encode()
    assert plan.read(body, chat=True, resume=True).follows is always
    assert plan.read(body, chat=True, resume=True, replays=True).follows


@pytest.mark.parametrize("extra", [
    {"seed": 7, "temperature": 0}, {"seed": None}, {"presence_penalty": 0}, {"logprobs": False}, {"n": 1},
    {"use_beam_search": True, "n": 2},
])  # fmt: skip
def test_what_goes_on_from_its_tokens_or_not_at_all_is_not_remembered(extra: dict[str, Any]) -> None:
    assert not plan.read(json.dumps({**CHAT, **extra}).encode(), chat=True, resume=True, replays=True).follows


@pytest.mark.parametrize(("top", "tokens", "why"), [
    ({"a": -1.0}, ["a"], "read the same"), ({"token_id:7": -1.0, "token_id:8": -2.0}, ["token_id:7"], "by id"),
])  # fmt: skip
@pytest.mark.parametrize("extra", [{"top_logprobs": 2}, {"logprob_token_ids": [7, 8]}], ids=["top", "chosen"])
async def test_log_probabilities_that_have_lost_something_end_the_stream(
    top: dict[str, float], tokens: list[str], why: str, extra: dict[str, Any]
) -> None:
    coming = [ROLE, event({"content": "x"}, [1], logprobs=LOGPROBS)]
    transcript = transcript_with({**CHAT, "logprobs": True, **extra}, coming)
    resumption = Resumption(transcript)
    resumption.go_on(await resumption.point(read), 512)
    logprobs = {"tokens": tokens, "token_logprobs": [-1.0], "top_logprobs": [top], "text_offset": [0]}
    choice = {"index": 0, "text": "a", "logprobs": logprobs, "finish_reason": None, "token_ids": [7]}
    with pytest.raises(CannotResume, match=why):
        transcript.pass_on(events.dump({"id": "cmpl-1", "choices": [choice]})[:-2])


def test_usage_that_is_told_unasked_is_told_to_the_end() -> None:
    """By a worker with `--enable-force-include-usage`, lost before the last event."""
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    transcript = transcript_with(CHAT, [ROLE.replace(b'"choices"', b'"usage":{"prompt_tokens":2},"choices"')])
    last = event({"content": "x"}, [1], usage=usage).replace(b'"finish_reason":null', b'"finish_reason":"length"')
    feed(transcript, last, straight=True)
    assert transcript.finished
    assert json.loads(transcript.finish().split(b"\n\n")[0][6:])["usage"] == usage


async def test_a_sample_goes_on_with_its_penalties() -> None:
    """As documented: another sample is one all the same."""
    transcript = transcript_of({**COMPLETION, "temperature": 1, "presence_penalty": 0.5}, False)
    assert json.loads(transcript.plan.body)["presence_penalty"] == 0.5
    assert await broken(transcript, (5,))


@pytest.mark.parametrize(("temperature", "greedy"), [
    (0, True), ("-0.0", True), (False, True), (1e-9, False), ("1e-6", False), (True, False), (None, False),
])  # fmt: skip
def test_greedy_is_a_temperature_of_nothing(temperature: object, greedy: bool) -> None:
    """A small one is no less a sample: vLLM makes it 0.01."""
    assert obstacles.is_greedy(lax.request({"temperature": temperature}, chat=False)) is greedy


async def test_a_request_that_the_engine_would_refuse_is_not_continued() -> None:
    transcript = transcript_of({**COMPLETION, "max_tokens": "many"}, False)
    event = b'data: {"id":"a","choices":[{"index":0,"text":"a","finish_reason":null,"token_ids":[1]}]}'
    transcript.pass_on(event)
    assert transcript.hindrance() == "its request is not understood"
