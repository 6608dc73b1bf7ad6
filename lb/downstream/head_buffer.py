"""What has come of requests and could not be read at once: a head in pieces, or requests sent ahead. Pure."""

from __future__ import annotations

from lb.protocol.http1.request import check_beginning


class HeadBuffer(bytearray):
    """``skipped``: the empty line that may come before a request has come."""

    __slots__ = ("_searched", "skipped")

    def __init__(self) -> None:
        super().__init__()
        self._searched, self.skipped = 0, False  # the first: bytes in which no head ends

    @property
    def holds_head(self) -> bool:
        """All of one."""
        return self.find(b"\r\n\r\n") >= 0

    def take(self) -> tuple[bytes, bytes] | None:
        """The head that it begins with and all that came behind that; None if more of the head has to come. Raises
        Malformed if it can become none."""
        if not self.skipped and self[:2] == b"\r\n":
            del self[:2]  # RFC 9112 2.2: an empty line before a request is passed over, once
            self.skipped, self._searched = True, 0
            if not self:
                return None
        end = self.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            check_beginning(self, self._searched)
            self._searched = len(self)
            return None
        data = self.drain()
        return data[: end + 4], data[end + 4 :]

    def drain(self) -> bytes:
        """All of it."""
        data = bytes(self)
        self.clear()
        self._searched, self.skipped = 0, False
        return data
