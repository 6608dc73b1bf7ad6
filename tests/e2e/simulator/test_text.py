"""The simulated worker and vLLM: where a text ends, and what its tokens are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conformance import COMPLETIONS, MARKS, USER, data_of, name_of, same, send

pytestmark = MARKS

def _forced(extra: dict[str, Any], token: int) -> dict[str, Any]:
    """A completion in which every token is ``a``, so that both write the same text."""
    body = {
        "prompt": "x",
        "max_tokens": 6,
        "allowed_token_ids": [token],
        "ignore_eos": True,
        "temperature": 0,
    }
    return {**body, **extra}


FORCED: list[dict[str, Any]] = [
    {},
    {"stop": "aa"},
    {"stop": ["aaa", "zz"]},
    {"stop": "aa", "include_stop_str_in_output": True},
    {"stop": "aa", "min_tokens": 4},
    {"stop": "aaaaaaaaa"},
    {"stop_token": True},
    {"stop_token": True, "min_tokens": 0, "include_stop_str_in_output": True},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", FORCED, ids=name_of)
def test_forced_text_is_equal(urls: tuple[str, str], case: dict[str, Any], stream: bool) -> None:
    """Stop strings, hold-back and stop ids: here even the texts must agree, chunk by chunk."""
    made = []
    for url in urls:
        ids = json.loads(send(url, "POST", "/tokenize", {"prompt": "a", "add_special_tokens": False})[2])["tokens"]
        extra = {key: value for key, value in case.items() if key != "stop_token"}
        if case.get("stop_token"):
            extra["stop_token_ids"] = ids
        body = {**_forced(extra, ids[0]), "stream": stream, "return_token_ids": True}
        status, _, text = send(url, "POST", COMPLETIONS, body)
        assert status == 200, text
        made.append(_texts_by_length([data["choices"][0] for data in data_of(text, stream)], ids[0]))
    real, simulated = made
    # A busy vLLM joins the tokens of several steps in one event: it may have shown fewer lengths.
    assert {length: simulated[length] for length in real} == real


def _texts_by_length(choices: list[dict[str, Any]], token: int) -> dict[int, tuple[Any, ...]]:
    """What a client has after so many tokens: the text, and why it ended if it has."""
    made: dict[int, tuple[Any, ...]] = {}
    count, text = 0, ""
    for choice in choices:
        count, text = count + len(choice["token_ids"]), text + choice["text"]
        reason = choice["stop_reason"]
        made[count] = text, choice["finish_reason"], "<token>" if reason == token else reason
    return made


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "hello world"},
        {"prompt": "hello", "add_special_tokens": False, "return_token_strs": True},
        {"prompt": ""},
        {"prompt": "hello " * 400},
        {"messages": USER},
        {"messages": USER, "add_generation_prompt": False, "return_token_strs": True},
        {"messages": []},
        {"messages": "x"},
        {"prompt": 5},
        {"prompt": ["x"]},
        {"model": "nope", "prompt": "x"},
    ],
    ids=name_of,
)
def test_tokenize(urls: tuple[str, str], body: dict[str, Any]) -> None:
    same(urls, "POST", "/tokenize", body)


@pytest.mark.parametrize(
    "body",
    [
        {"tokens": [5, 6, 7]},
        {"tokens": []},
        {"tokens": [-1]},
        {"tokens": [99999]},
        {"tokens": "x"},
        {"model": "nope", "tokens": [5]},
    ],
    ids=name_of,
)
def test_detokenize(urls: tuple[str, str], body: dict[str, Any]) -> None:
    same(urls, "POST", "/detokenize", body)


@pytest.mark.parametrize("text", ["hello", "héllo wörld 🚀", "a  b\n\tc", "日本語"])
def test_text_survives_tokenization(urls: tuple[str, str], text: str) -> None:
    for url in urls:
        ids = json.loads(send(url, "POST", "/tokenize", {"prompt": text, "add_special_tokens": False})[2])["tokens"]
        assert json.loads(send(url, "POST", "/detokenize", {"tokens": ids})[2]) == {"prompt": text}
