from __future__ import annotations

import pytest

from cluster.tools.evaluation.thresholds import Threshold, missed, parse
from config.errors import UsageError

MODELS = ["base", "ns:a", "a@2"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.7", Threshold(0.7)), ("rouge=0.4", Threshold(0.4, "rouge")), ("a@2:rouge=1", Threshold(1, "rouge", "a@2")),
        ("ns:a:exact=0.4", Threshold(0.4, "exact", "ns:a")),
    ],
)  # fmt: skip
def test_what_is_meant(text: str, found: Threshold) -> None:
    assert parse(text, ["exact", "rouge"], MODELS) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "such as 0.7"), ("nan", "such as"), ("=0.7", "such as"), ("base:=1", "such as"),
        ("bleu=3", "not measured"), ("b:exact=1", "'b' is not asked"), ("exact=70", "goes to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(text, ["exact", "rouge"], MODELS)


def test_one_number_for_two_scales_is_no_threshold() -> None:
    with pytest.raises(UsageError, match="which metric"):
        parse("0.7", ["exact", "bleu"], MODELS)
    assert parse("70", ["bleu"], MODELS) == Threshold(70)


def test_what_is_below_is_told_and_what_has_no_score_is() -> None:
    models = {
        "a": {"metrics": {"exact": {"score": 0.7}, "rouge": {"score": 0.2}}},
        "b": {"metrics": {"exact": {"score": 0.69999}, "rouge": None}},
    }
    assert list(missed([Threshold(0.7, "exact")], models)) == ["b: exact 0.7, less than 0.7"]
    assert list(missed([Threshold(0.1, "rouge")], models)) == ["b: rouge no score, less than 0.1"]
    assert list(missed([Threshold(0.1, None, "a")], models)) == []
