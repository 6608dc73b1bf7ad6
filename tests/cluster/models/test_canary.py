"""Answers of before and after a sleep: what counts as the same."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from cluster.models.canary import BASE, AnswerSample, altered, from_json, to_json

PATH = "/adapters/1"


def answer(*logprobs: float, others: dict[str, float] | None = None) -> list[dict[str, Any]]:
    """As vLLM has it for one token of each prompt."""
    top = others or {"a": -1.0, "b": -2.0, "c": -9.0, "d": -10.0}
    return [{"tokens": ["a"], "token_logprobs": [value], "top_logprobs": [top]} for value in logprobs]


FIRST = {BASE: AnswerSample("", answer(-1.0, -2.0)), "mine": AnswerSample(PATH, answer(-1.5, -2.0))}


@pytest.mark.parametrize(
    ("after", "names"),
    [
        (FIRST, []),
        ({}, []),
        ({**FIRST, "later": AnswerSample(PATH, answer(-5.0))}, []),
        # the last digits may differ, and whoever was the last of the likeliest too
        ({**FIRST, BASE: AnswerSample("", answer(-1.05, -1.95))}, []),
        ({**FIRST, BASE: AnswerSample("", answer(-1.0, -2.0, others={"a": -1.0, "b": -2.0, "c": -9.0, "e": -11}))}, []),
        ({**FIRST, BASE: AnswerSample("", answer(-1.0, -2.5))}, [BASE]),
        ({**FIRST, BASE: AnswerSample("", answer(-1.0, -2.0, others={"a": -1.0, "x": -2.0, "y": -3.0}))}, [BASE]),
        ({**FIRST, BASE: AnswerSample("", answer(-1.0))}, [BASE]),
        ({**FIRST, BASE: AnswerSample("", "not numbers")}, [BASE]),
        ({**FIRST, BASE: AnswerSample("", None)}, [BASE]),
        # as the base model, and another version
        ({**FIRST, "mine": AnswerSample(PATH, answer(-1.0, -2.0))}, ["mine"]),
        ({**FIRST, "mine": AnswerSample("/adapters/2", answer(-1.0, -2.0))}, []),
    ],
)
def test_only_what_is_far_from_before_is_another_answer(after: dict[str, AnswerSample], names: list[str]) -> None:
    assert altered(FIRST, after) == names


def test_an_adapter_of_little_effect_is_told_from_the_base_model() -> None:
    """What it changes is less than what anybody else may differ by."""
    before = {BASE: AnswerSample("", answer(-1.0)), "mine": AnswerSample(PATH, answer(-1.02))}
    assert altered(before, {"mine": AnswerSample(PATH, answer(-1.0))}) == ["mine"]
    assert altered(before, {"mine": AnswerSample(PATH, answer(-1.015))}) == []


def test_vectors_are_compared_by_their_size() -> None:
    before = {BASE: AnswerSample("", [[0.02, -0.03], [0.01, 0.03]])}
    assert altered(before, {BASE: AnswerSample("", [[0.0201, -0.03], [0.01, 0.03]])}) == []
    assert altered(before, {BASE: AnswerSample("", [[0.02, -0.03], [0.01, 0.02]])}) == [BASE]


def test_what_tells_nothing_is_not_compared_and_all_of_it_is_kept() -> None:
    before = {BASE: AnswerSample("", None)}
    assert altered(before, {BASE: AnswerSample("", answer(-math.inf))}) == []
    kept = json.loads(json.dumps(to_json(FIRST)))
    assert from_json(kept) == FIRST
