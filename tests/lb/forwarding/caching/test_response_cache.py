"""Which requests have one answer, which answers are good to be given again, and how many are kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lb.forwarding.caching import question
from lb.forwarding.caching.answer_tee import answer_in
from lb.forwarding.caching.response_cache import ResponseCache
from lb.protocol.http1 import request as http
from lb.protocol.messages import Request
from lb.protocol.tenant import Tenant

CHAT = "/v1/chat/completions"
GREEDY = {"model": "a", "messages": [{"role": "user", "content": "x"}], "temperature": 0}


def digest(said: object, *, tenant: str = "one", model: str = "a", version: str = "/a", path: str = CHAT) -> Any:
    head = http.parse(f"POST {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    asked = Request(head, "127.0.0.1")
    asked.body = said if isinstance(said, bytes) else json.dumps(said).encode()
    asked.tenant = Tenant(tenant)
    return question.digest(asked, path.partition("?")[0], model, version)


@pytest.mark.parametrize("more", [{}, {"temperature": 0.0}, {"temperature": 0.7, "seed": 1}, {"stream": True}])
def test_what_is_greedy_or_seeded_has_one_answer(more: dict[str, Any]) -> None:
    assert digest({**GREEDY, **more}) is not None


@pytest.mark.parametrize(
    "said",
    [{**GREEDY, "temperature": 0.1}, {**GREEDY, "temperature": None}, {**GREEDY, "temperature": False},
     {**GREEDY, "temperature": 1, "seed": None}, {**GREEDY, "temperature": 1, "seed": True}, {"model": "a"}, [GREEDY],
     b"{", b'{"temperature": 0, "temperature": 1}', b'{"temperature": 0, "x": "%b"}' % (b"x" * 70_000),
     b'{"temperature": 0, "x": ' + b"[" * 100_000],
)  # fmt: skip
def test_what_may_be_answered_otherwise_the_next_time_has_not(said: object) -> None:
    assert digest(said) is None


def test_only_chats_and_completions_are_kept() -> None:
    assert digest(GREEDY, path="/v1/completions") is not None
    assert [digest(GREEDY, path=path) for path in ("/v1/embeddings", "/v1/responses", "/v1/messages")] == [None] * 3


def test_the_same_question_is_the_same_however_it_is_written() -> None:
    turned = json.dumps(dict(reversed(GREEDY.items())), indent=2).encode()
    assert digest(turned) == digest(GREEDY)


def test_all_that_an_answer_depends_on_is_part_of_it() -> None:
    others = [
        digest({**GREEDY, "max_tokens": 1}), digest({**GREEDY, "stream": True}), digest({**GREEDY, "temperature": 0.0}),
        digest(GREEDY, tenant="other"), digest(GREEDY, model="b"), digest(GREEDY, version="/b"),
        digest(GREEDY, path="/v1/completions"), digest(GREEDY, path=f"{CHAT}?x=1"),
    ]  # fmt: skip
    assert len({digest(GREEDY), *others}) == 1 + len(others)


HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: %b\r\n%b\r\n\r\n"
STREAM = b'data: {"choices": []}\n\ndata: [DONE]\n\n'


def plain(body: bytes, kind: bytes = b"application/json", more: bytes = b"") -> bytes:
    return HEAD % (kind, b"Content-Length: %d%b" % (len(body), more)) + body


def chunked(body: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    framed = b"%x\r\n%b\r\n" % (len(body), body)
    return HEAD % (b"text/event-stream; charset=utf-8", b"Transfer-Encoding: chunked") + framed + end


def test_a_whole_answer_is_taken_out_of_what_was_sent() -> None:
    assert answer_in(plain(b"{}")) == (b"application/json", b"{}")
    assert answer_in(chunked(STREAM)) == (b"text/event-stream; charset=utf-8", STREAM)


@pytest.mark.parametrize(
    "sent",
    [b"", b"HTTP/1.1 200", plain(b"{}").replace(b"200 OK", b"400 no"), plain(b"{}")[:-1], plain(b"{}", b"text/html"),
     plain(b"{}", more=b"\r\nContent-Encoding: gzip"), chunked(STREAM, b""), chunked(b"data: {}\n\n"),
     chunked(b'data: {"error": {}}\n\n' + STREAM), chunked(b'data: {"finish_reason":"abort"}\n\n' + STREAM),
     b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}"],
)  # fmt: skip
def test_nothing_else_is(sent: bytes) -> None:
    assert answer_in(sent) is None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_ones_that_were_not_asked_for_longest_make_room() -> None:
    cache = ResponseCache(64 * 1024, 60.0, Clock())
    for number in range(8):
        cache.put(b"%d" % number, b"k", b"x" * 7500)
        assert cache.get(b"0") is not None
    assert cache.get(b"7") is not None and cache.get(b"1") is not None
    cache.put(b"8", b"k", b"x" * 7500)
    assert cache.get(b"2") is None and cache.get(b"0") is not None
    assert len(cache) == 8 and cache.bytes <= 64 * 1024 and (cache.hits, cache.misses) == (11, 1)


def test_one_that_is_too_large_is_not_kept_and_one_put_twice_is_counted_once() -> None:
    cache = ResponseCache(64 * 1024, 60.0, Clock())
    cache.put(b"a", b"k", b"x" * 9000)
    assert not len(cache) and not cache.bytes
    cache.put(b"a", b"k", b"x")
    cache.put(b"a", b"k", b"yy")
    found = cache.get(b"a")
    assert found is not None and found.body == b"yy" and cache.bytes == found.size and len(cache) == 1


def test_an_answer_is_given_again_for_a_while() -> None:
    clock = Clock()
    cache = ResponseCache(64 * 1024, 60.0, clock)
    cache.put(b"a", b"k", b"x")
    clock.now = 59.0
    assert cache.get(b"a") is not None
    clock.now = 60.0
    assert cache.get(b"a") is None and not len(cache) and not cache.bytes


def test_answers_that_are_coming_share_a_part_of_the_room() -> None:
    cache = ResponseCache(64 * 1024, 60.0, Clock())
    assert cache.reserve(16 * 1024) and not cache.reserve(1)
    cache.free(16 * 1024)
    assert cache.reserve(1)
