from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.evaluation.rows import LONGEST_ROW, EvalRow, read_rows, row_of
from config.errors import UsageError

USER = {"role": "user", "content": "q"}


def _row(data: Any) -> EvalRow:
    return row_of(1, json.dumps(data).encode())


@pytest.mark.parametrize(
    ("data", "messages", "references"),
    [
        ({"question": "q", "answer": "a"}, [USER], ["a"]),
        ({"prompt": "q", "reference": ["a", "b"]}, [USER], ["a", "b"]),
        ({"question": "2+2", "answer": 4}, [{"role": "user", "content": "2+2"}], ["4"]),
        ({"instruction": "do", "input": "this", "output": "a"}, [{"role": "user", "content": "do\n\nthis"}], ["a"]),
        ({"question": "q", "system": "s", "answer": "a"}, [{"role": "system", "content": "s"}, USER], ["a"]),
        ({"messages": [USER, {"role": "assistant", "content": "a"}]}, [USER], ["a"]),
        ({"messages": [USER], "reference": "a"}, [USER], ["a"]),
        ({"messages": [USER, {"role": "assistant", "content": "a"}], "reference": "b"}, [USER], ["b"]),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [USER], ["a"]),
        ({"question": "q"}, [USER], []),
    ],
)  # fmt: skip
def test_the_usual_forms(data: Any, messages: Any, references: list[str]) -> None:
    row = _row(data)
    assert (list(row.messages), list(row.references)) == (messages, references)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "not an object"), ({}, "none of messages"), ({"question": " "}, "not empty"), ({"question": 3}, "a text"),
        ({"messages": []}, "a list that is not empty"), ({"messages": [{"content": "x"}]}, "a role"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "nothing is asked"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "the last message has to be a text"),
        ({"conversations": [{"from": "bing", "value": "x"}]}, "one of human"),
        ({"conversations": [{"from": []}]}, "one of human"),
        ({"question": "q", "answer": {"a": 1}}, "answer has to be a text"),
        ({"question": "q", "answer": ["a"] * 101}, "more than 100"), ({"question": "q", "pattern": "("}, "no pattern"),
        ({"question": "q", "pattern": "(a*)*b" * 100}, "at most 500 characters"),
    ],
)  # fmt: skip
def test_what_is_no_row_says_why(data: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        _row(data)


def test_bad_rows_are_named_by_their_lines_a_few_of_them() -> None:
    good = json.dumps({"question": "q", "answer": "a"}).encode()
    with pytest.raises(UsageError) as caught:
        read_rows([good, b"{", b"", b"[]", *[b"no"] * 6, good])
    assert str(caught.value).startswith("line 2: not JSON; line 4: not an object; line 5: not JSON")
    assert str(caught.value).endswith("; and 3 more")
    assert [row.line for row in read_rows([good, b" ", good])] == [1, 3]
    for lines in ([], [b" "]):
        with pytest.raises(UsageError, match="no row"):
            read_rows(lines)


def test_rows_are_bounded() -> None:
    good = json.dumps({"question": "q", "answer": "a"}).encode()
    with pytest.raises(UsageError, match="more than 3 rows"):
        read_rows([good] * 4, most=3)
    with pytest.raises(ValueError, match="longer than"):
        row_of(1, b'{"question": "' + b"x" * LONGEST_ROW + b'"}')
    with pytest.raises(ValueError, match="nested too deeply"):
        row_of(1, b'{"question": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


NAMES = st.sampled_from(
    ["messages", "conversations", "question", "answer", "role", "content", "from", "value", "pattern"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.text(max_size=5)


@given(st.recursive(LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(NAMES, x, max_size=4)))
def test_anything_is_a_row_or_says_why(data: Any) -> None:
    try:
        row = _row(data)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert row.messages and isinstance(row.question, str)
