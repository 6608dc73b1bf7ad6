from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.dataset.parsing import WrittenRow, rows, topics

ROW = {"question": "q?", "answer": "an answer"}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"rows": [ROW]}), json.dumps([ROW]), json.dumps(ROW), f"Here:\n```json\n{json.dumps([ROW])}\n```",
        json.dumps({"data": [{"instruction": "q?", "output": "an answer"}]}),
        json.dumps({"rows": [ROW]})[:-2] + ', {"qu',
    ],
)  # fmt: skip
def test_rows_are_read_in_whatever_form(text: str) -> None:
    assert rows(text) == ([WrittenRow("q?", "an answer")], 0)


@pytest.mark.parametrize(
    "row",
    [
        {}, 3, {"question": "q?"}, {"question": "", "answer": "a"}, {"question": "q?", "answer": " "},
        {"question": "same", "answer": "same"}, {"question": "???", "answer": "a"}, {"question": "q?", "answer": 3},
        {"question": "q?", "answer": "I'm sorry, but I can't help."}, {"question": "q?", "answer": "As an AI, I…"},
        {"question": "q?", "answer": "抱歉，我无法回答"}, {"question": "q" * 9_000, "answer": "a"},
        {"question": "q\u0000?", "answer": "a"}, {"question": "\ud800?x", "answer": "a"},
    ],
)  # fmt: skip
def test_what_is_of_no_use_is_counted(row: Any) -> None:
    assert rows(json.dumps({"rows": [ROW, row]})) == ([WrittenRow("q?", "an answer")], 1)


def test_an_answer_without_rows_is_a_refusal() -> None:
    assert rows("I cannot do that.") == ([], 1)
    assert rows("") == ([], 1)


def test_rows_of_one_answer_are_bounded() -> None:
    many = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(500)]
    assert len(rows(json.dumps({"rows": many}))[0]) == 100


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"topics": ["a", "b", "a"]}', ["a", "b"]), ('["a"]', ["a"]), ("1. a\n2) b\n- c\n\nso", ["a", "b", "c"]),
        ("none", []), (json.dumps({"topics": ["x" * 201, " ", 3, "b"]}), ["b"]),
    ],
)  # fmt: skip
def test_topics(text: str, found: list[str]) -> None:
    assert topics(text) == found


@given(st.text())
def test_anything_is_read(text: str) -> None:
    found, refused = rows(text)
    assert found or refused
    for row in found:
        assert json.loads(row.line("s"))["messages"][1] == {"role": "user", "content": row.question}
    assert all(isinstance(topic, str) for topic in topics(text))


def test_a_line_is_what_training_reads() -> None:
    assert json.loads(WrittenRow("问", "答").line("be brief")) == {"messages": [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "问"},
        {"role": "assistant", "content": "答"},
    ]}  # fmt: skip
    assert [m["role"] for m in json.loads(WrittenRow("q", "a").line(""))["messages"]] == ["user", "assistant"]
