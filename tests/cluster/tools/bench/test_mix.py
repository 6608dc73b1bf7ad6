"""Shares of adapters."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.bench.mix import Mix, parse_mix


@given(st.floats(0, 5), st.integers(1, 200))
def test_shares_add_up_and_fall(exponent: float, count: int) -> None:
    weights = Mix(exponent).weights(count)
    assert len(weights) == count and sum(weights) == pytest.approx(1) and weights == sorted(weights, reverse=True)


def test_zipf_asks_the_second_half_as_often_as_the_first() -> None:
    assert Mix(1.0).weights(3) == pytest.approx([6 / 11, 3 / 11, 2 / 11])
    counts = Counter(islice(parse_mix("zipf:1.0").choose(["a", "b", "c"], Random(7)), 11_000))
    assert [counts[n] / 1000 for n in "abc"] == pytest.approx([6, 3, 2], rel=0.1)
    assert Mix(0.0).weights(4) == [0.25] * 4 and parse_mix("uniform") == Mix(0.0) and parse_mix("zipf") == Mix(1.0)


def test_the_same_seed_chooses_the_same() -> None:
    first, second = (list(islice(Mix(1.0).choose(["a", "b"], Random(3)), 50)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("zip:1", "did you mean 'zipf'"), ("zipf:x", "zipf:1.0"), ("zipf:-1", "from 0"), ("zipf:nan", "from 0"),
        ("zipf:inf", "from 0"), ("uniform:2", "no exponent"), ("", "neither"),
    ],
)  # fmt: skip
def test_what_is_no_mix_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_mix(text)
