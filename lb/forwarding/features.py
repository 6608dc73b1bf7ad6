"""What strategies may know of a request. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection

from lb.protocol import said
from lb.protocol.messages import Request
from lb.routing.strategies.base import Feature, Features

#: Characters of a prompt that its hash is of. Requests that begin alike are good for the same worker's prefix cache.
_PREFIX = 1024


def of(request: Request, model: str | None, adapters: Collection[str], needs: Collection[Feature]) -> Features:
    """Those of ``needs``. Of a body that is still coming, or is no JSON object, only the adapter is known."""
    adapter = model if Feature.ADAPTER in needs and model in adapters else None
    if not {Feature.PROMPT, Feature.SESSION} & set(needs):
        return Features(adapter)
    body = said.fields(request)
    prompt = body.get("messages", body.get("prompt", body.get("input"))) if Feature.PROMPT in needs else None
    session = body.get("prompt_cache_key") or body.get("user") if Feature.SESSION in needs else None
    return Features(
        adapter, None if prompt is None else zlib.crc32(json.dumps(prompt)[:_PREFIX].encode()),
        session if isinstance(session, str) else None,
    )  # fmt: skip
