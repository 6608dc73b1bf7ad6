"""Answers that are to be JSON, asked of servers that take the schema and of those that do not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.batch.lenient import LenientSender
from cluster.tools.batch.lines import BatchRequest, Defaults, ask_of
from cluster.tools.batch.run import RequestSender
from cluster.tools.batch.structured import FIELD, format_of, values

LEAVES = st.none() | st.booleans() | st.integers() | st.text()
JSON = st.recursive(LEAVES, lambda x: st.lists(x) | st.dictionaries(st.text(), x))
PROSE = st.text(st.characters(exclude_characters="{["))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', [{"a": 1}]), ('Sure!\n```json\n[1, 2]\n```\nBye', [[1, 2]]), ('{"a": {"b": [1]}} {"c": 2}', [
            {"a": {"b": [1]}}, {"c": 2},
        ]), ('{"rows": [{"a": 1}, {"b": 2}, {"c"', [{"a": 1}, {"b": 2}]), ("{x} [1]", [[1]]), ("none", []),
        ("{" * 1000 + "[1]", []), ("[" * 200_000, []),
    ],
)  # fmt: skip
def test_json_is_found_in_what_stands_around_it(text: str, found: list[Any]) -> None:
    assert list(values(text)) == found


@given(PROSE, st.lists(JSON, max_size=3) | st.dictionaries(st.text(), JSON), PROSE)
def test_one_value_between_sentences_is_that_value(before: str, value: Any, after: str) -> None:
    assert list(values(f"{before}{json.dumps(value)}{after}")) == [value]


@given(st.text())
def test_anything_ends(text: str) -> None:
    assert all(isinstance(value, dict | list) for value in values(text))


class Server(RequestSender):
    """Refuses bodies with a field of ``unknown``, in those words."""

    def __init__(self, words: str, *unknown: str, status: int = 400) -> None:
        self._words, self._unknown, self._status = words, unknown, status
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, ask: BatchRequest) -> dict[str, Any]:
        body = json.loads(ask.body)
        self.bodies.append(body)
        if wrong := [name for name in self._unknown if name in body]:
            return {"error": {"message": self._words.format(wrong[0]), "status": self._status}}
        return {"text": "ok", "request_hash": ask.hash}


BODY = {
    "messages": [], "max_tokens": 9, "temperature": 0, "seed": 1, FIELD: format_of("x", {"type": "object"}),
}  # fmt: skip
ASK = ask_of(1, json.dumps(BODY).encode(), Defaults("m"))


@pytest.mark.parametrize(
    ("words", "unknown", "status"),
    [
        ("bad request", [FIELD], 400), ("no {} here", ["max_tokens"], 400), ("no {}", ["seed", "temperature"], 422),
        ("Unsupported: {}", ["max_tokens", FIELD, "temperature", "seed"], 400),
    ],
)  # fmt: skip
async def test_what_a_server_does_not_take_is_left_out_from_then_on(
    words: str, unknown: list[str], status: int
) -> None:
    server = Server(words, *unknown, status=status)
    sender = LenientSender(server)
    for _ in range(2):
        assert await sender(ASK) == {"text": "ok", "request_hash": ASK.hash}
    assert len(server.bodies) == len(unknown) + 2, "each is tried once"
    last = server.bodies[-1]
    assert not set(unknown) & set(last)
    assert last.get("max_completion_tokens") == (9 if "max_tokens" in unknown else None)
    assert set(BODY) - set(unknown) <= set(last)


async def test_a_limit_that_is_too_high_for_a_server_is_left_to_it() -> None:
    server = Server("max_completion_tokens=9 cannot be greater than 5", "max_tokens", "max_completion_tokens")
    assert (await LenientSender(server)(ASK))["text"] == "ok"
    assert not {"max_tokens", "max_completion_tokens"} & set(server.bodies[-1])
    assert FIELD in server.bodies[-1]


async def test_a_refusal_of_something_else_stays_one_and_changes_nothing() -> None:
    server = Server("too long", "messages")
    sender = LenientSender(server)
    assert (await sender(ASK))["error"]["message"] == "too long"
    assert sender.without == frozenset()
    overloaded = LenientSender(Server("{}", FIELD, status=500))
    assert (await overloaded(ASK))["error"]["status"] == 500
