from __future__ import annotations

import json
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import model_names
from config.model_names import Choice, alias, position, read_all, route

FINANCE = route(
    {
        "rules": [
            {"keywords": ["账单", "消费", "支出", "bill", "C++"], "model": "expert-a"},
            {"pattern": r"(?i)order\s+\d+", "model": "expert-b"},
            {"keywords": ["счёт"], "model": "expert-c"},
        ],
        "default": "base",
    }
)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("帮我查一下上个月的账单", "expert-a"),
        ("本月消费多少", "expert-a"),
        ("My BILL, please.", "expert-a"),
        ("billing address", "base"),  # part of a word
        ("我的bill呢", "expert-a"),  # between characters that are no words
        ("ｂｉｌｌ", "expert-a"),  # full width
        ("in C++ it is", "expert-a"),
        ("where is ORDER  55?", "expert-b"),
        ("Мой счёт", "expert-c"),
        ("счётчик", "base"),
        ("", "base"),
        ("\ud800 bill", "expert-a"),  # half a character
        ("x" * 100_000 + " bill", "expert-a"),
        ("x" * 100_000 + " bill " + "x" * 100_000, "base"),  # in the middle of a long one nobody looks
    ],
)
def test_the_first_rule_that_fits_decides(text: str, model: str) -> None:
    choice = FINANCE.choose(text)
    assert choice is not None and choice.model == model


def test_it_says_which_rule_and_why() -> None:
    assert FINANCE.choose("支出") == Choice("expert-a", "rule 1, keyword '支出'")
    assert FINANCE.choose("hello") == Choice("base", "no rule fits")


def test_who_is_bound_to_models_is_only_given_those() -> None:
    assert FINANCE.choose("账单", {"base"}) == Choice("base", "no rule fits")
    assert FINANCE.choose("账单", {"expert-b"}) is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"rules": []}, "default: the name of a model is needed"),
        ({"rules": [{"model": "a"}], "default": "b"}, "a rule has keywords or a pattern"),
        ({"rules": [{"model": "a", "keywords": "bill"}], "default": "b"}, "keywords: a list"),
        ({"rules": [{"model": "a", "keywords": [" "]}], "default": "b"}, "1 to 100 characters"),
        ({"rules": [{"model": "a", "pattern": "("}], "default": "b"}, "is no pattern"),
        ({"rules": [{"model": "a", "pattern": r"(a)\1"}], "default": "b"}, "is no pattern"),
        ({"rules": [{"model": "a", "pattern": "(?:a{50}){50}"}], "default": "b"}, "multiplies to at most 1000"),
        ({"rule": [], "default": "b"}, "a route has no 'rule'"),
        ([], "a route is a mapping"),
    ],
)
def test_a_route_that_is_none_is_refused_in_one_sentence(data: object, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        route(data)


@pytest.mark.measured
def test_no_pattern_takes_long() -> None:
    """They would take hours where matching goes back."""
    for pattern in ("(a*)*b", "(a|a)*b", ".*.*.*.*b$", "(?:a?){500}a{2}c"):
        slow = route({"rules": [{"pattern": pattern, "model": "a"}], "default": "b"})
        began = time.process_time()
        assert slow.choose("a" * 100_000) == Choice("b", "no rule fits")
        assert time.process_time() - began < 1.0


def test_of_2000_users_each_side_gets_its_share_and_each_user_the_same_side() -> None:
    canary = alias("medical@3=90,medical@4=10")
    for form in ("user-{}", "{}", "u{:04}x", "0{}-4c1a"):
        names = [form.format(number) for number in range(2000)]
        first = [canary.choose("medical", name) for name in names]
        assert first == [canary.choose("medical", name) for name in names]
        share = Counter(choice.model for choice in first if choice)["medical@4"] / 2000
        assert abs(share - 0.1) <= 0.01


def test_who_moves_when_weights_change_moves_to_the_side_that_grew() -> None:
    for who in map(str, range(200)):
        before, after = (alias(text).choose("x", who) for text in ("a=90,b=10", "a=50,b=50"))
        assert before is not None and after is not None and (before.model, after.model) != ("b", "a")


@given(st.text(max_size=100), st.text(max_size=100))
def test_a_position_is_between_0_and_1(name: str, who: str) -> None:
    assert 0 <= position(name, who) < 1


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.floats(0, 100), min_size=1, max_size=5), st.text())
def test_a_side_without_weight_is_never_chosen(sides: dict[str, float], who: str) -> None:
    choice = alias({"sides": sides}).choose("x", who)
    assert choice is not None and (sides[choice.model] > 0 or not any(sides.values()))


def test_a_shadow_is_the_other_one() -> None:
    shadowed = alias({"sides": "a=1,b=0", "shadow": True})
    assert shadowed.choose("x", "me") == Choice("a", "100% of x", "b")
    assert shadowed.choose("x", "me", {"a"}) == Choice("a", "100% of x")
    assert alias({"sides": "a", "shadow": True}).choose("x", "me") == Choice("a", "100% of x")
    for wrong in ({"sides": "a", "shadow": "yes"}, "a=1,a=2", "a=-1", "a=x", "", "a=2000000"):
        with pytest.raises(ValueError, match=r"."):
            alias(wrong)


def test_what_was_written_is_read_again() -> None:
    given = {"finance": FINANCE.to_json(), "medical": alias("a=90,b=10").to_json(), "later": {"sides": {}, "new": 1}}
    found = read_all(json.loads(json.dumps(given)))
    assert found == {"finance": FINANCE, "medical": alias("a=90,b=10")}


def test_versions() -> None:
    assert model_names.version_of("medical@3") == ("medical", 3)
    assert model_names.version_of("medical") is None and model_names.version_of("a@b") is None
