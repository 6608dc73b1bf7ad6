"""The simulated worker and vLLM: bodies that are none, an answer made again, and how long a request may be."""

from __future__ import annotations

import json

import pytest

from config import replay
from conformance import CHAT, COMPLETIONS, LOAD, MARKS, UNLOAD, USER, data_of, same, send

pytestmark = MARKS

@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/tokenize", "/detokenize", LOAD, UNLOAD])
@pytest.mark.parametrize("body", [b"{bad", b"", b"[]", b"3", b'"x"', b"{}", b"\xff"], ids=repr)
def test_body_that_is_no_request(urls: tuple[str, str], path: str, body: bytes) -> None:
    same(urls, "POST", path, body, {"Content-Type": "application/json"})


@pytest.mark.parametrize("kind", ["text/plain", "application/json; charset=utf-8", "application/jsonx"])
def test_content_type(urls: tuple[str, str], kind: str) -> None:
    same(
        urls,
        "POST",
        COMPLETIONS,
        {"prompt": "x", "max_tokens": 1, "ignore_eos": True},
        {"Content-Type": kind},
    )


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("stream", [False, True])
def test_request_id(urls: tuple[str, str], path: str, stream: bool) -> None:
    body = {"prompt": "x", "messages": USER, "max_tokens": 2, "stream": stream, "ignore_eos": True}
    answers = [send(url, "POST", path, body, {"X-Request-Id": "given"}) for url in urls]
    for _, headers, text in answers:
        assert '-given"' in text
        assert headers.get("X-Request-Id") is None


ENVELOPES = [
    b"[[5, 6]]\n{}", b"[[5], [6]]\n{}", b"[[5], [6], [7]]\n{}", b"[]\n{}", b"[[]]\n{}", b"[[-1]]\n{}",
    b"[[99999]]\n{}", b"[[1.5]]\n{}", b"[5]\n{}", b"{}\n{}", b"\n{}", b"{}", b"", b"[[5]]\n{bad", b"[[5]]\n",
    b"[[" + b"5," * 5000 + b"5]]\n{}",
]  # fmt: skip


@pytest.mark.parametrize("tell", [{}, {replay.TELL: "1"}])
@pytest.mark.parametrize("body", ENVELOPES, ids=lambda body: repr(body[:20]))
def test_an_answer_made_again(urls: tuple[str, str], body: bytes, tell: dict[str, str]) -> None:
    """Or refused in the same way."""
    asked = {"prompt": "x", "max_tokens": 4, "n": 2, "temperature": 1, "ignore_eos": True}
    sent = body.removesuffix(b"{}") + json.dumps(asked).encode() if body.endswith(b"\n{}") else body
    same(urls, "POST", COMPLETIONS, sent, {"Content-Type": replay.CONTENT_TYPE, **tell})


def test_each_tells_of_the_tokens_of_a_stream(urls: tuple[str, str]) -> None:
    body = {"prompt": ["x", "y"], "messages": USER, "max_tokens": 9, "stream": True, "return_token_ids": True}
    for path in (COMPLETIONS, CHAT):
        for url in urls:
            status, headers, text = send(url, "POST", path, {**body, "ignore_eos": True}, {replay.TELL: "1"})
            events, told = replay.take_comments(text.encode())
            assert (status, headers[replay.TELL]) == (200, "1")
            shown: dict[int, list[int]] = {}
            for data in data_of(events.decode(), True):
                for choice in data["choices"]:
                    shown.setdefault(choice["index"], []).extend(choice.get("token_ids") or ())
            made: dict[int, list[int]] = {}
            for choice, ids in told:
                made.setdefault(choice, []).extend(map(int, ids.split(b",")))
            assert made == shown and all(len(ids) == 9 for ids in made.values())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("over", [-1, 0, 1, 50])
def test_prompt_near_the_context(urls: tuple[str, str], context: int, over: int, stream: bool) -> None:
    body = {"prompt": [40] * (context + over), "max_tokens": 9, "stream": stream, "ignore_eos": True}
    same(urls, "POST", COMPLETIONS, body)


@pytest.mark.parametrize("times", [2, 40])
def test_long_text(urls: tuple[str, str], context: int, times: int) -> None:
    text = "~" * (context * times)
    same(urls, "POST", COMPLETIONS, {"prompt": text, "max_tokens": 2})
    same(urls, "POST", CHAT, {"messages": [{"role": "user", "content": text}], "max_tokens": 2})


def test_more_tokens_than_the_context(urls: tuple[str, str], context: int) -> None:
    same(urls, "POST", COMPLETIONS, {"prompt": "x", "max_tokens": context + 1})
    same(urls, "POST", CHAT, {"messages": USER, "max_tokens": context + 1})
    same(urls, "POST", CHAT, {"messages": USER, "max_completion_tokens": context + 1})
