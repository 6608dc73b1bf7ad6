"""What the body of one connection's request may take while it comes: its share of the memory, its place among the
uploads of its address, its time. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lb.admission.budget import BodyBudget, Share
from lb.admission.crowd import Crowd
from lb.admission.pace import Pace
from lb.protocol.body import AT_ONCE
from lb.protocol.errors import ProxyError, Source
from lb.protocol.messages import Limits


@dataclass(frozen=True, slots=True)
class Admission:
    """What all connections share."""

    limits: Limits
    budget: BodyBudget
    crowd: Crowd


class Allowance:
    """``wake`` is called when the body may be read on after `came` has said no. Times are s, monotonic; ``count`` rises
    with every byte of the body that comes. ``in_use``: there is something for `over` to give back."""

    __slots__ = ("_admission", "_coming", "_held_up_since", "_origin", "_pace", "_share", "in_use")

    def __init__(self, admission: Admission, origin: str, wake: Callable[[], None]) -> None:
        self._admission, self._origin = admission, origin
        self._share = Share(admission.budget, wake)
        self._pace: Pace | None = None
        self._coming = self.in_use = False
        self._held_up_since = 0.0

    def no_room(self) -> ProxyError:
        """The answer where there is none."""
        message = f"the bodies of requests take all of the {self._admission.budget.size} bytes that there are for them"
        return ProxyError(503, message, source=Source.INTERNAL, retry_after=5)

    def whole(self, size: int) -> bool:
        """It came in one piece; whether there is room for it."""
        self.in_use = True
        return self._share.keep(size)

    def announce(self, length: int | None, there: int, now: float, *, anyway: bool) -> None:
        """A body of ``length`` bytes (None: chunked), of which some are ``there``. ``anyway``: whether there is room
        for it or not. Raises ProxyError (413, 429, 503)."""
        longest = self._admission.limits.max_body
        if length and length > longest:
            raise ProxyError(413, f"a body of more than {longest} bytes")
        whole = length is not None and there >= length <= AT_ONCE
        room = self.whole(length or 0) if whole else not self._admission.budget.exhausted
        if not room and not anyway:
            raise self.no_room()
        if not whole:
            self.begin(now)

    def begin(self, now: float) -> None:
        """The first of several pieces is awaited. Raises ProxyError (429)."""
        self._admission.crowd.begin_body(self._origin)
        limits = self._admission.limits
        self._coming = self.in_use = True
        self._pace = Pace(limits.body, limits.rate, now, 0)

    @property
    def waiting(self) -> bool:
        """For memory: nothing more is to be read."""
        return self._share.waiting

    def came(self, size: int, now: float) -> bool:
        """A piece that is collected; whether more of them may be read."""
        if self._share.grow(size):
            return True
        self._held_up_since = now
        return False

    def resumed(self, now: float, count: int) -> None:
        """Until now it was not read."""
        if self._pace is not None:
            self._pace.begin(now, count)

    def passed_on(self) -> None:
        """What comes of it from now on is not collected."""
        self._share.complete()

    def complete(self) -> None:
        """All of it is there."""
        if self._coming:
            self._coming, self._pace = False, None
            self._admission.crowd.end_body(self._origin)
            self._share.complete()

    def over(self) -> None:
        """Nobody needs it any more. Safe to call on every way out."""
        if self._coming:
            self.complete()
        self._share.release()
        self.in_use = False

    def refusal(self, now: float, count: int, *, paused: bool) -> ProxyError | None:
        """What to answer if it takes too long. ``paused``: it is not read at the moment."""
        limits = self._admission.limits
        if self._share.waiting:
            return self.no_room() if now - self._held_up_since > limits.wait else None
        if paused or self._pace is None or not self._pace.is_slow(now, count):
            return None
        rate = f", or fewer than {limits.rate:g} bytes a second" if limits.rate else ""
        return ProxyError(408, f"nothing more of the body came for {limits.body:g} s{rate}")
