"""Calls of `InternalChat` for tests."""

from __future__ import annotations

from typing import Any

import grpc

from lb.rpc.contract import ChatMessages
from lb.rpc.services import CHAT

MESSAGES = ChatMessages()


def channel(target: str, **options: int) -> grpc.aio.Channel:
    """One with a connection of its own."""
    given = {"grpc.use_local_subchannel_pool": 1, **options}
    return grpc.aio.insecure_channel(target, options=list(given.items()))


def call(on: grpc.aio.Channel, *metadata: tuple[str, str], timeout: float | None, **fields: Any) -> Any:
    """Of the request with these ``fields``; its chunks."""
    method = on.unary_stream(
        CHAT, request_serializer=lambda m: m.SerializeToString(), response_deserializer=MESSAGES.chunk.FromString
    )
    return method(MESSAGES.request(**{"prompt": "x", **fields}), metadata=metadata, timeout=timeout)


async def chat(
    on: grpc.aio.Channel, *metadata: tuple[str, str], timeout: float | None = 5.0, **fields: Any
) -> list[tuple[str, bool]]:
    """The text of each chunk, and whether it is the last."""
    return [(chunk.text_delta, chunk.finished) async for chunk in call(on, *metadata, timeout=timeout, **fields)]
