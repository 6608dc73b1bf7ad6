"""What strategies are told of a prompt."""

from __future__ import annotations

import json
from typing import Any

from lb.forwarding import features
from lb.protocol.http1.request import parse
from lb.protocol.messages import Request
from lb.routing.strategies.base import Feature, Features

NEEDS = frozenset({Feature.ADAPTER, Feature.BLOCKS})


def told(body: dict[str, Any], model: str = "poet") -> Features:
    request = Request(parse(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n"), "10.0.0.9")
    request.body = json.dumps({"model": model, **body}).encode()
    return features.of(request, model, ("poet", "cook"), NEEDS, stream=True)


def said(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts]}


def test_a_conversation_that_goes_on_begins_as_before() -> None:
    before, after = told(said("x" * 9000)), told(said("x" * 9000, "y" * 9000))
    assert len(before.blocks) == 4
    assert after.blocks[:4] == before.blocks
    assert len(after.blocks) > len(before.blocks)
    assert before.tokens * 3 < 9000 < before.tokens * 4


def test_what_stands_before_the_prompt_does_not_matter() -> None:
    assert told({"temperature": 0.5, **said("x" * 9000)}).blocks == told(said("x" * 9000)).blocks


def test_the_keys_and_values_of_another_adapter_are_others() -> None:
    one, other = told(said("x" * 9000)), told(said("x" * 9000), "cook")
    assert not set(one.blocks) & set(other.blocks)
    assert (one.adapter, other.adapter, told(said(""), "demo").adapter) == ("poet", "cook", None)


def test_another_beginning_is_another_prompt_to_its_end() -> None:
    one, other = told(said("a" + "x" * 9000)), told(said("b" + "x" * 9000))
    assert not set(one.blocks) & set(other.blocks)


def test_a_short_prompt_has_no_block_and_a_long_one_not_too_many() -> None:
    assert told(said("short")).blocks == ()
    assert len(told(said("x" * 4_000_000)).blocks) == 256
