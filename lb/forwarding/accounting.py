"""What is counted of each request and attempt, and what a backend's failures mean for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from config.logs import fields
from lb.protocol.errors import AttemptFailed
from lb.protocol.failures import Ejects
from lb.protocol.messages import Request
from lb.protocol.routes import RESPONSES
from lb.protocol.tenant import Tenant
from lb.protocol.usage import TokenUsage
from lb.records.decision_log import DecisionLog
from lb.records.loss_report import LossReport
from lb.records.usage import UsageLedger
from lb.routing.backend import Backend
from lb.routing.pool import Pool
from lb.routing.response_owners import ResponseOwners
from lb.routing.strategies.base import AttemptOutcome, Features, RequestInfo
from lb.telemetry.metrics import Metrics, RouteStats
from lb.telemetry.model_metrics import RequestRecorder
from lb.telemetry.shared_counters import ADAPTER, Counters

log = logging.getLogger(__name__)

#: Routes of a backend whose counts are kept at hand; ids of responses are in some paths.
_MOST_ROUTES = 64


class Learner(Protocol):
    """Its methods are called where ``observes`` is true; `lb.routing.strategies.base.Strategy` has them."""

    observes: bool

    def began(self, backend: tuple[str, int], features: Features, seconds: float) -> None: ...

    def observe(self, outcome: AttemptOutcome) -> None: ...


class Accounting:
    """``began`` is when an attempt was sent; ``clock`` gives the same seconds, monotonic. ``learner`` hears how each
    attempt ended."""

    def __init__(
        self, pool: Pool, counters: Counters, metrics: Metrics, owners: ResponseOwners, losses: LossReport,
        decision_log: DecisionLog, learner: Learner, ledger: UsageLedger, clock: Callable[[], float],
    ) -> None:
        self._pool, self._counters, self._metrics, self._owners = pool, counters, metrics, owners
        self._losses, self._decision_log, self._learner, self._clock = losses, decision_log, learner, clock
        self._ledger = ledger

    def first_byte(self, backend: Backend, info: RequestInfo, data: bytes, began: float) -> None:
        """``data``: the first bytes of an answer."""
        now = self._clock()
        backend.latency.observe(now - began, now)
        if self._learner.observes:
            info.first_byte = now - began
            self._learner.began(backend.key, info.features, now - began)
        self._stats(backend, info.path).first_byte(now - began)
        if info.path == RESPONSES:
            self._owners.learn(data, backend.id, backend.spec.incarnation)

    def answered(
        self, backend: Backend, info: RequestInfo, body: bytes, began: float, recorder: RequestRecorder,
        request: Request,
    ) -> None:
        """`first_byte`, `completed` and the end of ``recorder`` at once, of an answer of 200 that came in one piece."""
        now = self._clock()
        seconds = now - began
        backend.latency.observe(seconds, now)
        if self._learner.observes:
            self._learner.observe(AttemptOutcome(backend.key, info.features, 200, seconds, seconds))
        self._counters.hit(backend.id)
        (backend.route_stats.get(info.path) or self._stats(backend, info.path)).whole(200, seconds)
        if info.path == RESPONSES:
            self._owners.learn(body, backend.id, backend.spec.incarnation)
        recorder.whole(body, now)
        self._decision_log.whole((info, backend, began, recorder.began, now, now, 200, recorder.made, ""))
        if self._decision_log.observers:
            self._decision_log.notify(request, body)
        if self._pool.registered:
            self.count_adapter(info.model, False)

    def completed(
        self, backend: Backend, info: RequestInfo, status: int, began: float, recorder: RequestRecorder | None = None
    ) -> None:
        """``recorder``: of the whole answer, where one came."""
        self._counters.add(backend.id, requests=1, errors=1 if status >= 500 else 0)
        self._stats(backend, info.path).finished(status, self._clock() - began)
        self._ended(backend, info, status, began, recorder=recorder)

    def left(self, backend: Backend, info: RequestInfo, began: float) -> None:
        """The client went away meanwhile."""
        self._counters.add(backend.id, requests=1)
        self._metrics.finished(backend.id, info.path, 499, self._clock() - began)
        self._ended(backend, info, 499, began)

    def attempt_failed(self, backend: Backend, info: RequestInfo, failure: AttemptFailed, began: float) -> None:
        """Counts it and, where that follows, ejects ``backend``."""
        follows, now = failure.follows, self._clock()
        if follows.sent:
            self._losses.broke(backend.id, backend.spec.incarnation, now)
            self._counters.add(backend.id, requests=1, errors=1)
        else:
            self._counters.add(backend.id, errors=1)
        if self._eject(backend, follows.ejects, now):
            self._metrics.ejected.add(backend.id)
        self._metrics.attempt_failed.add(backend.id, follows.cause)
        self._ended(backend, info, 0, began, follows.cause)

    def unblamed(self, backend: Backend, info: RequestInfo, failure: AttemptFailed, began: float) -> None:
        """The attempt is over without a fault of ``backend``."""
        self._ended(backend, info, 0, began, failure.follows.cause)

    def uses(self, tenant: Tenant, model: str | None, usage: TokenUsage, told: TokenUsage | None) -> None:
        """What a request of its that runs has used so far; ``told``: when this was last called of it."""
        self._ledger.add(tenant.name, model or "none", usage, told)

    def used(self, tenant: str, model: str | None, usage: TokenUsage, told: TokenUsage | None) -> None:
        """A request of its is over that some worker was asked; ``told``: see `uses`."""
        self._ledger.add(tenant, model or "none", usage, told)
        self._metrics.used(tenant, usage)

    def touch(self, model: str | None) -> None:
        """It is in use from now on: a long stream is no reason to make room by taking its adapter away."""
        if model in self._pool.registered:
            self._counters.add(f"{ADAPTER}{model}", used_ms=int(time.time() * 1000))

    def count_adapter(self, model: str | None, failed: bool) -> None:
        if model in self._pool.registered:
            self._counters.add(f"{ADAPTER}{model}", requests=1, errors=int(failed), used_ms=int(time.time() * 1000))

    def _ended(
        self, backend: Backend, info: RequestInfo, status: int, began: float, cause: str = "",
        recorder: RequestRecorder | None = None,
    ) -> None:
        if self._learner.observes:
            tokens = 0 if recorder is None or info.steps else recorder.chunks  # else some are another backend's
            first, info.first_byte = info.first_byte, None
            seconds = self._clock() - began
            self._learner.observe(AttemptOutcome(backend.key, info.features, status, seconds, first, cause, tokens))

    def _stats(self, backend: Backend, path: str) -> RouteStats:
        stats: RouteStats | None = backend.route_stats.get(path)
        if stats is None:
            stats = self._metrics.route_stats(backend.id, path)
            if len(backend.route_stats) < _MOST_ROUTES:
                backend.route_stats[path] = stats
        return stats

    def _eject(self, backend: Backend, ejects: Ejects, now: float) -> bool:
        """Whether it is left out from now on, and was not before."""
        if ejects is Ejects.UNTIL_RESTARTED and (news := backend.ejection.dies(now)):
            data = fields("engine.died", instance=backend.id)
            log.warning("%s reports that its engine has died: no requests until it is back", backend.id, extra=data)
            return news
        slow = ejects is Ejects.IF_ROOM
        if ejects is Ejects.FOR_A_WHILE or (slow and self._pool.may_eject_slow(now)):
            return backend.ejection.failed(now, slow)
        return False
