"""What follows from the way in which an attempt on a worker came to nothing: one table. Pure.

`lb.forwarding.exchange` goes by a row of it and asks nothing else of a failure. Decision 32 has the why of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Failure(Enum):
    """The ways in which an attempt comes to nothing."""

    UNREACHABLE = auto()  # no connection: refused, reset, its name unknown
    SLOW_CONNECT = auto()  # no connection in time, which may be the machine's fault
    STALE = auto()  # a kept connection had been closed before the worker read the request
    BROKEN = auto()  # the connection or the answer broke off, or is no answer
    ERROR = auto()  # it answered 500
    BUSY = auto()  # it answered that it, or what is behind it, cannot take the request now; or not with our key
    ABSENT = auto()  # it has not got the model that it was said to have
    SILENT = auto()  # no head of an answer in time
    STALLED = auto()  # a stream that has begun stands still
    EVICTED = auto()  # the supervisor says that the worker is lost
    ENGINE_DIED = auto()  # its API server says that the engine below it is dead


class Ejects(Enum):
    """Whether the worker is left out for it."""

    NO = auto()
    FOR_A_WHILE = auto()
    IF_ROOM = auto()  # unless too many are left out for slowness
    UNTIL_RESTARTED = auto()


@dataclass(frozen=True, slots=True)
class Consequence:
    """``cause``: in one word, for counters. ``sent``: the worker may have read the request. ``told``: it is counted as
    a failure of the worker. ``suspect``: the request may be what killed it, should it turn out to be dead.
    ``excluded``: the request is not given to it again as long as there is another. ``counts``: as one of the moves or
    repetitions that a request has; without, a worker's death is not held against those that were there."""

    cause: str
    sent: bool = True
    told: bool = True
    suspect: bool = False
    excluded: bool = True
    counts: bool = True
    ejects: Ejects = Ejects.NO


CONSEQUENCES: dict[Failure, Consequence] = {
    Failure.UNREACHABLE: Consequence("connect", sent=False, excluded=False, counts=False, ejects=Ejects.FOR_A_WHILE),
    Failure.SLOW_CONNECT: Consequence("connect", sent=False, counts=False, ejects=Ejects.IF_ROOM),
    Failure.STALE: Consequence("stale", sent=False, told=False, suspect=True, counts=False),
    Failure.BROKEN: Consequence("broken", suspect=True),
    Failure.ERROR: Consequence("broken", suspect=True),
    Failure.BUSY: Consequence("broken"),
    Failure.ABSENT: Consequence("absent", told=False, excluded=False),
    Failure.SILENT: Consequence("silent", suspect=True, ejects=Ejects.IF_ROOM),
    Failure.STALLED: Consequence("stalled", suspect=True),
    Failure.EVICTED: Consequence("evicted", suspect=True, counts=False),
    Failure.ENGINE_DIED: Consequence("engine", suspect=True, counts=False, ejects=Ejects.UNTIL_RESTARTED),
}

#: Answers that another worker is asked for, as long as there is one.
_ELSEWHERE = {
    429: Failure.BUSY, 500: Failure.ERROR, 502: Failure.BUSY, 503: Failure.BUSY, 504: Failure.BUSY,
}  # fmt: skip

#: The same where the key was ours: a client is not told that we have the wrong one.
_OUR_KEY = {401: Failure.BUSY, 403: Failure.BUSY}

#: What happens on a worker whose engine is known to be dead happens because of that.
_BECAUSE = frozenset({
    Failure.BROKEN, Failure.ERROR, Failure.BUSY, Failure.SILENT, Failure.STALLED, Failure.EVICTED,
})  # fmt: skip


def of_status(status: int, *, our_key: bool = False) -> Failure | None:
    """What an answer with that status means, if another worker may do better. Any other 4xx is the client's answer."""
    return _ELSEWHERE.get(status) or (_OUR_KEY.get(status) if our_key else None)


def on_dying(failure: Failure) -> Failure:
    """The same failure, on a worker that is known to be dying."""
    return Failure.ENGINE_DIED if failure in _BECAUSE else failure
