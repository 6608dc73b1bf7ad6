"""Chunks of a stream on their way, without the comments that tell tokens (`config.replay`). Pure."""

from __future__ import annotations

from lb.protocol.http1.chunked import Cut

_COMMENT, _END = b": tokens ", b"\n\n\r\n"


def middle(marker: bytes) -> Cut:
    """Passes on whole chunks of events that have ``marker`` once each, and leaves comments out of them."""

    def cut(data: bytes, start: int) -> bytes | None:
        if start:  # one chunk, and nearly always one event
            at = start
            while data.startswith(_COMMENT, at):
                at = data.find(b"\n", at) + 1
            if data.endswith(_END) and data.find(b"\n\n", at) == len(data) - 4 and data.find(marker, at) > 0:
                return data if at == start else b"%x\r\n%b" % (len(data) - at - 2, data[at:])
        # No line break stands in JSON, so a chunk's payload has none that is CRLF.
        payload = b"".join(data.split(b"\r\n")[1::2])
        events = payload.count(b"\n\n")
        if not events or payload.count(marker) != events or not payload.endswith(b"\n\n"):
            return None
        first, *rest = (b"\n" + payload).split(b"\n" + _COMMENT)
        out = b"".join([first, *(b"\n" + part.partition(b"\n")[2] for part in rest if b"\n" in part)])[1:]
        return b"%x\r\n%b\r\n" % (len(out), out)

    return cut
