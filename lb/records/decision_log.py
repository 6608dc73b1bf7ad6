"""How the latest requests were routed and what became of them, and those who are told of each.

While a request is served nothing is written that it would not have made anyway: its `RequestInfo` keeps what was chosen
from by reference, and when it is over one tuple goes into a ring. Words are made of it when somebody asks
(`lb.admin.explain`). Nothing in the ring holds a body.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

from lb.protocol.errors import ProxyError
from lb.protocol.messages import Request
from lb.protocol.routes import shown
from lb.routing.backend import Backend
from lb.routing.strategies.base import Decision, RequestInfo
from lb.telemetry.model_metrics import PROMPT_TOKENS, RequestRecorder

#: Requests that are remembered.
KEPT = 1000

_USAGE_BYTES = 400


class Entry(NamedTuple):
    """One request. Times are s, monotonic, 0 for what has not come: ``began`` is that of the last attempt, on
    ``backend``, if that one did not come to nothing (those that did are in ``info.steps``), ``came`` and ``ended`` of
    the request, ``first`` that of its answer's first byte. ``status`` is 0 while it is under way; ``reason`` says in
    words what was wrong with it."""

    info: RequestInfo
    backend: Backend | None
    began: float
    came: float
    first: float = 0.0
    ended: float = 0.0
    status: int = 0
    made: int = 0
    reason: str = ""


#: The same, as it is made for each request.
Row = tuple[RequestInfo, Backend | None, float, float, float, float, int, int, str]


class Step(NamedTuple):
    """An attempt that came to nothing. Times are s, monotonic."""

    backend: Backend
    began: float
    decision: Decision | None
    ended: float
    reason: str
    cause: str
    moved: bool  # its answer had begun
    way: str = ""  # how another went on with it, if one did


class Observer(Protocol):
    def over(self, row: Row, request: Request | None, answer: bytes, prompt: int | None) -> None:
        """A request is over (None: it was not understood). ``prompt``: tokens of its prompt, if that is known; else
        ``answer``, or the end of it, may tell. Must not block, and keep nothing of either."""


class Tracer(Observer, Protocol):
    def sent(self, row: Row, request: Request, head: bytes) -> bytes:
        """An attempt begins; ``head``, for the worker, is told of the trace that it belongs to."""


class DecisionLog:
    """``observers`` are told of every request, ``alarmed`` of those only that went wrong."""

    def __init__(
        self, observers: tuple[Observer, ...] = (), alarmed: tuple[Observer, ...] = (), tracer: Tracer | None = None
    ) -> None:
        self.tracer = tracer
        if tracer is not None:
            observers = (*observers, tracer)
        self.ring: deque[Row] = deque(maxlen=KEPT)
        #: Remembers a request whose answer came whole.
        self.whole = self.ring.append
        self.observers, self.alarmed = observers, alarmed

    def notify(self, request: Request, body: bytes) -> None:
        """Of the one that was remembered last, answered with ``body``."""
        row = self.ring[-1]
        for observer in self.observers:
            observer.over(row, request, body, None)

    def over(self, row: Row, request: Request, recorder: RequestRecorder | None, prompt: int | None) -> None:
        """A request is over, however. ``prompt``: tokens of its prompt, where somebody knows."""
        self.ring.append(row)
        if self.observers or (self.alarmed and failed(row[6])):
            recent = recorder.recent()[-4:] if recorder is not None and prompt is None else ()
            self._notify(row, request, b"".join(recent), prompt)

    def refused(self, error: ProxyError, request: Request | None, id: str, routed: bool, now: float) -> None:
        """One that was refused before anybody was chosen for it; ``routed``: it was for a worker. None: it was not
        even understood."""
        info = RequestInfo(None, "" if request is None else shown(request.head.path), id)
        row = (info, None, 0.0, now, 0.0, now, error.status, 0, str(error))
        if routed:
            self.ring.append(row)
        if self.observers or self.alarmed:
            self._notify(row, request, b"", None)

    def _notify(self, row: Row, request: Request | None, answer: bytes, prompt: int | None) -> None:
        for observer in (*self.observers, *self.alarmed) if failed(row[6]) else self.observers:
            observer.over(row, request, answer, prompt)


def usage(answer: bytes) -> bytes:
    """What an answer, or the end of one, says of tokens."""
    return answer[max(0, answer.rfind(b'"usage"')) :][:_USAGE_BYTES]


def prompt_tokens(usage: bytes) -> int | None:
    """Of the prompt, where it says so."""
    found = PROMPT_TOKENS.search(usage)
    return int(found[1]) if found else None


def failed(status: int) -> bool:
    """Whether somebody would want to know. A client that went away (499) is nobody's failure."""
    return status >= 400 and status != 499
