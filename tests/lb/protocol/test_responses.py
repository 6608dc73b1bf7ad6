"""Which requests for a response may be made again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lb.protocol.responses import may_be_repeated


@pytest.mark.parametrize("fields", [
    {}, {"stream": True}, {"store": True}, {"store": False}, {"background": False}, {"background": "off"},
    {"tools": []}, {"tools": None},
    {"tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}]}, {"previous_response_id": None},
])  # fmt: skip
def test_what_only_takes_time_may_be(fields: dict[str, Any]) -> None:
    assert may_be_repeated(json.dumps({"model": "m", "input": "x", **fields}).encode())


@pytest.mark.parametrize("fields", [
    {"background": True}, {"background": "yes"}, {"previous_response_id": "resp_1"},
    {"tools": [{"type": "mcp", "server_url": "x"}]},
    {"tools": [{"type": "function", "name": "f"}, {"type": "code_interpreter"}]}, {"tools": ["web_search"]},
    {"tools": [{}]}, {"tools": 1},
])  # fmt: skip
def test_what_may_do_something_out_there_may_not(fields: dict[str, Any]) -> None:
    assert not may_be_repeated(json.dumps({"model": "m", "input": "x", **fields}).encode())


@pytest.mark.parametrize("body", [b'"tools"', b'["tools"]', b'{"tools"', b'{"tools": ' + b"[" * 100_000])
def test_what_cannot_be_told_may_not(body: bytes) -> None:
    assert not may_be_repeated(body)


def test_a_key_in_escapes_is_one() -> None:
    assert not may_be_repeated(b'{"b\\u0061ckground": true}')


def test_what_takes_long_to_parse_is_not_parsed() -> None:
    assert not may_be_repeated(b'{"tools": []}', light=False)
    assert may_be_repeated(b'{"input": "x"}', light=False)
