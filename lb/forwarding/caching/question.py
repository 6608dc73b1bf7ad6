"""Which requests have one answer only, and what is the same of two that have the same one. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lb.protocol.messages import Request

#: Routes whose answers are kept, and bytes of a body that is read for it.
_ROUTES, _MOST_BODY = frozenset({"/v1/completions", "/v1/chat/completions"}), 64 * 1024


def digest(request: Request, path: str, model: str, version: str) -> bytes | None:
    """Of all that its answer depends on; None where another answer might come the next time: it is neither greedy
    (temperature 0) nor seeded, or a body that readers may read differently. ``version``: what ``model`` is made of."""
    if path not in _ROUTES or request.upload is not None or len(request.body) > _MOST_BODY or request.head.version != 1:
        return None
    try:
        said = json.loads(request.body, object_pairs_hook=_once)
        if not isinstance(said, dict) or not _is_determined(said):
            return None
        tenant = request.tenant
        asked = [tenant.mark or tenant.name, model, version, request.head.target, said]
        written = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None
    return hashlib.sha256(written.encode()).digest()


def _is_determined(said: dict[str, Any]) -> bool:
    temperature, seed = said.get("temperature"), said.get("seed")
    greedy = isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
    return greedy or (isinstance(seed, int) and not isinstance(seed, bool))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a key that comes twice: readers differ in which one they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found
