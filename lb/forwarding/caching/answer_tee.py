"""What a client is sent, written down on the way."""

from __future__ import annotations

import re

from lb.forwarding.caching.response_cache import ResponseCache
from lb.protocol.errors import ProxyError
from lb.protocol.http1 import response
from lb.protocol.http1.chunked import BadChunk, Decoder
from lb.protocol.messages import Downstream

#: In a stream that says 200 and is no answer.
_FAILED = re.compile(rb'^data: ?\{"error"|"finish_reason": ?"(?:abort|error)"', re.MULTILINE)
_DONE = b"data: [DONE]"

#: Bytes of the head, which are not kept.
_HEAD_BYTES = 4096


class AnswerTee:
    """A client's connection, as whoever answers sees it. Its bytes are kept as long as ``cache`` would have them."""

    def __init__(self, client: Downstream, cache: ResponseCache) -> None:
        self._client, self._cache = client, cache
        self._parts: list[bytes] | None = []
        self._size = 0

    def write(self, data: bytes) -> None:
        self._client.write(data)
        if self._parts is not None:
            if self._size + len(data) > self._cache.largest + _HEAD_BYTES or not self._cache.reserve(len(data)):
                self.drop()
                return
            self._size += len(data)
            self._parts.append(data)

    def drop(self) -> None:
        """It is not to be kept, or is by now."""
        self._parts = None
        self._cache.free(self._size)
        self._size = 0

    def answer(self) -> tuple[bytes, bytes] | None:
        """Content-Type and body of what was written, if that is a whole answer of 200."""
        return None if self._parts is None else answer_in(b"".join(self._parts))

    # `Downstream`, as it is

    @property
    def close_after(self) -> bool:
        return self._client.close_after

    @close_after.setter
    def close_after(self, closes: bool) -> None:
        self._client.close_after = closes

    @property
    def full(self) -> bool:
        return self._client.full

    def closes_after_this(self) -> bool:
        return self._client.closes_after_this()

    def done(self) -> None:
        self._client.done()

    def refuse(self, error: ProxyError) -> None:
        self._client.refuse(error)

    def close(self) -> None:
        self._client.close()

    def cut(self) -> None:
        self._client.cut()

    def become_tunnel(self) -> None:
        self._client.become_tunnel()

    def hold_upload(self, hold: bool) -> None:
        self._client.hold_upload(hold)


def answer_in(sent: bytes) -> tuple[bytes, bytes] | None:
    """Content-Type and body of an answer in HTTP/1.1, if it is whole, and good to be given again."""
    end = sent.find(b"\r\n\r\n") + 4
    try:
        head = response.parse(sent[:end])
        body = sent[end:] if not head.chunked else _payload(sent[end:])
    except (response.Garbage, BadChunk):
        return None
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.kept)}
    if head.status != 200 or b"content-encoding" in fields or (not head.chunked and head.length != len(body)):
        return None
    if head.is_events:
        whole = body.rstrip().endswith(_DONE) and not _FAILED.search(body)
    else:
        whole = head.media == b"application/json"
    return (fields[b"content-type"], body) if whole else None


def _payload(data: bytes) -> bytes:
    """Of all of a chunked body. Raises BadChunk."""
    decoder = Decoder(strict=False)
    payload = decoder.feed(data)
    if not decoder.ended:
        raise BadChunk("it has no end")
    return payload
