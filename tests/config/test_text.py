"""Text of strangers as it is shown."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from config.text import printable, printable_json, printable_log, whole

TEXTS = st.text(
    st.characters(codec=None) | st.sampled_from("\x1b\r\n\t\x07\x9b\u202e\u2028\u200d\ufeff\udc80\U000e0041m[;")
)

#: Cn: what is not in Python's tables yet may be a new emoji. Co: fonts of terminals have icons there.
SHOWN = {"Zs", "Cn", "Co"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pirate", "pirate"), ("größe 日本\u3000한국\xa0!", "größe 日本\u3000한국\xa0!"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
        ("\x1b[31mred", r"\x1b[31mred"), ("\x1b]0;t\x07", r"\x1b]0;t\x07"), ("\x9b2J", r"\x9b2J"),
        ("\u202egnp.exe", r"\u202egnp.exe"), ("a\u2066b\u2069", r"a\u2066b\u2069"), ("a\u2028b\x85", r"a\u2028b\x85"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\u200e\u200b\ufeff\u00ad", r"\u200e\u200b\ufeff\xad"), ("\U000e0041", r"\U000e0041"), ("\udc80", r"\udc80"),
    ],
)  # fmt: skip
def test_what_is_not_plain_text_is_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(TEXTS)
def test_what_is_shown_can_be_written_and_moves_nothing(text: str) -> None:
    for shown in (printable(text), printable(text, lines=True), printable_log(text)):
        shown.encode()
        rest = shown.replace("\n", "").replace("\t", "") if shown != printable(text) else shown
        for c in rest:
            category = unicodedata.category(c)
            assert not category.startswith(("C", "Z")) or category in SHOWN or c in "\u200c\u200d \u0600" or (
                category == "Cf" and unicodedata.bidirectional(c) in ("AN", "AL", "L", "NSM")
            ), hex(ord(c))
    assert printable(printable(text)) == printable(text)
    assert "\r" not in printable_log(text)


@given(st.dictionaries(TEXTS, TEXTS))
def test_json_stays_the_json_that_it_was(value: dict[str, str]) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert json.loads(printable_json(text)) == value
    assert printable(printable_json(text)) == printable_json(text)


@given(st.lists(st.text(st.sampled_from("ab\x1b[0;31m\r\n"))))
@example(["\r\x1b[m", "\n"])
@example(["\r", "\x1b[0m", "\x1b[", "1m\n"])
def test_a_log_reads_the_same_however_it_was_cut(pieces: list[str]) -> None:
    assert "".join(map(printable_log, whole(pieces))) == printable_log("".join(pieces))


def test_colours_go_and_redrawn_lines_are_lines() -> None:
    assert printable_log("\x1b[0;36m(API)\x1b[0m 10%\r20%\r\nx\x1b[2J") == "(API) 10%\n20%\nx\\x1b[2J"
