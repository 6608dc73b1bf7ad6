"""The routes of vLLM that go through to workers; all others are unknown here and reach none. Pure."""

from __future__ import annotations

import re

_GET = frozenset({"/load", "/version", "/ping"})
_POST = frozenset(
    {
        "/ping", "/tokenize", "/detokenize", "/invocations",
        "/v1/completions", "/v1/chat/completions", "/v1/chat/completions/batch", "/v1/messages",
        "/v1/messages/count_tokens", "/v1/responses",
        "/v1/embeddings", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank",
        "/v1/audio/transcriptions", "/v1/audio/translations",
    }
)  # fmt: skip
WEBSOCKET = frozenset({"/v1/realtime"})
RESPONSES = "/v1/responses"
_RESPONSE = re.compile(r"/v1/responses/([^/?#]+)(/cancel)?")


def allowed_methods(path: str) -> frozenset[str]:
    """The methods that ``path`` (as sent, without its query) takes; empty for a path that is not ours."""
    found = set()
    if path in _GET or path in WEBSOCKET:
        found |= {"GET", "HEAD"}
    if path in _POST:
        found.add("POST")
    if match := _RESPONSE.fullmatch(path):
        found |= {"POST"} if match[2] else {"GET", "HEAD"}
    return frozenset(found)


def response_id(path: str) -> str | None:
    """The id in ``/v1/responses/{id}``: such a request belongs to the worker that made the id."""
    match = _RESPONSE.fullmatch(path)
    return match[1] if match else None


def is_generation(path: str) -> bool:
    """Whether repeating the request on another worker changes nothing but the time it takes."""
    return path in _POST and path not in ("/v1/responses", "/ping")
