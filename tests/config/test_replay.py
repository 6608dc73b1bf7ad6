"""What balancer and worker say to each other of an answer that is made again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import replay

_TOKENS = st.lists(st.integers(0, 200_000), min_size=1, max_size=9)


@given(st.lists(_TOKENS, max_size=4), st.binary(max_size=64))
def test_a_body_is_read_as_it_was_written(tokens: list[list[int]], sent: bytes) -> None:
    assert replay.read(replay.body(tokens, sent)) == (tokens, sent)


@given(st.lists(st.tuples(st.integers(0, 9), _TOKENS), max_size=5))
def test_comments_are_found_and_taken_out(told: list[tuple[int, list[int]]]) -> None:
    event = b'event: x\ndata: {"a": ": tokens 1 2"}\n\n'
    data = b"".join(replay.comment(*one) + event for one in told)
    left, found = replay.take_comments(data)
    assert left == event * len(told)
    assert [(choice, [int(token) for token in ids.split(b",")]) for choice, ids in found] == told


_NO_SUCH = [b"", b"{}", b"[[1]]", b"{}\n{}", b"[1]\n{}", b"[[true]]\n{}", b"[[-1]]\n", b'[["1"]]\n']


@pytest.mark.parametrize("envelope", _NO_SUCH)
def test_what_is_no_such_body_is_refused(envelope: bytes) -> None:
    with pytest.raises(ValueError):
        replay.read(envelope)
