"""Heads that are not parsed twice. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Head(Protocol):
    length: int | None


_H = TypeVar("_H", bound=Head)

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,15})\r\n")


class Heads(Generic[_H]):
    """Reads the heads that come over one connection. The other side sends the same one again and again, but for the
    length of the body: what is equal byte for byte is not parsed twice. The same object is given again then, so it may
    be used until the next one is read."""

    __slots__ = ("_exact", "_known", "_last", "_length", "_parse")

    def __init__(self, parse: Callable[[bytes], _H]) -> None:
        self._parse = parse
        self._known = self._exact = b""
        self._length: int | None = None
        self._last: _H | None = None

    @property
    def any(self) -> bool:
        """Whether one has been read."""
        return self._last is not None

    def read(self, data: bytes) -> _H:
        """As ``parse``, which may raise."""
        last = self._last
        if last is not None and data == self._exact:
            last.length = self._length
            return last
        match = _LENGTH.search(data)
        known = data if match is None else data[: match.start(1)] + b"0" + data[match.end(1) :]
        if last is not None and known == self._known:
            if match is not None:
                last.length = int(match[1])
            return last
        self._last = None
        head = self._parse(data)
        self._known, self._exact = known, data
        self._last, self._length = head, head.length
        return head
