from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.chat.openai_stream import AnswerReader, BadStream, Halves, SseParser, Stats, error_of, piece

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=6)


def _event(text: str = "", finish: str | None = None, ascii: bool = False, **fields: Any) -> str:
    choice = {"delta": {"content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], **fields}, ensure_ascii=ascii)


def _stream(texts: list[str], end: str = "\n\n", ascii: bool = False) -> bytes:
    events = [_event(text, ascii=ascii) for text in texts] + [_event(finish="stop"), "[DONE]"]
    return "".join(f"data: {event}{end}" for event in events).encode()


def _cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


ENDS = st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"])


@given(TEXTS, ENDS, st.lists(st.integers(0, 10**6), max_size=20), st.booleans())
def test_however_it_is_cut_the_text_is_whole(texts: list[str], end: str, cuts: list[int], ascii: bool) -> None:
    reading = AnswerReader(0.0)
    pieces = [p.text for part in _cut(_stream(texts, end, ascii), cuts) for p in reading.feed(part, 1.0)]
    assert "".join([*pieces, reading.end()]) == "".join(texts)
    assert reading.finish == "stop"


@given(st.text(st.characters(codec="utf-8")))
def test_halves_of_a_character_in_two_events_become_one(text: str) -> None:
    units = text.encode("utf-16-le")
    halves = Halves()
    single = [units[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(units), 2)]
    joined = "".join(halves.join(unit) for unit in single) + halves.join("", last=True)
    assert joined == text
    joined.encode()


def test_a_half_that_stays_alone_is_shown_as_such() -> None:
    assert Halves().join("a\ud83d", last=True) == "a\ufffd"
    assert Halves().join("\ude00b") == "\ufffdb"


def test_events_as_the_standard_has_them() -> None:
    parser = SseParser()
    data = b"\xef\xbb\xbf: a comment\ndata: one\ndata:two\nid: 7\n\nevent: x\n\ndata\ndata: three\n\nrest"
    assert list(parser.feed(data)) == ["one\ntwo", "\nthree"]


def test_a_stream_that_broke_off_is_no_answer() -> None:
    reading = AnswerReader(0.0)
    list(reading.feed(f"data: {_event('half')}\n\n".encode(), 1.0))
    with pytest.raises(BadStream, match="broke off"):
        reading.end()


def test_an_answer_that_a_worker_gave_up_is_no_answer() -> None:
    reading = AnswerReader(0.0)
    list(reading.feed(f"data: {_event('half', 'abort')}\n\ndata: [DONE]\n\n".encode(), 1.0))
    with pytest.raises(BadStream, match="gave the answer up"):
        reading.end()


def test_an_error_in_the_stream_is_said_in_its_words_with_its_code() -> None:
    with pytest.raises(BadStream, match="the worker is gone") as failure:
        piece('{"error": {"message": "the worker is gone", "code": 502}}')
    assert failure.value.status == 502


@pytest.mark.parametrize("event", ["<html>", "[]", "7", '{"choices": [7]}', '{"choices": {"a": 1}}', '{"usage": "x"}'])
def test_what_is_no_stream_is_an_error_and_no_traceback(event: str) -> None:
    with pytest.raises(BadStream):
        piece(event)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no"}}, "no"), ({"error": "Unauthorized"}, "Unauthorized"),
        ({"detail": "Not Found"}, "Not Found"), ({"error": {}}, "otherwise"), ([], "otherwise"), (None, "otherwise"),
    ],
)  # fmt: skip
def test_errors_as_servers_write_them(body: Any, words: str) -> None:
    assert error_of(body, "otherwise")[0] == words


def test_times_and_tokens() -> None:
    reading = AnswerReader(10.0)
    list(reading.feed(f"data: {_event()}\n\n".encode(), 10.1))  # the role alone is no token
    for at in (10.5, 11.0, 11.5):
        list(reading.feed(f"data: {_event('x')}\n\n".encode(), at))
    usage = {"prompt_tokens": 3, "completion_tokens": 5}
    list(reading.feed(f"data: {_event(finish='length', usage=usage)}\n\ndata: [DONE]\n\n".encode(), 11.6))
    assert reading.stats(11.7) == Stats(first=0.5, total=pytest.approx(1.7), tokens=5, rate=4.0, cut=True)
    words = reading.stats(11.7).words()
    assert words == "first token 500 ms · 5 tokens in 1.7 s · 4.0 tokens/s · cut off at the limit of tokens"


def test_a_single_token_has_no_rate() -> None:
    reading = AnswerReader(0.0)
    list(reading.feed(f"data: {_event('x')}\n\n".encode(), 0.25))
    assert reading.stats(0.5).words() == "first token 250 ms · 1 tokens in 500 ms"
