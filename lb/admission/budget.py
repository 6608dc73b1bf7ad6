"""The memory that all request bodies together may take. Pure.

What has come of a body is counted at once, whatever there is room for, as it is in memory already; whether more of it
is read depends on the room. Bodies of up to `SMALL` bytes are never held up. Longer ones are read on in portions. Where
there is no room they wait, the request that came first at the head of the line, and the first in line may always go on,
one at a time: without that, uploads that are half there would wait for each other.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

#: Bytes of a body that came in one piece up to which it is not counted: most of them are, and there are no more such
#: bodies than connections.
UNCOUNTED = 4 * 1024

#: Bytes of a body that is read without a question.
SMALL = 64 * 1024

#: Bytes that one that is longer may read after a yes: what one read brings.
PORTION = 256 * 1024


class BodyBudget:
    """``size``: bytes for all bodies, ``longest``: of one of them; a part of the size is left to small bodies. ``used``
    goes beyond ``size`` only by what one read of each connection brings, and by the one body that may always go on."""

    __slots__ = ("_for_long", "_line", "_numbers", "_privileged", "size", "used")

    def __init__(self, size: int, longest: int) -> None:
        self.size, self.used = size, 0
        self._for_long = size - min(longest, size // 4)
        self._line: list[tuple[int, Share]] = []
        self._numbers = count()
        self._privileged: Share | None = None

    @property
    def exhausted(self) -> bool:
        """There is no room for a new body, however small."""
        return self.used > self.size

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return sum(share.waiting for _, share in self._line)

    def number(self) -> int:
        """The place in line of a body that comes now."""
        return next(self._numbers)

    def wants_more(self, share: Share) -> bool:
        """Whether ``share`` may read on; if not, it is woken when it may."""
        if share is self._privileged:
            return True
        share.waiting = True
        heapq.heappush(self._line, (share.number, share))
        self._serve(asking=share)
        return not share.waiting

    def serve(self, left: Share | None = None) -> None:
        """Something was given back; ``left`` holds nothing any more."""
        if left is not None and left is self._privileged:
            self._privileged = None
        if self._line:
            self._serve()

    def _serve(self, asking: Share | None = None) -> None:
        """Those at the head of the line for whom there is room, and no others."""
        while self._line:
            number, share = self._line[0]
            if share.waiting and share.number == number:  # else it has left the line
                if self.used + PORTION <= self._for_long:
                    share.grant()
                elif self._privileged is None:
                    self._privileged = share
                else:
                    return
                share.waiting = False
                heapq.heappop(self._line)
                if share is not asking:
                    share.wake()
            else:
                heapq.heappop(self._line)


class Share:
    """What one connection's request holds of the budget. ``wake`` is called when it may read on after `grow` has said
    no. `release` is safe to call on every way out, and counts once."""

    __slots__ = ("_budget", "_charged", "_granted", "held", "number", "waiting", "wake")

    def __init__(self, budget: BodyBudget, wake: Callable[[], None]) -> None:
        self._budget, self.wake = budget, wake
        self._charged = self._granted = 0
        self.number = -1
        #: Bytes of the body that are there.
        self.held = 0
        self.waiting = False

    def keep(self, size: int) -> bool:
        """A body that came in one piece; whether there is room for it."""
        self.held = self._charged = size
        budget = self._budget
        budget.used = used = budget.used + size
        return used <= budget.size

    def grow(self, size: int) -> bool:
        """So much more of a body has come; whether more may be read."""
        self.held += size
        new = size - min(size, self._granted)
        self._granted -= size - new
        self._charged += new
        self._budget.used += new
        if self.held <= SMALL or self._granted:
            return True
        if self.number < 0:
            self.number = self._budget.number()
        return self._budget.wants_more(self)

    def grant(self) -> None:
        """For the budget: a portion, counted before it comes."""
        self._granted = PORTION
        self._charged += PORTION
        self._budget.used += PORTION

    def complete(self) -> None:
        """Nothing more of the body comes, or is kept."""
        self.waiting = False
        granted, self._granted = self._granted, 0
        if granted:
            self._charged -= granted
            self._budget.used -= granted
            self._budget.serve()

    def release(self) -> None:
        """The body is gone."""
        if not self._charged:
            return
        budget = self._budget
        budget.used -= self._charged
        self._charged = self._granted = self.held = 0
        self.number, self.waiting = -1, False
        budget.serve(left=self)
