from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.batch.lines import (
    CHAT,
    COMPLETIONS,
    HASH,
    BadLine,
    Defaults,
    answered,
    ask_of,
    failed,
    line_of,
    refused,
    tokens_of,
    written,
)

BASE = Defaults("base", {"max_tokens": 7})
USAGE = {"prompt_tokens": 1, "completion_tokens": 5}


def _ask(given: Any, defaults: Defaults = BASE) -> tuple[str, Any]:
    ask = ask_of(3, given if isinstance(given, bytes) else json.dumps(given).encode(), defaults)
    assert not ask.wrong, ask.wrong
    return ask.path, json.loads(ask.body)


def test_every_form_is_one_request() -> None:
    turn = [{"role": "user", "content": "q"}]
    assert _ask("q") == (COMPLETIONS, {"prompt": "q", "model": "base", "max_tokens": 7})
    assert _ask({"prompt": "q", "max_tokens": 2, "model": "m", "top_k": 4}) == (
        COMPLETIONS, {"prompt": "q", "model": "m", "max_tokens": 2, "top_k": 4},
    )  # fmt: skip
    assert _ask({"messages": turn, "id": 9})[0] == CHAT
    assert "id" not in _ask({"messages": turn, "id": 9})[1]
    batch = {"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {"input": "q"}}
    assert _ask(batch) == ("/v1/embeddings", {"input": "q", "model": "base"})
    batch |= {"url": CHAT, "body": {"messages": turn, "stream": True, "stream_options": {}}}
    assert _ask(batch) == (CHAT, {"messages": turn, "model": "base", "max_tokens": 7})


def test_prompts_as_questions_and_plain_text() -> None:
    turn = [{"role": "user", "content": "q"}]
    assert _ask({"prompt": "q"}, Defaults("b", chat=True)) == (CHAT, {"messages": turn, "model": "b"})
    assert _ask(b'say "hi" {', Defaults("b", plain=True)) == (COMPLETIONS, {"prompt": 'say "hi" {', "model": "b"})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"not json", "not JSON"), (b"[1]", "neither an object nor a string"), (b"7", "neither"), (b"{}", "is needed"),
        (b'{"prompt": "x", "messages": []}', "is needed"), (b'"\xff"', "not UTF-8"), (b'{"prompt": NaN}', "NaN"),
        (b"[" * 100_000, "not JSON"),
        (b'{"url": "/v1/x", "body": 1}', '"body"'), (b'{"url": "http://x/v1", "body": {}}', '"url"'),
        (b'{"url": "/v1/x?y=1", "body": {}}', '"url"'), (b'{"url": "/v1/x", "method": "GET", "body": {}}', "POST"),
    ],
)  # fmt: skip
def test_a_line_that_asks_nothing_says_why(line: bytes, words: str) -> None:
    ask = ask_of(1, line, BASE)
    assert words in ask.wrong
    assert not ask.path


def test_the_hash_is_of_what_is_asked_not_of_how_it_is_written() -> None:
    one = ask_of(1, b'{"prompt": "x", "top_k": 1}', BASE).hash
    assert ask_of(2, b'{"top_k":1,  "prompt":"x"}', BASE).hash == one
    assert ask_of(1, b'{"prompt": "x", "top_k": 2}', BASE).hash != one
    assert ask_of(1, b'{"prompt": "x", "top_k": 1}', Defaults("other", BASE.sampling)).hash != one
    assert ask_of(1, b"bad", BASE).hash != ask_of(1, b"worse", BASE).hash


@given(st.binary(max_size=200))
def test_no_line_of_bytes_is_more_than_an_error(line: bytes) -> None:
    ask = ask_of(1, line, BASE)
    record = failed(ask, ask.wrong or "x")
    found = written(line_of(record))
    assert found is not None
    assert found.failed
    assert found.hash == ask.hash


def test_an_answer_in_short() -> None:
    ask = ask_of(3, b'{"prompt": "q", "id": "a"}', BASE)
    data = {"model": "m", "choices": [{"text": "t", "finish_reason": "stop"}], "usage": USAGE}
    assert answered(ask, data, "r") == {
        "line": 3, "id": "a", "model": "m", "text": "t", "finish_reason": "stop", "usage": USAGE, HASH: ask.hash,
    }  # fmt: skip
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": 1}], "reasoning": None}
    data["choices"] = [{"message": message, "finish_reason": "tool_calls"}]
    found = answered(ask, data, None)
    assert (found["text"], found["tool_calls"]) == (None, [{"id": 1}])
    assert "reasoning" not in found
    data["choices"] = [{"text": "a", "finish_reason": "stop"}, {"text": "b", "finish_reason": "length"}]
    assert answered(ask, data, None)["texts"] == ["a", "b"]
    assert tokens_of(found) == 5


@pytest.mark.parametrize("data", [None, [], {}, {"choices": []}, {"choices": [7]}, {"choices": None}])
def test_an_answer_that_is_none(data: Any) -> None:
    with pytest.raises(BadLine):
        answered(ask_of(1, b'"q"', BASE), data, None)


def test_an_answer_that_a_worker_gave_up_is_a_failure() -> None:
    with pytest.raises(BadLine, match="gave the answer up"):
        answered(ask_of(1, b'"q"', BASE), {"choices": [{"text": "h", "finish_reason": "abort"}]}, None)


def test_the_batch_form_is_answered_in_it() -> None:
    ask = ask_of(4, b'{"custom_id": "c", "url": "/v1/completions", "body": {"prompt": "q"}}', BASE)
    data = {"choices": [], "usage": USAGE}
    good = answered(ask, data, "r1")
    assert good == {
        "id": "line-4", "custom_id": "c", "response": {"status_code": 200, "request_id": "r1", "body": data},
        "error": None, HASH: ask.hash,
    }  # fmt: skip
    assert tokens_of(good) == 5
    body = {"error": {"message": "too long"}}
    bad = refused(ask, 400, body)
    assert bad["response"] == {"status_code": 400, "request_id": None, "body": body}
    assert bad["error"] == {"code": "400", "message": "too long"}
    assert tokens_of(bad) == 0
    assert failed(ask, "gone")["response"] is None


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"7", b'{"line": 1}', b"null"])
def test_lines_that_are_not_ours(line: bytes) -> None:
    assert written(line) is None


def test_what_no_encoding_holds_does_not_end_the_run() -> None:
    assert json.loads(line_of({"text": "\ud83d"})) is not None


@pytest.mark.parametrize(
    ("line", "labels", "batch"),
    [
        (b'{"custom_id": "c", "method": "POST", "url": "/v1/x?y", "body": {}}', {"custom_id": "c"}, True),
        (b'{"custom_id": "c", "method": "GET", "url": "/v1/x", "body": {}}', {"custom_id": "c"}, True),
        (b'{"custom_id": "c", "url": "/v1/x", "body": []}', {"custom_id": "c"}, True),
        (b'{"custom_id": "c", "url": "/v1/x"}', {"custom_id": "c"}, True),
        (b'{"custom_id": "c", "body": {"prompt": "q"}}', {"custom_id": "c"}, True),
        (b'{"custom_id": "c", "method": "POST"}', {"custom_id": "c"}, True),
        (b'{"method": "POST", "url": "/v1/x", "body": 1}', {"custom_id": None}, True),
        (b'{"id": 7, "nothing": 1}', {"id": 7}, False),
        (b'{"id": 7, "custom_id": "c", "prompt": "q", "messages": []}', {"id": 7, "custom_id": "c"}, False),
        (b'{"custom_id": "\\u00e4", "method": "POST", "url": "/v1/x", "body": {"pro', {"custom_id": "\xe4"}, True),
        (b'{"custom_id": "c", "body": {"n": NaN}, "url": "/v1/x"}', {"custom_id": "c"}, True),
        (b'{"id": 7, "prompt": "q",}', {"id": 7}, False),
        (b'{"id": "\xff", "prompt": "q"}', {}, False),
        (b'{"prompt": "\\"id\\": 3", "id": 4', {}, False),
        (b"\xff\xfe", {}, False), (b"{}", {}, False), (b"[]", {}, False), (b"7", {}, False),
    ],
)  # fmt: skip
def test_a_line_that_asks_nothing_is_answered_in_its_form_under_its_name(
    line: bytes, labels: dict[str, Any], batch: bool
) -> None:
    ask = ask_of(3, line, BASE)
    assert ask.wrong and not ask.path
    assert (ask.labels, ask.batch) == (labels, batch)
    record = json.loads(line_of(failed(ask, ask.wrong)))
    if batch:
        assert record["response"] is None and record["id"] == "line-3"
        assert record["error"] == {"code": None, "message": ask.wrong}
    else:
        assert record["line"] == 3 and record["error"] == {"message": ask.wrong, "status": None}
    assert {name: record.get(name) for name in labels} == labels
    again = written(line_of(record))
    assert again is not None and again.failed and again.hash == ask_of(9, line, BASE).hash, "a later run knows it"


def test_a_field_of_ours_may_be_called_as_one_of_theirs() -> None:
    assert _ask({"prompt": "q", "url": "https://where.it/is/from"})[0] == COMPLETIONS
