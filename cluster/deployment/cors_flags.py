"""Cross-origin requests: `--cors-origin`, and the engine's own flags, which the balancer answers by as well. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from config.errors import UsageError
from config.topology import CorsConfig
from worker.engines import flags

#: Fields of answers that clients read: what OpenAI's do, and ours.
_EXPOSED = (
    "X-Request-Id", "X-Routed-Model", "Retry-After",
    *(f"X-RateLimit-{what}-{of}" for of in ("Requests", "Tokens") for what in ("Limit", "Remaining", "Reset")),
)  # fmt: skip


def read(args: Sequence[str], given: Sequence[str] = ()) -> CorsConfig | None:
    """None where no origin is allowed; ``given``: those of `--cors-origin`. Methods, headers and credentials are the
    engine's flags in both cases. Raises UsageError for a value that the engine would not take, and for two answers to
    one question."""
    origins = _names(args, "--allowed-origins", ())
    methods, headers = _names(args, "--allowed-methods", ("*",)), _names(args, "--allowed-headers", ("*",))
    credentials = False
    for word in args:
        name = word.replace("_", "-")
        if name in ("--allow-credentials", "--no-allow-credentials"):
            credentials = name == "--allow-credentials"
    if not given:
        return CorsConfig(origins, methods, headers, credentials) if origins else None
    if origins:
        raise UsageError("--cors-origin and, for the engine, --allowed-origins: which?", exit_code=2)
    if credentials and "*" in given:
        raise UsageError("--cors-origin *: every origin, but then without --allow-credentials", exit_code=2)
    return CorsConfig(tuple(given), methods, headers, credentials, _EXPOSED)


def _names(args: Sequence[str], flag: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """A JSON list of texts, as vLLM's parser takes it."""
    given = flags.values(args, flag)
    if given is None:
        return default
    try:
        names = json.loads(" ".join(given))
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f'engine flag {flag}: a JSON list such as ["https://a.example"] is needed', exit_code=2)
    return tuple(names)
