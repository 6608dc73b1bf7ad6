from __future__ import annotations

import time

import pytest

from config.errors import nearest


@pytest.mark.parametrize(("name", "known", "told"), [
    ("poett", ["base", "poet"], " (did you mean 'poet'?)"), ("x", ["base"], ""), ("poet", [], ""),
    ("p" * 300, ["p" * 299], ""), ("poett", [*(f"{n}" * 50 for n in range(500)), "poet"], " (did you mean 'poet'?)"),
])  # fmt: skip
def test_the_closest_name_is_told_if_it_is_close(name: str, known: list[str], told: str) -> None:
    assert nearest(name, known) == told


@pytest.mark.measured
def test_neither_long_names_nor_many_take_long() -> None:
    known = [f"adapter-{number:05}-of-a-customer" for number in range(5000)]
    for name in ("adapter-04999-of-a-custome", "a" * 900_000, "of-a-adapter-customer-12345"):
        began = time.thread_time()
        nearest(name, known)
        assert time.thread_time() - began < 0.05
