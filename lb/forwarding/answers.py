"""What is wrong with a worker's answer to a generation, by what can be seen of it. Pure."""

from __future__ import annotations

from lb.protocol import worker_errors
from lb.protocol.body import is_aborted
from lb.protocol.errors import AttemptFailed
from lb.protocol.failures import Failure
from lb.protocol.http1.response import ResponseHead

#: Without it there is nothing to be parsed.
_ABORT = b'"abort"'


def wrong_with(head: ResponseHead, body: bytes) -> AttemptFailed | None:
    """Of one that was read whole, or of a stream that begins with ``body``; None: nothing, or it is for the client to
    know."""
    if head.status == 500:
        died = worker_errors.says_engine_died(body)
        return AttemptFailed("its engine has died", Failure.ENGINE_DIED) if died else None
    if head.is_events:
        kind = worker_errors.opening_failure(body)
        return None if kind is None else AttemptFailed("its stream began with an error", kind)
    if head.status != 200:
        return None
    if _ABORT in body and is_aborted(body):
        return AttemptFailed("it gave the request up", Failure.BROKEN)
    if worker_errors.is_no_answer(head.media, body):
        return AttemptFailed("what it sent is no answer", Failure.BROKEN)
    return None
