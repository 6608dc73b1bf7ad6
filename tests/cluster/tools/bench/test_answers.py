"""Reading an answer: however its bytes come, the same comes of it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.bench.answers import AnswerError, AnswerTimes


def event(*choices: dict[str, Any], **rest: Any) -> bytes:
    return b"data: " + json.dumps({"choices": list(choices), **rest}, ensure_ascii=False).encode() + b"\n\n"


ROLE = event({"delta": {"role": "assistant", "content": ""}})
LAST = event({"delta": {"content": "."}, "finish_reason": "stop"})
USAGE = event(usage={"prompt_tokens": 7, "completion_tokens": 12})
DONE = b"data: [DONE]\n\n"
WHOLE = ROLE + b": ping\n\n" + event({"delta": {"content": "héllo\u2028 – データ"}}) + LAST + USAGE + DONE


def read(*pieces: bytes) -> AnswerTimes:
    answer = AnswerTimes()
    for number, piece in enumerate(pieces):
        answer.feed(piece, float(number))
    answer.end(float(len(pieces)))
    return answer


@given(st.lists(st.integers(0, len(WHOLE)), max_size=20), st.booleans())
def test_it_does_not_matter_where_the_bytes_are_cut(cuts: list[int], crlf: bool) -> None:
    places = [0, *sorted(cuts), len(WHOLE)]
    pieces = [WHOLE[a:b] for a, b in pairwise(places)]
    if crlf:
        pieces = [piece.replace(b"\n", b"\r\n") for piece in pieces]
    answer = read(*pieces)
    assert (len(answer.moments), answer.prompt_tokens, answer.tokens) == (3, 7, 12)
    assert answer.moments == sorted(answer.moments)


def test_a_line_end_that_comes_in_two_pieces() -> None:
    assert read(LAST[:-1].replace(b"\n", b"\r\n") + b"\r", b"\n" + DONE).tokens == 1


def test_moments_are_those_of_events_with_a_choice() -> None:
    answer = read(ROLE, LAST, USAGE, DONE)
    assert answer.moments == [0.0, 1.0]


def test_without_usage_events_are_counted() -> None:
    answer = read(ROLE + LAST + DONE)
    assert answer.completion_tokens is None and answer.tokens == 2


def test_a_finish_reason_is_an_end_too_and_the_last_blank_line_may_be_missing() -> None:
    assert read(ROLE, LAST.rstrip()).tokens == 2


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ((DONE,), "no token"), ((USAGE, DONE), "no token"), ((), "no token"), ((ROLE,), "broken off"),
        ((ROLE, b'data: {"error": {"message": "lost"}}\n\n', DONE), "error in the answer"),
        ((ROLE, event({"finish_reason": "abort"}), DONE), "aborted"), ((ROLE, b"data: {]\n\n"), "no JSON"),
        ((b"data: 7\n\n",), "no JSON"), ((ROLE, LAST[:20]), "no JSON"),
    ],
)  # fmt: skip
def test_what_is_no_answer_does_not_count(pieces: tuple[bytes, ...], kind: str) -> None:
    with pytest.raises(AnswerError) as failure:
        read(*pieces)
    assert failure.value.kind == kind


@given(st.binary(max_size=200))
def test_nothing_that_comes_breaks_it(data: bytes) -> None:
    try:
        read(data)
    except AnswerError:
        pass


def test_an_answer_that_is_not_streamed() -> None:
    answer = AnswerTimes()
    answer.whole(json.dumps({"choices": [{"finish_reason": "length"}], "usage": {"completion_tokens": 3}}).encode())
    assert answer.tokens == 3 and answer.moments == []
    for body, kind in (({"error": {"message": "x"}}, "error in the answer"), ({}, "no answer")):
        with pytest.raises(AnswerError) as failure:
            AnswerTimes().whole(json.dumps(body).encode())
        assert failure.value.kind == kind


def test_long_words_of_others_are_cut() -> None:
    with pytest.raises(AnswerError) as failure:
        read(b'data: {"error": "' + b"x" * 5000 + b'"}\n\n')
    assert len(failure.value.detail) == 200
