"""Is it hung? One worker is judged by whether its engine makes steps while it has requests. Pure.

**Still.** It says that requests run, and none of its series has moved for the stall timeout. Prompts get more while
nothing but prefill may be running, see `allowance`.

**Silent.** It takes the question for its metrics and does not answer (it is stopped, or its API server is stuck), and
has requests, by what it said last or by what the balancers have in flight there. Prompts are no excuse: the API server
computes none.

**In doubt.** It says that nothing runs, but requests are in flight there or wait in its queue, and nothing moves: the
engine may have stopped before it took the first of them; as well a client may be slow to read what is done already, or
a request may wait for something that no step brings (a grammar, a remote cache). So it is asked for one token of our
own after half of the stall timeout, and is hung if that does not come in the other half. Queued requests alone never
make a worker hung: a full engine makes steps, and one that lets a token past its queue is well.

**Idle.** Now and then it is asked for one token; it is hung if that takes longer than the stall timeout, or ends twice
in a row in an error of the engine.

All times are seconds of a clock that runs only while somebody looks (`tick`): a supervisor that was stopped or starved
finds that no time has passed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from worker.progress import Reading

#: So much (s) of the time between two ticks is believed to have been watched, and so much of the stall timeout.
_MOST_TICK, _MOST_OF_STALL = 1.0, 1 / 4

#: A prompt's tokens are guessed from its bytes, rather too many: English has four bytes a token, Chinese two or three.
_BYTES_A_TOKEN = 2
#: So many tokens are computed within any stall timeout, and so many a second on the slowest engine worth the name
#: (a CPU). Where prompts are computed in pieces, as they are by default, each piece is seen as progress.
_TOKENS_COVERED, _TOKENS_A_SECOND = 2_000, 500
#: Of a model whose context is not known.
_CONTEXT = 131_072

#: An adapter is read from disk in between two steps; so long is that given.
_LOAD_S = 30.0


@dataclass(frozen=True, slots=True)
class Work:
    """What others know of the work on a worker. Of the balancers: the requests in flight, how many of them wait for
    the first byte of their answers, and the bytes of the largest body among these. Of its agent: whether an adapter
    is being loaded now, and how many loads it has answered."""

    in_flight: int = 0
    waiting: int = 0
    largest: int = 0
    loading: bool = False
    loads: int = 0


NO_WORK = Work()


@dataclass(frozen=True, slots=True)
class Rules:
    """``stall`` and ``canary`` in seconds (0: no canary when idle). ``context``: the longest prompt, in tokens.
    ``ours``: a worker that is not and that has never told its progress is not judged."""

    stall: float
    canary: float
    context: int | None = None
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Hang:
    """It is hung. ``cause``: still, silent or canary; ``seconds`` from the last that is known of its progress."""

    cause: str
    seconds: float
    reason: str


def allowance(work: Work, context: int | None) -> float:
    """Seconds without progress in tokens beyond the stall timeout. More by the longest prompt, at most by what fits
    the context, while every request there may be in prefill: a second for each 500 tokens beyond the first 2,000, a
    token being two bytes of the body. With a stream under way there are tokens in every step."""
    more = _LOAD_S if work.loading else 0.0
    if not work.waiting or work.waiting < work.in_flight:
        return more
    tokens = min(work.largest / _BYTES_A_TOKEN, context or _CONTEXT)
    return more + max(0.0, tokens - _TOKENS_COVERED) / _TOKENS_A_SECOND


@dataclass(slots=True)
class _Canary:
    """When the one that is not answered yet was ``sent``, and the last that was came ``back``; ``errors`` of the engine
    in a row, and the last of them."""

    sent: float | None = None
    back: float = 0.0
    errors: int = 0
    error: str = ""


class HangDetector:
    """One incarnation of one worker. `tick` comes before everything else that happens at a moment ``now`` (s)."""

    def __init__(self, rules: Rules, now: float) -> None:
        self.rules = rules
        self._ticked, self._clock = now, 0.0
        #: When progress was last seen: by the clock of ``now``, and by the watched one.
        self.seen_at: float | None = None
        self.moved = 0.0
        self._reading: Reading | None = None
        self._tells = False
        #: The last moment at which it had no requests, as far as anybody knew.
        self._idle = 0.0
        #: When the last look that was answered was begun; when the first one was that has not been answered since.
        self._looked = 0.0
        self._unanswered: float | None = None
        self._asked = -math.inf
        self._canary = _Canary()
        self._loads = 0

    # what happens

    def tick(self, now: float) -> None:
        most = min(_MOST_TICK, self.rules.stall * _MOST_OF_STALL)
        self._clock += min(max(0.0, now - self._ticked), most)
        self._ticked = now

    def looking(self) -> None:
        """It is being asked for its metrics."""
        self._asked = self._clock
        if self._unanswered is None:
            self._unanswered = self._clock

    def looked(self, reading: Reading | None) -> None:
        """Its answer; None: it has not got such metrics. A look that is never answered ends in nothing."""
        self._looked, self._unanswered = self._asked, None
        before, self._reading, self._tells = self._reading, reading, reading is not None
        if reading is not None and (before is None or reading.marks != before.marks):
            self._move(seen=before is not None)

    @property
    def reading(self) -> Reading | None:
        """What it last said; None before the first answer, and of one that does not tell."""
        return self._reading

    def refused(self) -> None:
        """It takes no connection: no hang, and for its probes to judge."""
        self._unanswered = None

    def canary_sent(self) -> None:
        self._canary.sent = self._clock

    def canary_back(self, error: str | None = None, engines: bool = False) -> None:
        """It has answered; ``engines``: with an ``error`` that is the engine's, and not of the way to it."""
        self._canary.sent, self._canary.back = None, self._clock
        if error is None:
            self._move()
        elif engines:
            self._canary.errors, self._canary.error = self._canary.errors + 1, error

    def _move(self, seen: bool = True) -> None:
        self.moved, self._canary.errors = self._clock, 0
        if seen:
            self.seen_at = self._ticked

    # what it comes to

    def verdict(self, work: Work) -> Hang | None:
        """Whether it is hung now."""
        if work.loads != self._loads:  # they go through the engine
            self._loads = work.loads
            self._move()
        if self._canary.errors > 1:
            return Hang("canary", 0.0, f"hung: asked for one token twice, it answered {self._canary.error}")
        if not self._has_requests(work):
            self._idle = self._clock
            return None
        since, now = self._since, self._clock if self._silent else self._looked
        still = self._clock - since
        if now < self._due(work):
            return None
        if self._silent:
            return Hang("silent", still, f"hung: no answer and no token for {still:.1f} s{_with(work.in_flight)}")
        running = self._reading.running if self._reading else 0
        if self._canary.sent is None or running > 1:
            return Hang("still", still, f"hung: no token for {still:.1f} s{_with(running, 'running')}")
        said = f"hung: no token for {still:.1f} s{_with(work.in_flight)}, not even for a request of our own"
        return Hang("canary", still, said)

    def due_in(self, work: Work) -> float:
        """Seconds until a look is to decide whether it is hung; infinite while none is."""
        due = self._due(work) if self._has_requests(work) else math.inf
        return max(0.0, due - self._clock) if self._asked < due else math.inf

    def wants_look(self, interval: float, work: Work) -> bool:
        """Whether it is to be asked for its metrics now: after ``interval`` seconds, and when that decides."""
        return self._clock >= self._asked + interval or self.due_in(work) <= 0

    def wants_canary(self, work: Work) -> bool:
        """Whether it is to be asked for one token now."""
        if self._canary.sent is not None or not (self._tells or self.rules.ours):
            return False
        if self._has_requests(work):
            in_doubt = self._unanswered is None and self._doubtful(work)
            return in_doubt and self._looked - self._since >= self.rules.stall / 2 + self._allowance(work)
        if not self._tells and work.in_flight:
            return False
        quiet = self._clock - max(self.moved, self._canary.back)
        return self._canary.errors == 1 or 0 < self.rules.canary <= quiet

    def without_progress(self, work: Work) -> str:
        """In words, if it has made no progress for a while with requests; else empty."""
        still = self._clock - self._since
        if still < max(1.5, self.rules.stall / 4) or not self._has_requests(work):
            return ""
        return f"no answer for {still:.0f} s" if self._silent else f"no token for {still:.0f} s"

    @property
    def _since(self) -> float:
        """Up to when it may have made progress, or had nothing to make any with."""
        since = max(self.moved, self._idle)
        return max(since, self._unanswered) if self._silent and self._unanswered is not None else since

    @property
    def _silent(self) -> bool:
        return self._unanswered is not None and self._clock - self._unanswered >= self.rules.stall / 2

    def _due(self, work: Work) -> float:
        """When it is hung, if nothing moves until then."""
        stall = self.rules.stall
        if self._silent:
            return self._since + stall
        due = self._since + stall + self._allowance(work)
        if self._doubtful(work):
            return math.inf if self._canary.sent is None else max(due, self._canary.sent + stall / 2)
        return due

    def _allowance(self, work: Work) -> float:
        return allowance(work, self.rules.context)

    def _doubtful(self, work: Work) -> bool:
        """Requests are there, but it does not say that they run."""
        return self._tells and self._reading is not None and not self._reading.running

    def _has_requests(self, work: Work) -> bool:
        if not self._tells and (self._unanswered is None or not self.rules.ours):
            # Nothing is known but what we sent ourselves; with others' requests there it may have to wait.
            return self._canary.sent is not None and not work.in_flight
        said = self._reading is not None and (self._reading.running > 0 or self._reading.waiting > 0)
        return said or work.in_flight > 0 or self._canary.sent is not None


def _with(requests: int, what: str = "in flight") -> str:
    return f" with {requests} request{'' if requests == 1 else 's'} {what}" if requests else ""
