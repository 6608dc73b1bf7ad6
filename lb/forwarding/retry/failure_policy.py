"""What follows from the way in which an attempt on a worker came to nothing for the request, as tables. Pure.

`lb.forwarding.retry.failover` goes by their rows and asks nothing else of a failure. Decision 32 has their why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from lb.protocol.failures import Failure

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


class Action(Enum):
    """What follows for the request."""

    END_TUNNEL = auto()  # a WebSocket is over
    END_AS_TOLD = auto()  # the worker has ended the stream for a fault of the client's: in its words
    RECONNECT = auto()  # once more to the same worker, on a connection that is new
    FAIL = auto()  # it is counted against the worker, and `AFTER_FAILURE` says how the request goes on
    FAIL_AS_BROKEN = auto()  # the same, as a connection that broke off
    END_WITH_ERROR = auto()  # the answer has begun and cannot go on
    COMPLETE = auto()  # all of it has come, but for what says so
    RESUME = auto()  # its stream goes on on another worker
    ANSWER_FAILED = auto()  # the client is told that the worker failed (502)
    ANSWER_LATE = auto()  # the client is told that no worker was reached in time (503)
    RETRY = auto()  # all of it on another worker, if that one may be given it
    CHOOSE_AGAIN = auto()  # nothing was read of it: at once whoever is free, or whoever is first


@dataclass(frozen=True, slots=True)
class Break:
    """What an attempt was when it came to nothing. ``tunnel``: a WebSocket; ``stale``: on a kept connection that had
    been closed before the worker read the request; ``taken``: bytes of an upload are gone; ``idempotent``: nothing but
    time is lost if it is made twice; ``elsewhere``: another worker may be asked; ``final``: the worker put it down to
    the client."""

    tunnel: bool
    stale: bool
    taken: bool
    idempotent: bool
    elsewhere: bool
    final: bool


@dataclass(frozen=True, slots=True)
class Loss:
    """What a request was when its attempt had failed. ``began``: bytes of its answer have gone out; ``stream``: they
    were read along; ``finished``: to the last token; ``hindered``: something keeps it from going on elsewhere.
    ``read``: the worker may have read it, and is blamed; ``repeatable``: another may be asked for all of it; ``slow``:
    there was no connection in time; ``late``: it may not wait any longer; ``suspect``: it may have killed several
    workers."""

    began: bool
    stream: bool
    finished: bool
    hindered: bool
    read: bool
    repeatable: bool
    slow: bool
    late: bool
    suspect: bool


#: The first row that fits says what follows; what a row does not name makes no difference to it.
_Rows = Sequence[tuple[Mapping[str, bool], Action]]

ON_BREAK: _Rows = (
    ({"tunnel": True}, Action.END_TUNNEL),
    ({"stale": True, "taken": True}, Action.FAIL_AS_BROKEN),
    ({"stale": True, "idempotent": False}, Action.FAIL_AS_BROKEN),  # it may have died of it, which looks alike
    ({"stale": True, "elsewhere": True}, Action.FAIL),
    ({"stale": True}, Action.RECONNECT),
    ({"final": True}, Action.END_AS_TOLD),
    ({}, Action.FAIL),
)

AFTER_FAILURE: _Rows = (
    ({"began": True, "stream": False}, Action.END_WITH_ERROR),
    ({"began": True, "finished": True}, Action.COMPLETE),
    ({"began": True, "hindered": True}, Action.END_WITH_ERROR),
    ({"began": True}, Action.RESUME),
    ({"read": True, "repeatable": False}, Action.ANSWER_FAILED),
    ({"slow": True, "late": True}, Action.ANSWER_LATE),
    ({"read": True}, Action.RETRY),
    ({"suspect": True}, Action.RETRY),
    ({}, Action.CHOOSE_AGAIN),
)


def on_break(facts: Break) -> Action:
    """What an attempt's end means: the end of the request, another connection, or a failure."""
    return _first(ON_BREAK, facts)


def after_failure(facts: Loss) -> Action:
    """How a request goes on after a failure that was counted."""
    return _first(AFTER_FAILURE, facts)


def _first(rows: _Rows, facts: object) -> Action:
    return next(action for row, action in rows if all(getattr(facts, name) is said for name, said in row.items()))
