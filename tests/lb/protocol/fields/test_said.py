from __future__ import annotations

from typing import Any

import pytest

from lb.protocol.fields.said import asker, last_user_text

_TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "answer"},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]},
    {"role": "tool", "content": "found"},
]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": _TURNS}, "a\nb"),
        ({"messages": _TURNS[:3]}, "first"),
        ({"messages": _TURNS[:1]}, ""),
        ({"prompt": "one"}, "one"),
        ({"prompt": ["one", "two"]}, "two"),
        ({"prompt": [1, 2, 3]}, ""),
        ({"input": "said"}, "said"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]}, "x"),
        ({"messages": {"role": "user"}}, ""),
        ({"messages": [None, 5, {"role": "user", "content": 5}]}, ""),
        ({}, ""),
    ],
)
def test_the_last_words_of_the_user(body: dict[str, Any], text: str) -> None:
    assert last_user_text(body) == text


def test_a_user_is_the_same_whatever_is_said_and_a_conversation_from_its_beginning_on() -> None:
    assert asker({"user": "u", "prompt": "a"}) == asker({"user": "u", "prompt": "b"})
    assert asker({"metadata": {"user_id": "u"}}) == asker({"user": "u"})
    assert asker({"messages": _TURNS[:2]}) == asker({"messages": _TURNS}) != asker({"messages": _TURNS[:1]})
    assert asker({"prompt_cache_key": "u"}) not in (asker({"user": "u"}), "")
    assert asker({}) == "" and asker({"user": 5, "metadata": []}) == ""
