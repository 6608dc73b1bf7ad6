from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.dataset.duplicates import ALIKE, Texts
from cluster.tools.evaluation.words import words

WORDS = [f"w{number}" for number in range(6)]


def _runs(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[at : at + 3]) for at in range(max(1, len(found) - 2))}


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join), max_size=25))
def test_no_two_that_are_kept_are_alike_and_none_goes_for_nothing(texts: list[str]) -> None:
    """As comparing each with each says."""
    known, kept = Texts(), list[str]()
    for text in texts:
        alike = [one for one in kept if len(_runs(one) & _runs(text)) / len(_runs(one) | _runs(text)) >= ALIKE]
        assert known.add(text) == (not alike)
        if not alike:
            kept.append(text)
    assert len(known) == len(kept)


@pytest.mark.parametrize(
    ("one", "other", "new"),
    [
        ("How do I brew green tea?", "how do I brew green tea", False), ("如何冲泡绿茶？", "如何冲泡绿茶", False),
        ("How do I brew green tea at home in a small pot?", "How do I brew green tea at home in a small pan?", False),
        ("How do I brew green tea?", "How do I brew black tea?", True), ("如何冲泡绿茶？", "如何储存绿茶？", True),
        ("!!!", "???", False),
    ],
)  # fmt: skip
def test_what_people_would_call_the_same(one: str, other: str, new: bool) -> None:
    known = Texts()
    assert known.add(one)
    assert known.add(other) is new


@pytest.mark.measured
def test_many_that_begin_alike_do_not_take_long() -> None:
    random, known = Random(1), Texts()
    texts = [f"what is the best way to {random.random()} and {random.random()} in {n}" for n in range(2_000)]
    began = time.process_time()
    assert all(map(known.add, texts))
    assert time.process_time() - began < 10.0
