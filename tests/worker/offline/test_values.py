"""What an offline engine is asked."""

from __future__ import annotations

from typing import Any

import pytest

from worker.offline import RequestRefused, UnknownExpert
from worker.offline.values import as_list, chosen, one_each, refuse_unknown

CHAT = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("given", "found"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), (CHAT, [CHAT]), ([CHAT, "a"], [CHAT, "a"]), ([], []), (("a",), ["a"])],
)
def test_one_prompt_is_a_list_of_one(given: Any, found: list[Any]) -> None:
    assert as_list(given) == found


@pytest.mark.parametrize("given", [[1], ["a", None], [[]], [["a"]], ["a", {"role": "user"}]])
def test_what_is_neither_text_nor_chat_is_refused(given: Any) -> None:
    with pytest.raises(RequestRefused, match="neither a text nor a list of messages"):
        as_list(given)


def test_an_expert_is_for_all_or_for_each() -> None:
    assert one_each("a", 2) == ["a", "a"] and one_each(None, 1) == [None] and one_each(["a", None], 2) == ["a", None]
    with pytest.raises(RequestRefused, match="2 experts for 3 prompts"):
        one_each(["a", "b"], 3)


def test_names_are_those_of_a_cluster() -> None:
    known, base = ["pirate", "poet"], ["demo", "alias"]
    assert [chosen(name, known, base) for name in (None, "demo", "alias", "poet")] == [None, None, None, "poet"]
    with pytest.raises(UnknownExpert, match=r"^The model `pirat` does not exist. \(did you mean 'pirate'\?\)$"):
        chosen("pirat", known, base)


def test_a_field_that_the_api_would_ignore_is_refused() -> None:
    refuse_unknown(["max_tokens"], ["max_tokens", "model"])
    with pytest.raises(RequestRefused, match=r"no 'temprature'.*'temperature'"):
        refuse_unknown(["temprature"], ["temperature"])
    with pytest.raises(RequestRefused, match="no 'model'"):
        refuse_unknown(["model"], ["model"])
