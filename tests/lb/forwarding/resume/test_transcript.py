"""A stream broken anywhere, any number of times, and continued, is the undisturbed stream: against the simulator's
tokenizer, detokenizer and events, without any I/O."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lb.forwarding.resume import events
from lb.forwarding.resume.plan import Build
from lb.forwarding.resume.point import CannotResume
from lb.forwarding.resume.resumption import Resumption
from lb.forwarding.resume.stream_failed import StreamFailed
from simstreams import CONTEXT, seen, stream
from transcripts import broken, feed, read, transcript_of
from worker.sim.engine import tokens

STOPS = st.sampled_from([[], ["\n"], [". "], [" the", "a"], ["nothing like it", "日"], [" cat sat on the mat"]])


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, Any], bool]:
    chat = draw(st.booleans())
    body: dict[str, Any] = {
        "model": "demo", "stream": True, "temperature": 0, "max_tokens": draw(st.integers(1, 90)),
        "ignore_eos": draw(st.booleans()),
    }  # fmt: skip
    if stop := draw(STOPS):
        body["stop"] = stop
        body["include_stop_str_in_output"] = draw(st.booleans())
    if draw(st.booleans()):
        body["min_tokens"] = draw(st.integers(0, body["max_tokens"]))
    if draw(st.booleans()):
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": draw(st.booleans())}
    if draw(st.booleans()):
        body["return_token_ids"] = True
    logprobs = draw(st.none() | st.integers(0, 3))
    text = draw(st.text("abc é日", min_size=1, max_size=12))
    if chat:
        body["messages"] = [{"role": "user", "content": text}]
        if logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": logprobs}
    else:
        body["prompt"] = text if draw(st.booleans()) else [65, 66, *tokens.encode(text)]
        if logprobs is not None:
            body["logprobs"] = logprobs
        elif isinstance(body["prompt"], str) and "return_token_ids" not in body:
            body["echo"] = draw(st.booleans())
    return body, chat


@given(
    requests(), st.lists(st.integers(0, 40), min_size=1, max_size=4), st.lists(st.integers(1, 4), max_size=12),
    st.booleans(),
)  # fmt: skip
@settings(max_examples=4 * settings.default.max_examples)
async def test_a_continued_stream_is_the_undisturbed_one(
    request: tuple[dict[str, Any], bool], breaks: list[int], sizes: list[int], straight: bool
) -> None:
    body, chat = request
    undisturbed = seen(b"".join(stream(body, chat, sizes)))
    transcript = transcript_of(body, chat)
    assert seen(await broken(transcript, breaks, sizes, straight)) == undisturbed
    made = json.loads(json.dumps(undisturbed["ids"])) or None
    if made is not None:
        assert transcript.tokens.all() == made


@given(requests())
@settings(max_examples=6 * settings.default.max_examples // 10)
async def test_an_undisturbed_stream_goes_through_as_if_nothing_had_been_asked_for(
    request: tuple[dict[str, Any], bool]
) -> None:
    """Byte by byte."""
    body, chat = request
    transcript = transcript_of(body, chat)
    out = b"".join(feed(transcript, event, True) for event in stream(json.loads(transcript.plan.body), chat))
    assert out == b"".join(stream(body, chat))
    assert transcript.finished and transcript.done
    assert not transcript.finish()


#: Whose first token is special, and held back with what follows.
HELD_SPECIAL = {
    "model": "demo", "stream": True, "max_tokens": 2, "ignore_eos": True, "stop": ["nothing like it", "日"],
    "prompt": "a日a é ébé ca",
}  # fmt: skip


@given(requests(), st.integers(1, 30))
@example((HELD_SPECIAL, False), 1)
@example(({**HELD_SPECIAL, "logprobs": 0}, False), 1)
async def test_a_sample_goes_on_from_the_tokens_that_were_made(
    request: tuple[dict[str, Any], bool], after: int
) -> None:
    """No text is lost, none repeated; where that is not possible it says so."""
    body, chat = request
    body = {**body, "temperature": 1.0, "echo": False}
    transcript = transcript_of(body, chat)
    out = b"".join(feed(transcript, event, True) for event in stream(json.loads(transcript.plan.body), chat)[:after])
    if transcript.finished or transcript.can_start_over:
        return
    made = transcript.tokens.all()
    try:
        point = await (resumption := Resumption(transcript)).point(read)
    except CannotResume as error:
        assert "sample" in str(error)
        return
    again = json.loads(resumption.go_on(point, CONTEXT))
    before = tokens.decode(made[: point.kept])
    said = seen(out)["text"]
    assert before == said[: len(said)] + point.held if not point.repeated else before + point.repeated == said
    assert point.repeated == "" or not body.get("stop")
    assert again["prompt"][len(again["prompt"]) - point.kept :] == made[: point.kept]
    assert again["max_tokens"] == body["max_tokens"] - point.kept


def test_an_error_event_is_a_failure_and_nothing_of_it_goes_out() -> None:
    body = {"model": "demo", "prompt": "x", "stream": True, "max_tokens": 9, "temperature": 0}
    transcript = transcript_of(body, False)
    coming = stream(json.loads(transcript.plan.body), False)
    transcript.pass_on(coming[0][:-2])
    with pytest.raises(StreamFailed, match="ended the stream in an error: it broke") as failed:
        transcript.pass_on(b'data: {"error":{"message":"it broke","code":500}}')
    assert not failed.value.final
    with pytest.raises(StreamFailed, match="without having finished"):
        transcript.pass_on(b"data: [DONE]")


def test_an_error_of_the_clients_is_final() -> None:
    transcript = transcript_of({"model": "demo", "prompt": "x", "stream": True}, False)
    event = b'data: {"error":{"message":"too long","code":400}}'
    with pytest.raises(StreamFailed) as failed:
        transcript.pass_on(event)
    assert failed.value.final
    assert failed.value.event == event + b"\n\n"


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_stream_that_was_given_up_is_a_failure(reason: str) -> None:
    transcript = transcript_of({"model": "demo", "prompt": "x", "stream": True}, False)
    head = '{"id":"a","object":"text_completion","created":1,"model":"demo","choices":'
    with pytest.raises(StreamFailed, match="gave the request up"):
        transcript.pass_on(f'data: {head}[{{"index":0,"text":"","finish_reason":"{reason}"}}]}}'.encode())


@pytest.mark.parametrize("chat", [False, True])
def test_what_was_given_up_before_its_first_token_is_not_counted_for_the_client(chat: bool) -> None:
    """vLLM sends its usage, and not even that it was aborted."""
    body = {
        **({"messages": [{"role": "user", "content": "x"}]} if chat else {"prompt": "x"}),
        "model": "demo", "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    transcript = transcript_of(body, chat)
    *_, usage, _ = stream(json.loads(transcript.plan.body), chat)
    assert b'"choices":[]' in usage
    with pytest.raises(StreamFailed, match="without having finished"):
        transcript.pass_on(usage[:-2])
    assert transcript.can_start_over


def test_a_stream_that_lacks_only_its_end_gets_it() -> None:
    body = {
        "model": "demo", "prompt": "x", "stream": True, "max_tokens": 5, "temperature": 0, "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    transcript, whole = transcript_of(body, False), stream(body, False)
    out = b"".join(feed(transcript, event, False) for event in stream(json.loads(transcript.plan.body), False)[:-2])
    assert transcript.finished
    assert not transcript.done
    assert seen(out + transcript.finish()) == seen(b"".join(whole))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("straight", [False, True])
def test_an_end_of_ours_says_what_other_ends_have_said_of_the_build(chat: bool, straight: bool) -> None:
    body = {
        **({"messages": [{"role": "user", "content": "x"}]} if chat else {"prompt": "x"}),
        "model": "demo", "stream": True, "max_tokens": 5, "temperature": 0, "ignore_eos": True,
    }  # fmt: skip
    build, with_usage = Build(), {**body, "stream_options": {"include_usage": True}}
    whole = transcript_of(body, chat, build)
    for event in stream(json.loads(whole.plan.body), chat):
        feed(whole, event, straight)
    short = transcript_of(with_usage, chat, build)
    for event in stream(json.loads(short.plan.body), chat)[:-2]:
        feed(short, event, straight)
    assert b'"system_fingerprint":"vllm-' in short.finish()


async def test_what_is_made_otherwise_is_no_continuation() -> None:
    """With a stop string text has to be made again; another worker that makes something else is not believed."""
    body = {
        "model": "demo", "prompt": "hello", "stream": True, "max_tokens": 60, "temperature": 0, "ignore_eos": True,
        "stop": ["nothing like this at all"],
    }  # fmt: skip
    transcript = transcript_of(body, False)
    for event in stream(json.loads(transcript.plan.body), False)[:30]:
        transcript.pass_on(event[:-2])
    resumption = Resumption(transcript)
    point = await resumption.point(read)
    assert point.repeated
    resumption.go_on(point, CONTEXT)
    head = '{"id":"b","object":"text_completion","created":1,"model":"demo","choices":'
    other = '[{"index":0,"text":"~~~~","logprobs":null,"finish_reason":null,"stop_reason":null,"token_ids":[1]}]}'
    with pytest.raises(CannotResume, match="same text"):
        transcript.pass_on(f"data: {head}{other}".encode())


async def test_special_tokens_are_looked_for_as_far_back_as_text_lags() -> None:
    """The end of a text that goes on all the same; what a tokenizer makes of it stands in what was sent last."""
    body = {
        "model": "demo", "prompt": "x", "stream": True, "max_tokens": 400, "temperature": 0, "ignore_eos": True,
        "stop": ["zebra crossing of the queen"],
    }  # fmt: skip
    coming = stream({**body, "return_token_ids": True}, False)
    ends = [at for at, event in enumerate(coming) if b'"token_ids":[257]' in event]
    assert ends, "this text has one"
    for after in range(ends[0] + 1, min(ends[0] + 60, len(coming) - 3)):
        transcript = transcript_of(body, False)
        out = b"".join(feed(transcript, event, True) for event in coming[:after])
        point = await Resumption(transcript).point(read)
        kept = tokens.decode(transcript.tokens.all()[: point.kept])
        assert kept + point.repeated == seen(out)["text"]


@pytest.mark.parametrize("stop", [". ", ["nothing like it"]])
@pytest.mark.parametrize("breaks", [(32, 0), (32, 1), (32, 2), (32, 0, 1), (33, 0)])
async def test_special_tokens_are_remembered_when_the_next_worker_is_lost_before_it_gets_there(
    stop: str | list[str], breaks: tuple[int, ...]
) -> None:
    """The end of a text that goes on is one of the last tokens; nothing of what follows has been sent."""
    body = {
        "model": "demo", "prompt": "acc b  日 c", "stream": True, "max_tokens": 36, "temperature": 0,
        "ignore_eos": True, "stop": stop,
    }  # fmt: skip
    assert any(b'"token_ids":[257]' in one for one in stream({**body, "return_token_ids": True}, False)[30:33])
    assert seen(await broken(transcript_of(body, False), breaks)) == seen(b"".join(stream(body, False)))


async def test_the_tokens_of_a_long_stream_are_all_kept() -> None:
    body = {"model": "demo", "prompt": "x", "stream": True, "max_tokens": 400, "temperature": 0, "ignore_eos": True}
    transcript = transcript_of(body, False)
    coming = stream({**body, "return_token_ids": True}, False)
    for event in coming[:-2]:
        feed(transcript, event, True)
    found = [int(i) for event in coming for some in events.ids(event) for i in some.split(b",")]
    assert transcript.tokens.all() == found[:-1]
    assert transcript.tokens.count() == 399
