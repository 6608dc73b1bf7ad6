"""A stream that is made again whole: whatever it is cut into and wherever it breaks, its client gets each part once."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from config import replay
from config.topology import Capabilities
from lb.forwarding.resume.follow import cut
from lb.forwarding.resume.follow.plan import FollowPlan
from lb.forwarding.resume.followed import FollowedStream, Way
from lb.forwarding.resume.point import CannotResume
from lb.forwarding.resume.stream_failed import StreamFailed
from lb.protocol.http1.chunked import frame, payload_of
from lb.telemetry.model_metrics import BATCH, ModelMetrics
from replaystreams import CHAT, COMPLETIONS, MESSAGES, PATHS, RESPONSES, seen, stream, tokens

REPLAYS, PLAIN = Capabilities(replay=True), Capabilities()
COUNT = 30

Events = Sequence[tuple[bytes, bytes]]


def followed(path: str, choices: int = 1, **fields: Any) -> FollowedStream:
    body: dict[str, Any] = {"model": "base", "stream": True, "stream_options": {"include_usage": True}, **fields}
    body |= {"n": choices} if choices > 1 else {}
    recorder = ModelMetrics(CollectorRegistry(), lambda: 1.0).begin("base")
    return FollowedStream(FollowPlan(path, json.dumps(body).encode()), recorder)


def feed(made: FollowedStream, coming: Events, *, tells: bool = True, together: int = 1) -> bytes:
    """As a connection and its relay do it. ``together``: so many events come in one chunk."""
    made.answered(tells)
    out, whole = b"", [(told if tells else b"") + event for told, event in coming]
    for at in range(0, len(whole), together):
        data = b"".join(whole[at : at + together])
        if made.started and made.straight is not None and not made.finished:
            framed = frame(data)
            if (passed := made.straight(framed, payload_of(framed))) is not None:
                assert b": tokens" not in passed
                made.recorder.stamps.append(2.0)
                made.recorder.latest.append(framed)
                if len(made.recorder.latest) >= BATCH:
                    made.recorder.count()
                out += passed[passed.index(b"\n") + 1 : -2]
                continue
        for event in data.split(b"\n\n")[:-1]:
            out += made.pass_on(event)
    return out


def counted(path: str, choices: int) -> list[int]:
    return [COUNT + 3 * choice for choice in range(choices if path in (CHAT, COMPLETIONS) else 1)]


CUTS = st.lists(st.integers(1, 9), max_size=30)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("way", [Way.REPLAY, Way.COMPARE])
@given(st.data())
def test_wherever_it_breaks_its_client_gets_each_part_once(path: str, way: Way, data: st.DataObject) -> None:
    """With replay as a sample that no two workers make alike; without as one that all do."""
    choices = data.draw(st.integers(1, 3))
    made = followed(path, choices, **({"seed": 1} if way is Way.COMPARE else {}))
    able = REPLAYS if way is Way.REPLAY else PLAIN
    lag, first = data.draw(st.integers(0, 9)), [[] for _ in counted(path, choices)]  # type: list[list[int]]
    out, name = b"", "x"
    for breaks in (*data.draw(st.lists(st.integers(0, 99), max_size=3)), None):
        salt = f"{way is Way.REPLAY and name}"
        ids = [tokens(f"{salt}{at}", size, some) for at, (size, some) in enumerate(
            zip(counted(path, choices), first, strict=True)
        )]  # fmt: skip
        coming = stream(path, ids, name, sizes=data.draw(CUTS), lag=lag)
        breaks = None if breaks is None else breaks % len(coming)
        out += feed(made, coming[:breaks], tells=way is Way.REPLAY, together=data.draw(st.integers(1, 4)))
        if breaks is None or made.finished:
            break
        name += "y"
        found = made.way(able)
        assert found in (way, Way.AGAIN) and not made.hindrance()
        asked = made.again(found)
        if found is Way.REPLAY:
            told, sent = replay.read(asked)
            first = [told[choice] if choice < len(told) else [] for choice in range(len(first))]
            assert all(some == whole[: len(some)] for some, whole in zip(first, ids, strict=True)), "of the last one"
            asked = sent
        else:
            first = [[] for _ in first]
        assert asked.startswith(made.plan.body[:-1])
    out += made.finish()
    assert seen(path, out) == seen(path, b"".join(event for _, event in stream(path, ids, "x")))


def broken(path: str, at: int = 12, choices: int = 1, *, tells: bool = True, **fields: Any) -> FollowedStream:
    """One that has lost its worker after so many events."""
    made = followed(path, choices, **fields)
    feed(made, stream(path, [tokens("x", COUNT)] * choices, "x")[:at], tells=tells)
    return made


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_that_differs_ends_the_stream(path: str) -> None:
    """In its text, in its parts, or where it ends."""
    others = [[tokens("other", COUNT)], [tokens("x", COUNT, tokens("x", 8))[:9]], [tokens("x", 20)]]
    for ids in others:
        made = broken(path, 40, seed=1, tells=False)
        made.again(Way.COMPARE)
        with pytest.raises(CannotResume):
            feed(made, stream(path, ids, "xy"), tells=False)


@pytest.mark.parametrize("path", PATHS)
def test_an_error_event_is_none_of_the_answer(path: str) -> None:
    said = {"message": "EngineCore encountered an issue", "type": "internal_error"}
    own = {MESSAGES: {"type": "error", "error": said}, RESPONSES: {**said, "type": "error"}}
    event = own.get(path, {"error": said})
    for before in (0, 12):
        made = broken(path, before)
        with pytest.raises(StreamFailed, match="EngineCore encountered"):
            made.pass_on(b"data: " + json.dumps(event).encode())


def test_which_way_it_goes_on() -> None:
    """As cheaply as can be of the ways that are exact."""
    sample, seeded = broken(CHAT), broken(CHAT, seed=1)
    assert (sample.way(REPLAYS), sample.way(PLAIN)) == (Way.REPLAY, None)
    assert (seeded.way(REPLAYS), seeded.way(PLAIN)) == (Way.REPLAY, Way.COMPARE)
    assert broken(CHAT, 1).way(PLAIN) is Way.AGAIN
    untold = broken(CHAT, tells=False), broken(CHAT, tells=False, temperature="0")
    assert [made.way(REPLAYS) for made in untold] == [None, Way.COMPARE]
    assert "tokens are not known" in untold[0].hindrance() and not untold[1].hindrance()
    for made in (sample, seeded):
        made.refused()
    assert (sample.way(REPLAYS), seeded.way(REPLAYS)) == (None, Way.COMPARE)
    assert "did not make its tokens again" in sample.hindrance()
    assert broken(CHAT, use_beam_search=True).hindrance() == "it is a beam search"


def test_a_response_keeps_its_name() -> None:
    made = broken(RESPONSES)
    assert made.response == "resp_x"
    assert json.loads(replay.read(made.again(Way.REPLAY))[1])["request_id"] == "resp_x"
    assert "request_id" not in json.loads(made.again(Way.COMPARE, named=False))


@pytest.mark.parametrize("path", PATHS)
def test_what_was_sent_takes_as_much_memory_as_its_text(path: str) -> None:
    made = followed(path)
    feed(made, stream(path, [tokens("x", 3000)], "x")[:2900])
    assert made._sent._size <= 64 * 1024
    made.again(Way.REPLAY)
    assert made.tokens.count() == len(made.tokens.all()[0]) >= 2800


@pytest.mark.parametrize("path", PATHS)
def test_each_token_counts_once(path: str) -> None:
    """However often it is made."""
    made, ids = broken(path, 20), tokens("x", COUNT)
    count = made.count()
    assert 0 < count <= 20
    made.again(Way.REPLAY)
    assert made.count() == count, "nothing has come of the second"
    coming = stream(path, [ids], "xy")
    feed(made, coming[:9])
    assert made.count() == count, "less has than of the first"
    feed(made, coming[9:])
    assert made.count() == COUNT


@given(st.lists(st.sampled_from([
    ": tokens 0 1", ": tokens 12 3,44", ": tokens 0 ", ": tokens 1,2", " : tokens 0 1", ": tokens 0 1,", "data: x",
    'data: {"a":"\\n: tokens 0 1"}', "1f\r", "", ": tokens 0 5\r",
])))  # fmt: skip
def test_what_is_told_is_found_in_either_way(lines: list[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    assert replay.told(data) == replay.take_comments(data)[1]


@given(st.lists(st.tuples(st.integers(0, 3), st.text(": tokens01\n", max_size=20)), min_size=1, max_size=6))
def test_comments_are_cut_out_of_whole_chunks(said: list[tuple[int, str]]) -> None:
    """One event or several, with as many comments as there are choices before each."""
    events = [b'data: {"x":%b,"finish_reason":null}\n\n' % json.dumps(text).encode() for _, text in said]
    told = [b"".join(replay.comment(choice, [1, 2]) for choice in range(count)) for count, _ in said]
    passes = cut.middle(b'"finish_reason":null')
    together = frame(b"".join(map(b"".join, zip(told, events, strict=True))))
    singly = b"".join(frame(one + event) for one, event in zip(told, events, strict=True))
    for coming in (together, singly):
        assert passes(coming, payload_of(coming)) in (frame(b"".join(events)), coming)


def test_a_server_may_say_with_each_event_who_speaks() -> None:
    """As many as there are of them, which are others the next time."""
    made, ids = followed(CHAT, seed=1), [tokens("x", COUNT)]

    def repeated(name: str, **given: Any) -> list[tuple[bytes, bytes]]:
        coming = stream(CHAT, ids, name, **given)
        return [(told, event.replace(b'"delta":{', b'"delta":{"role":"assistant",')) for told, event in coming[1:]]

    out = feed(made, repeated("x")[:9], tells=False)
    made.again(Way.COMPARE)
    again = feed(made, repeated("xy", sizes=[4] * 9), tells=False)
    assert b'"role"' in out and b'"role"' not in again
    assert b"".join(re.findall(rb'"content":"([^"]*)"', out + again)) == b"".join(
        re.findall(rb'"content":"([^"]*)"', b"".join(event for _, event in stream(CHAT, ids, "x")))
    )
