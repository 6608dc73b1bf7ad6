"""Answers by what was asked, the latest used ones, of one balancer process. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

#: Bytes of one answer at most; and what one takes beside its own bytes.
_MOST_ONE, _OVERHEAD = 1024 * 1024, 512

#: So much of the room may answers take that are still coming.
_COMING = 4


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """``kind``: its Content-Type. ``expires``: s, monotonic."""

    kind: bytes
    body: bytes
    expires: float

    @property
    def size(self) -> int:
        return len(self.body) + len(self.kind) + _OVERHEAD


class ResponseCache:
    """At most ``size`` bytes, each for ``ttl`` s; ``clock``: s, monotonic. ``hits`` and ``misses`` are counted of
    requests whose answer may be kept."""

    def __init__(self, size: int, ttl: float, clock: Callable[[], float]) -> None:
        self._size, self._ttl, self._clock = size, ttl, clock
        self._answers: OrderedDict[bytes, CachedAnswer] = OrderedDict()
        self._coming = 0
        self.bytes = self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def largest(self) -> int:
        """Bytes of an answer that is kept, at most."""
        return min(_MOST_ONE, self._size // 8)

    def get(self, digest: bytes) -> CachedAnswer | None:
        found = self._answers.get(digest)
        if found is not None and found.expires <= self._clock():
            self._forget(digest)
            found = None
        if found is None:
            self.misses += 1
            return None
        self._answers.move_to_end(digest)
        self.hits += 1
        return found

    def put(self, digest: bytes, kind: bytes, body: bytes) -> None:
        answer = CachedAnswer(kind, body, self._clock() + self._ttl)
        if answer.size > self.largest:
            return
        self._forget(digest)
        self._answers[digest] = answer
        self.bytes += answer.size
        while self.bytes > self._size:
            self._forget(next(iter(self._answers)))

    def reserve(self, count: int) -> bool:
        """Room for so many more bytes of answers that are still coming (`free` gives it back), if there is some."""
        if self._coming + count > self._size // _COMING:
            return False
        self._coming += count
        return True

    def free(self, count: int) -> None:
        self._coming -= count

    def _forget(self, digest: bytes) -> None:
        if (gone := self._answers.pop(digest, None)) is not None:
            self.bytes -= gone.size
