"""What strategies may know of a request. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection
from typing import Any

from lb.protocol.messages import Request
from lb.routing.strategies.base import Feature, Features

#: Characters of a prompt that its hash is of. Requests that begin alike are good for the same worker's prefix cache.
_PREFIX = 1024


def of(request: Request, model: str | None, adapters: Collection[str], needs: Collection[Feature]) -> Features:
    """Those of ``needs``. Of a body that is still coming, or is no JSON object, only the adapter is known."""
    adapter = model if Feature.ADAPTER in needs and model in adapters else None
    if not {Feature.PROMPT, Feature.SESSION} & set(needs):
        return Features(adapter)
    said = _body(request)
    prompt = said.get("messages", said.get("prompt", said.get("input"))) if Feature.PROMPT in needs else None
    session = said.get("prompt_cache_key") or said.get("user") if Feature.SESSION in needs else None
    return Features(
        adapter, None if prompt is None else zlib.crc32(json.dumps(prompt)[:_PREFIX].encode()),
        session if isinstance(session, str) else None,
    )  # fmt: skip


def _body(request: Request) -> dict[str, Any]:
    try:
        said = {} if request.upload is not None else json.loads(request.body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
