"""Where a path of the API is, at a cluster or at any other server."""

from __future__ import annotations

import pytest

from cluster.client import ClusterError
from cluster.client.core import address

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://h:1", "http://h:1/v1/chat/completions"), ("http://h:1/", "http://h:1/v1/chat/completions"),
        ("https://h/v1", "https://h/v1/chat/completions"), ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h/llm", "https://h/llm/v1/chat/completions"), ("https://h/a/v1", "https://h/a/v1/chat/completions"),
        ("https://h/api/paas/v4", "https://h/api/paas/v4/chat/completions"),
        ("https://h/api/paas/v4/", "https://h/api/paas/v4/chat/completions"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai/chat/completions"),
        ("http://v2", "http://v2/v1/chat/completions"), ("http://openai", "http://openai/v1/chat/completions"),
        ("https://h/v4/llm", "https://h/v4/llm/v1/chat/completions"),
    ],
)  # fmt: skip
def test_the_address(url: str, found: str) -> None:
    assert address(url, CHAT) == found


def test_what_is_no_address_says_so() -> None:
    with pytest.raises(ClusterError):
        address("h:1", CHAT)
