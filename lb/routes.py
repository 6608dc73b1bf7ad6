"""The routes of vLLM that go through to workers; all others are unknown here and reach none. Pure."""

from __future__ import annotations

import re

from lb.errors import ProxyError

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


#: What the balancer answers itself, for everybody.
_OPEN = frozenset({"/health", "/metrics", "/v1/models"})

#: What it answers to those only who may manage the cluster: adapter routes change it.
_PROTECTED = (
    "/v1/cluster", "/v1/system", "/v1/lora_adapters", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
)  # fmt: skip


def is_ours(path: str) -> bool:
    """Whether the balancer answers this path (as sent, without its query) itself."""
    return path in _OPEN or path.startswith(_PROTECTED)


def is_open(path: str) -> bool:
    """Whether everybody may call this path of ours."""
    return path in _OPEN


def check(path: str, method: str, further: frozenset[str] = frozenset()) -> None:
    """Raises ProxyError (404, 405) for what is not passed on. ``further``: paths that take GET and POST as well."""
    methods = frozenset({"GET", "HEAD", "POST"}) if path in further else allowed_methods(path)
    if not methods:
        raise ProxyError(404, f"no route {path}")
    if method not in methods:
        allowed = ", ".join(sorted(methods))
        raise ProxyError(405, f"{path} takes {allowed}, not {method}", headers={"Allow": allowed})


_GET_HEAD, _ONLY_POST = frozenset({"GET", "HEAD"}), frozenset({"POST"})


def allowed_methods(path: str) -> frozenset[str]:
    """The methods that ``path`` (as sent, without its query) takes; empty for a path that is not passed on."""
    methods = _ONLY_POST if path in _POST else frozenset()
    if path in _GET or path in WEBSOCKET:
        methods |= _GET_HEAD
    if not methods and (match := _RESPONSE.fullmatch(path)):
        methods = _ONLY_POST if match[2] else _GET_HEAD
    return methods


def wanted_response(path: str, previous: str | None) -> str | None:
    """The id of the response that a request is about: only the worker that made it can answer. ``previous``: the
    one that its body names."""
    if path == RESPONSES:
        return previous
    return response_id(path) if path.startswith(RESPONSES) else None


def response_id(path: str) -> str | None:
    """The id in ``/v1/responses/{id}``: such a request belongs to the worker that made the id."""
    match = _RESPONSE.fullmatch(path)
    return match[1] if match else None


def is_generation(path: str) -> bool:
    """Whether repeating the request on another worker changes nothing but the time it takes."""
    return path in _POST and path not in ("/v1/responses", "/ping")
