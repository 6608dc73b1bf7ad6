"""A worker's side of an answer made again: what asks for it."""

from __future__ import annotations

import json

import pytest

from config import replay
from worker.engines.replay import envelope


@pytest.mark.parametrize("tokens", [[], [[]], [[1, 2], [], [9]], [[0] * 100]])
def test_what_the_balancer_sends_is_taken_apart(tokens: list[list[int]]) -> None:
    sent = b'{"stream": true,\n "n": 3}'
    assert envelope.opened(replay.body(tokens, sent), 10, 100) == (tokens, sent)


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[1]", b"[[1.5]]", b"[[true]]", b'[["1"]]', b"[[-1]]", b"[[10]]", b"[[1e1]]", b"[[[1]]]", b"[null]",
     b"[[1]", b"\xff", b"[" * 100_000, b"[[" + b"1," * 100 + b"1]]", b"[[" + b"9" * 5000 + b"]]", b"[[NaN]]"],
    ids=lambda line: repr(line[:12]),
)  # fmt: skip
def test_what_no_worker_could_make_is_refused(line: bytes) -> None:
    with pytest.raises(envelope.BadEnvelope):
        envelope.opened(line + b"\n{}", 10, 100)
    with pytest.raises(envelope.BadEnvelope):
        envelope.opened(line, 10, 100)


def test_there_may_be_fewer_lists_than_choices_but_not_more() -> None:
    envelope.check_choices([[1]], 2)
    with pytest.raises(envelope.BadEnvelope, match="2 choices for an answer with 1"):
        envelope.check_choices([[1], []], 1)
    assert json.loads(envelope.refusal("no"))["error"]["code"] == 400
