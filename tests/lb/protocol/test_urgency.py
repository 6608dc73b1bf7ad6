from __future__ import annotations

import pytest

from config.identity.api_keys import Priority
from lb.protocol import urgency
from lb.protocol.http1.request import parse


@pytest.mark.parametrize(
    ("given", "background"),
    [
        ("u=7", True), ("u=7, i", True), ("i, u=7", True), ("i,u=7;x=1", True), (" u=7 ", True),
        ("u=6", False), ("u=0", False), ("i", False), ("", False), ("u=70", False), ("xu=7", False), ("x=u=7", False),
        ("u=7x", False), ("u=7" * 1000, False),
    ],
)  # fmt: skip
def test_only_background_counts(given: str, background: bool) -> None:
    head = parse(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nPrIoRiTy: {given}\r\n\r\n".encode())
    for own in Priority:
        assert urgency.of(head, own) is (Priority.LOW if background else own)


def test_who_says_nothing_is_as_urgent_as_its_key() -> None:
    head = parse(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [urgency.of(head, own) for own in Priority] == list(Priority)
