"""When a worker that ended by itself is started again. Pure.

The first restart is at once, as most crashes are single ones. After that the delay doubles from 1 s to 60 s, with
jitter so that workers that die together do not start together. Five failures in a row that came before the worker
was ready, or within 3 s of it, are a crash loop: such a worker is left alone and shown. A worker that had served
longer starts with a clean record. (Erlang/OTP's intensity and period ask the same question; counting in a row
needs no tuning to how long a start takes.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from config.backoff import doubled


class Verdict(StrEnum):
    RESTART = "restart"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds. ``delay(0)`` is 0, ``delay(n)`` is ``first * 2**(n-1)``, at most ``most``, shortened by up to
    ``jitter`` of itself."""

    first: float = 1.0
    most: float = 60.0
    jitter: float = 0.25

    def delay(self, restarts: int, random: Callable[[], float]) -> float:
        """``random`` returns a number in [0, 1)."""
        if restarts <= 0:
            return 0.0
        return doubled(self.first, self.most, restarts - 1) * (1.0 - self.jitter * random())


@dataclass(frozen=True, slots=True)
class History:
    """``early`` failures in a row; ``restarts`` since the record was last clean."""

    early: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """``reason`` is a sentence for people, without what ended (the caller knows that). ``attempt`` of ``limit``: which
    restart this is of those that there are before it is given up, if none of them serves for long."""

    verdict: Verdict
    delay: float
    reason: str
    history: History
    attempt: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    backoff: Backoff = Backoff()
    early_failures: int = 5
    served_s: float = 3.0

    def decide(self, history: History, served: float | None, random: Callable[[], float]) -> Decision:
        """What to do with a worker that has just ended by itself, ``served`` seconds after it was ready (None: it
        never was)."""
        if served is not None and served > self.served_s:
            return self._restart(0.0, History(early=0, restarts=1))
        now = replace(history, early=history.early + 1)
        if now.early >= self.early_failures:
            reason = f"crash loop: {now.early} failures in a row before it had served {self.served_s:g} s; gave up"
            return Decision(Verdict.GIVE_UP, 0.0, reason, now)
        delay = self.backoff.delay(history.restarts, random)
        return self._restart(delay, replace(now, restarts=now.restarts + 1))

    def _restart(self, delay: float, history: History) -> Decision:
        attempt = history.restarts
        limit = attempt + max(0, self.early_failures - 1 - history.early)
        when = f"in {delay:.1f} s" if delay else "at once"
        reason = f"restart {attempt} of {limit} {when}"
        return Decision(Verdict.RESTART, delay, reason, history, attempt, limit)
