"""The engine's flags for cross-origin requests, which the balancer answers by as well. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from config.errors import UsageError
from config.topology import CorsConfig
from worker.engines import flags


def read(args: Sequence[str]) -> CorsConfig | None:
    """None where no origin is allowed. Raises UsageError for a value that the engine would not take."""
    origins = _names(args, "--allowed-origins", ())
    methods, headers = _names(args, "--allowed-methods", ("*",)), _names(args, "--allowed-headers", ("*",))
    credentials = False
    for word in args:
        name = word.replace("_", "-")
        if name in ("--allow-credentials", "--no-allow-credentials"):
            credentials = name == "--allow-credentials"
    return CorsConfig(origins, methods, headers, credentials) if origins else None


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
