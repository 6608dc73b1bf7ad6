from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from lb.admission.access.response_marks import ResponseMarks

MARKS = ResponseMarks(b"secret")


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_response_is_of_who_asked_for_it(one: str, other: str) -> None:
    response = MARKS.new(one)
    assert MARKS.owns(one, response) and MARKS.owns("", response)
    assert MARKS.owns(other, response) == (one == other)
    assert not ResponseMarks(b"another").owns(one, response)


@given(st.text(min_size=1), st.text())
def test_what_nobody_has_signed_is_nobodys(mark: str, response: str) -> None:
    assert not MARKS.owns(mark, response) and MARKS.owns("", response)


def test_ids_look_like_the_engines_own() -> None:
    made = {MARKS.new("a") for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"resp_[A-Za-z0-9_-]{54}", response) for response in made)


def test_all_processes_with_one_token_agree() -> None:
    response = ResponseMarks.of("token").new("a")
    assert ResponseMarks.of("token").owns("a", response)
    assert not ResponseMarks.of(None).owns("a", ResponseMarks.of(None).new("a"))
