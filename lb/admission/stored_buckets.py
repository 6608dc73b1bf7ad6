"""Token buckets that clusters on several machines share through a store, which each reaches over the network. Pure.

No request waits for the store. Each process keeps a copy of a bucket and takes from that; a moment later it tells the
store what it has taken, of many buckets in one message, and the answer, what the store's bucket lacks by now, corrects
the copy. So a process may let through as much as others have taken that it has not heard of yet, and no more; that is
missing afterwards, in the store and in every copy, until it has flowed in again. Both are the virtual scheduling of
the generic cell rate algorithm (ITU-T I.371, annex A): all that is kept of a bucket is how long it takes to be full.

The buckets that the balancers of one machine share (`lb.admission.rate_limits`) hold besides, whatever the store says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from lb.admission.rate_limits import TokenBucket

#: A minute in µs: how long an empty bucket takes to be full.
FULL_US = 60e6

#: So much more than that (µs) is rounding.
_ROUNDING_US = 1e-3

#: Whoever says that a bucket takes longer (µs) is mistaken, or shuts a key out for years.
_MOST_US = 366 * 86_400e6

#: Buckets that wait for a store that does not answer. Of more than that the first are forgotten.
_MOST_DUE = 16_384


class Word(NamedTuple):
    """``taken`` since the store was last told, and what was ``missing`` before that as far as is known here, both in µs
    of flow. ``epoch``: what the store was called when it last answered for this bucket. One that is called otherwise
    has forgotten what it knew, and no name says that the last word may not have been heard: then at least so much is
    missing. Else the store knows better."""

    taken: float
    missing: float
    epoch: str


class StoredBucket:
    """``local``: what the balancers of this machine share; ``note`` is told that the store should hear of this one.
    ``key``: its name in the store, which tells nobody whose it is. Times are s, of the clock of ``local``."""

    __slots__ = (
        "_asked_at", "_at", "_cost", "_epoch", "_local", "_missing", "_note", "_untold", "key", "left", "limit",
    )  # fmt: skip

    def __init__(self, name: str, local: TokenBucket, note: Callable[[StoredBucket], None]) -> None:
        self.key = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
        self.limit, self._local, self._note = local.limit, local, note
        self._cost = FULL_US / local.limit  # µs that one takes to flow in
        self._missing = self._untold = self._at = self._asked_at = self.left = 0.0
        self._epoch = ""

    def take(self, amount: int, now: float) -> bool:
        """False, and nothing is taken, where there is less."""
        if not self._local.take(amount, now):
            return False
        self._note(self)
        cost = amount * self._cost
        missing = self._lacks(now) + cost
        if missing > FULL_US + _ROUNDING_US:
            self._local.settle(-amount, now)
            return False
        self._missing, self._at = missing, now
        self._untold += cost
        self.left = min(self._local.left, (FULL_US - missing) / self._cost)
        return True

    def settle(self, change: int, now: float) -> None:
        """Takes so much more or, negative, gives it back; it may be more than there is."""
        self._local.settle(change, now)
        cost = change * self._cost
        self._missing, self._at = max(0.0, self._lacks(now) + cost), now
        self._untold += cost
        self._note(self)

    def level(self, now: float) -> float:
        """What is there; negative where more was taken than there was."""
        return min(self._local.level(now), (FULL_US - self._lacks(now)) / self._cost)

    def wait(self, amount: float, level: float) -> float:
        """Seconds until there is so much, where there is ``level`` now."""
        return self._local.wait(amount, level)

    def tell(self, now: float) -> Word:
        """What the store is to hear; `hear` brings its answer. What was told once and may have been heard is never told
        again as taken: where no answer came, the next word has it in what is missing."""
        word = Word(self._untold, max(0.0, self._lacks(now) - self._untold), self._epoch)
        self._untold, self._asked_at, self._epoch = 0.0, now, ""
        return word

    def hear(self, missing: float, epoch: str, now: float) -> None:
        """What was missing (µs of flow) from the store's bucket after `tell`. Raises ValueError for what cannot be."""
        if not 0.0 <= missing <= _MOST_US:
            raise ValueError("a bucket cannot be that empty")
        flowed = (now - self._asked_at) * 1e6
        self._missing, self._at = max(0.0, max(0.0, missing - flowed) + self._untold), now
        self._epoch = epoch

    def _lacks(self, now: float) -> float:
        return max(0.0, self._missing - (now - self._at) * 1e6)


class StoredBuckets:
    """Those that the store is to hear of. ``wake`` is called when there is something to tell."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self.wake = wake
        self._due: dict[StoredBucket, None] = {}

    def widen(self, name: str, local: TokenBucket) -> StoredBucket:
        """``local`` and what other machines take of the bucket of that name."""
        return StoredBucket(name, local, self.note)

    def due(self, most: int) -> list[StoredBucket]:
        """Those that have waited longest, once."""
        found = [bucket for bucket, _ in zip(self._due, range(most), strict=False)]
        for bucket in found:
            del self._due[bucket]
        return found

    def __len__(self) -> int:
        return len(self._due)

    def note(self, bucket: StoredBucket) -> None:
        """The store should hear of it."""
        if bucket not in self._due:
            if len(self._due) >= _MOST_DUE:
                del self._due[next(iter(self._due))]
            self._due[bucket] = None
            self.wake()
