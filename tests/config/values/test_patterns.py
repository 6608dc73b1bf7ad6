from __future__ import annotations

import time

import pytest

from config.values import patterns


@pytest.mark.measured
@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)*b", ".*.*.*.*b$", "(?:a?){500}a{2}c"])
def test_no_pattern_takes_long(pattern: str) -> None:
    found = patterns.bounded(pattern)
    began = time.process_time()
    assert not found("a" * 20_000)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("(", "is no pattern"), (r"(a)\1", "is no pattern"), ("(?=a)", "is no pattern"), ("a" * 501, "at most 500"),
     ("(?:a{50}){50}", "multiplies to at most 1000")],
)  # fmt: skip
def test_what_is_no_pattern_says_why(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        patterns.bounded(pattern)


def test_it_is_found_anywhere() -> None:
    assert patterns.bounded(r"\d{3}")("ab123c")
    assert not patterns.bounded(r"^\d{3}$")("ab123c")
