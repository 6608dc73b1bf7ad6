"""Every form of a row becomes the same chat; what cannot be trained on is named by its line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.training import data
from worker.training.data import Dialogue, RowError, dialogue, read_array, read_lines

ASKED, SAID = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}
TOLD = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": [ASKED, SAID]}, [ASKED, SAID]),
        ({"messages": [TOLD, ASKED, SAID], "other": 1}, [TOLD, ASKED, SAID]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}, SAID]}, [ASKED, SAID]),
        ({"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]}, [ASKED, SAID]),
        ({"system": "Be brief.", "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]},
         [TOLD, ASKED, SAID]),
        ({"conversations": [ASKED, SAID]}, [ASKED, SAID]),
        ({"messages": [ASKED, SAID, ASKED]}, [ASKED, SAID]),
        ({"prompt": "Who?", "completion": "I."}, [ASKED, SAID]),
        ({"prompt": [TOLD, ASKED], "completion": [SAID]}, [TOLD, ASKED, SAID]),
        ({"instruction": "Who?", "input": "", "output": "I."}, [ASKED, SAID]),
        ({"instruction": "Who", "input": "is it?", "output": "I.", "system": "Be brief."},
         [TOLD, {"role": "user", "content": "Who\n\nis it?"}, SAID]),
    ],
)  # fmt: skip
def test_forms_of_a_row(row: Any, messages: Any) -> None:
    found = dialogue(row)
    assert list(found.messages) == messages
    assert found.learned == {len(messages) - 1}
    assert found.plain == (row.get("prompt") == "Who?")


def test_only_answers_with_a_weight_are_learned_and_tools_are_kept() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}
    result = {"role": "tool", "content": "7", "tool_call_id": "1"}
    messages = [ASKED, {**SAID, "weight": 0}, ASKED, call, result, {**SAID, "weight": 1}]
    found = dialogue({"messages": messages, "tools": [{"type": "function"}]})
    assert found.learned == {3, 5}
    assert found.messages == (ASKED, SAID, ASKED, {**call, "content": ""}, result, SAID)
    assert found.tools == ({"type": "function"},)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (7, "no JSON object"), ({}, "none of messages"), ({"messages": []}, "no list of messages"),
        ({"messages": "x"}, "no list of messages"), ({"messages": [ASKED]}, "nothing to learn"),
        ({"messages": [ASKED, {"role": "assistant", "content": ""}]}, "nothing to learn"),
        ({"messages": [ASKED, {**SAID, "weight": 0}]}, "nothing to learn"),
        ({"messages": [ASKED, {**SAID, "weight": 0.5}]}, "weight"),
        ({"messages": [{"role": "wizard", "content": "x"}, SAID]}, "nobody known: 'wizard'"),
        ({"messages": [{"role": [1], "content": "x"}, SAID]}, "nobody known"),
        ({"messages": ["x", SAID]}, "no object"), ({"messages": [{"role": "user"}, SAID]}, "no text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, SAID]}, "no text"),
        ({"messages": [ASKED, SAID], "tools": "x"}, "tools"),
        ({"messages": [ASKED] * 1001}, "more than the 1000 messages"),
        ({"instruction": 1, "output": "x"}, "no text"),
    ],
)
def test_what_cannot_be_trained_on(row: Any, why: str) -> None:
    with pytest.raises(RowError, match=why):
        dialogue(row)


def test_a_line_that_is_wrong_is_named_and_empty_ones_are_nothing() -> None:
    good = json.dumps({"messages": [ASKED, SAID]}).encode()
    assert len(list(read_lines([good, b"\n", good]))) == 2
    for bad in (b"{", b"[1]", b'{"messages": NaN}', b"\xff", b"[" * 100_000, b'"' + b"x" * data.MOST_OF_A_ROW + b'"'):
        with pytest.raises(RowError, match=r"^line 3: "):
            list(read_lines([good, b" \n", bad]))
    with pytest.raises(RowError, match=r"^row 2: "):
        list(read_array(b"[" + good + b",7]"))
    with pytest.raises(RowError, match="must be a list"):
        list(read_array(b"7"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "messages", "conversations", "prompt",
                                       "completion", "weight", "tools", "text", "system"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_whatever_a_row_holds_it_is_a_chat_or_refused(row: Any) -> None:
    try:
        found = dialogue(row)
    except RowError:
        return
    assert isinstance(found, Dialogue) and found.learned
    assert all(found.messages[at]["role"] == "assistant" for at in found.learned)
