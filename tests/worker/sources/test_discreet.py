"""Secrets that stand in what libraries say, and in what jobs are asked for."""

from __future__ import annotations

import pytest

from worker.sources.discreet import discreet, discreet_values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no answer from https://h/a.zip?X-Amz-Signature=abc for it", "no answer from https://h/a.zip?… for it"),
        ("https://user:word@h/a", "https://…@h/a"), ("hf_token is tok_en123", "hf_token is …"),
        ("two\nlines", "two lines"), ("x" * 900, "x" * 500),
    ],
)
def test_what_is_told_of_a_failure(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "tok_en123")
    assert discreet(text) == shown


def test_what_is_shown_of_a_job() -> None:
    url = "https://h/a.zip?sig=secret"
    shown = discreet_values({"references": [url, "hf://a/b"], "fetched": {url: {"size": 3}}, "kept": None})
    assert shown == {"references": ["https://h/a.zip?…", "hf://a/b"], "fetched": {"https://h/a.zip?…": {"size": 3}},
                     "kept": None}  # fmt: skip
