"""What is found without parsing a body is what parsing finds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.protocol import body as request_body
from lb.protocol.fields import said
from lb.protocol.http1.request import parse
from lb.protocol.messages import Request

_TEXTS = st.text('user"\\{}[]:,é好\ud800 ', max_size=6) | st.sampled_from(["user", "model", "\0"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3), max_leaves=6,
)
_NAMES = st.sampled_from(["user", "model", "messages", "prompt", "metadata", "x"]) | _TEXTS


def _written(pairs: list[tuple[str, Any]], *, escaped: bool) -> bytes:
    """Names may come twice."""
    members = (f"{json.dumps(k, ensure_ascii=escaped)}:{json.dumps(v, ensure_ascii=escaped)}" for k, v in pairs)
    return f"{{{', '.join(members)}}}".encode("utf-8", "surrogatepass")


_BODIES = st.builds(_written, st.lists(st.tuples(_NAMES, _VALUES), max_size=5), escaped=st.booleans())


def _request(body: bytes) -> Request:
    request = Request(parse(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n"), "::1")
    request.body = body
    return request


@given(_BODIES, st.sampled_from([b"", b"\n", b" x", b"{}"]))
def test_its_fields_and_its_user(body: bytes, behind: bytes) -> None:
    request = _request(body + behind)
    try:
        expected: Any = json.loads(request.body)
    except ValueError:
        expected = {}
    found = said.fields(request)
    assert json.dumps(found) == json.dumps(expected)
    if not behind.strip() and (user := said.user(request)) is not None:
        assert user == said.asker(found)


@pytest.mark.parametrize(
    ("body", "user"),
    [
        (b'{"messages":[{"role":"user","content":"x"}],"model":"m","user":"u-7"}', "u-7"),
        (b'{"model":"m","user":"u-7","stream":true}', "u-7"), (b'{"user":"u-7","messages":[{"role":"user"}]}', None),
        (b'{"messages":[{"role":"x","user":"u-7"}],"model":"m"}', None), (b'{"user":"","model":"m"}', None),
        (b'{"user":"u\\u002d7","model":"m"}', None), ('{"user":"ü","model":"m"}'.encode(), None),
    ],
)  # fmt: skip
def test_a_user_is_found_at_the_end(body: bytes, user: str | None) -> None:
    assert said.user(_request(body)) == (None if user is None else f"user\0{user}")


@given(_BODIES, st.sampled_from(["m", 'a"b', "好"]))
def test_another_model_is_written_where_the_name_is(body: bytes, model: str) -> None:
    try:
        facts = request_body.facts(body, "application/json", previous=False)
    except Exception:  # it is refused
        return
    if facts.model is None or facts.names is not None:
        return
    written = request_body.with_model_at_once(body, facts, model)
    names = request_body.names(body, "application/json")
    if written is not None:
        assert [written] == request_body.with_model([body], names, model, form=False)
        assert json.loads(written)["model"] == model
