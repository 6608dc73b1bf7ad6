"""The ways in which an attempt on a worker comes to nothing, and what that means for the worker: one table. Pure.

Decision 32 has the why of the rows; `lb.forwarding.retry.failure_policy` says what follows for the request.
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
    STALLED = auto()  # a stream that has begun makes no progress
    DISPLACED = auto()  # a stream that has begun makes room for others
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
    """``cause``: in one word, for counters. ``sent``: the worker may have read the request. ``blamed``: it is counted
    as a failure of the worker. ``suspect``: the request may be what killed it, should it turn out to be dead.
    ``excluded``: the request is not given to it again as long as there is another. ``counts``: as one of the moves or
    repetitions that a request has; without, a worker's death is not held against those that were there."""

    cause: str
    sent: bool = True
    blamed: bool = True
    suspect: bool = False
    excluded: bool = True
    counts: bool = True
    ejects: Ejects = Ejects.NO


CONSEQUENCES: dict[Failure, Consequence] = {
    Failure.UNREACHABLE: Consequence("connect", sent=False, excluded=False, counts=False, ejects=Ejects.FOR_A_WHILE),
    Failure.SLOW_CONNECT: Consequence("connect", sent=False, counts=False, ejects=Ejects.IF_ROOM),
    Failure.STALE: Consequence("stale", sent=False, blamed=False, suspect=True, counts=False),
    Failure.BROKEN: Consequence("broken", suspect=True),
    Failure.ERROR: Consequence("broken", suspect=True),
    Failure.BUSY: Consequence("broken"),
    Failure.ABSENT: Consequence("absent", blamed=False, excluded=False),
    Failure.SILENT: Consequence("silent", suspect=True, ejects=Ejects.IF_ROOM),
    Failure.STALLED: Consequence("stalled", suspect=True),
    Failure.DISPLACED: Consequence("displaced", blamed=False),
    Failure.EVICTED: Consequence("evicted", suspect=True, counts=False),
    Failure.ENGINE_DIED: Consequence("engine", suspect=True, counts=False, ejects=Ejects.UNTIL_RESTARTED),
}
