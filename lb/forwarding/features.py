"""What strategies may know of a request. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection

from lb.protocol.fields import said
from lb.protocol.messages import Request
from lb.routing.strategies.base import Feature, Features

#: Characters of a prompt that its hash is of. Requests that begin alike are good for the same worker's prefix cache.
_PREFIX = 1024

#: Bytes a token and a block of a prompt, as JSON has it; more blocks than this are not told apart.
_TOKEN, _BLOCK, _MOST_BLOCKS = 4, 2048, 256

#: Where the prompt begins. What stands before it may differ from request to request.
_BEGINS = (b'"messages"', b'"prompt"', b'"input"')


def of(
    request: Request, model: str | None, adapters: Collection[str], needs: Collection[Feature], stream: bool = False
) -> Features:
    """Those of ``needs``. Of a body that is still coming, or is no JSON object, only the adapter is known."""
    adapter = model if Feature.ADAPTER in needs and model in adapters else None
    tokens, blocks = 0, tuple[int, ...]()
    if Feature.BLOCKS in needs:
        coming = request.upload is not None
        tokens = 1 + ((request.length if coming else len(request.body)) or 0) // _TOKEN
        blocks = () if coming else _blocks(request.body, model)
    if not {Feature.PROMPT, Feature.SESSION} & set(needs):
        return Features(adapter, tokens=tokens, blocks=blocks, stream=stream)
    body = said.fields(request)
    prompt = body.get("messages", body.get("prompt", body.get("input"))) if Feature.PROMPT in needs else None
    session = body.get("prompt_cache_key") or body.get("user") if Feature.SESSION in needs else None
    return Features(
        adapter, None if prompt is None else zlib.crc32(json.dumps(prompt)[:_PREFIX].encode()),
        session if isinstance(session, str) else None, tokens, blocks, stream,
    )  # fmt: skip


def _blocks(body: bytes, model: str | None) -> tuple[int, ...]:
    """Of the body as it is: reading it would cost more than all the rest, and a conversation that goes on is written as
    it was before."""
    begin = next((at for field in _BEGINS if (at := body.find(field)) >= 0), 0)
    crc, found = zlib.crc32((model or "").encode("utf-8", "surrogatepass")), []
    for at in range(begin, min(len(body) - _BLOCK + 1, begin + _MOST_BLOCKS * _BLOCK), _BLOCK):
        crc = zlib.crc32(body[at : at + _BLOCK], crc)
        found.append(crc)
    return tuple(found)
