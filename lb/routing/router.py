"""What all requests share: who is there to take one, and what is counted of it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from random import Random

from config.aio import Tasks
from config.errors import nearest
from config.logs import fields
from lb.forwarding.failure_policy import Ejects, Failure
from lb.forwarding.resume.build import Builds
from lb.forwarding.retry_budget import MOST_DEATHS, Record, RetryBudget
from lb.protocol import routes
from lb.protocol.errors import AttemptFailed, ProxyError, Source
from lb.protocol.messages import Request
from lb.records.decision_log import Journal
from lb.records.loss_report import Outcomes
from lb.routing.backend import Backend
from lb.routing.notifier import Changes
from lb.routing.pool import Pool
from lb.routing.response_owners import Affinity
from lb.routing.strategies.base import RequestInfo, Strategy
from lb.routing.strategies.registry import STRATEGIES
from lb.telemetry.metrics import Book, Metrics
from lb.telemetry.model_metrics import Meter
from lb.telemetry.shared_counters import ADAPTER, Counters
from lb.upstream.connections import Upstream
from lb.upstream.headers import FORWARDED, Trusted

log = logging.getLogger(__name__)

#: Seconds between two looks for a free backend where nothing changes: an ejection ends without any word.
_LOOK_AGAIN = 0.25

#: Routes of a backend whose counts are kept at hand; ids of responses are in some paths.
_MOST_BOOKS = 64

#: How long (s) a worker may take to say whether it has made a response.
_FIND_S = 2.0

#: Seconds for a worker to say how it takes a request: it reads all of the prompt for that.
_RENDER_S = 10.0

#: How long (s) the word that a worker has died may take after its connection broke.
_WORD_S = 0.5

#: Seconds between two looks whether the retry budget has room.
_BUDGET_EVERY = 0.02

#: How long (s) a request that may kill workers waits for one that has no other such request.
_APART_S = 2.0

_RESPONSE = re.compile(r"resp_[A-Za-z0-9_-]{1,128}")

#: (id, incarnation) of the one backend that can answer.
Pinned = tuple[str, int]


class Proxy:
    """``clock`` is monotonic seconds; ``want`` is told of an adapter that nobody holds and somebody asks for;
    ``strategy`` says which one is in force, given the version of the latest set and the one that it names. ``outcomes``
    is told what becomes of requests whose worker is lost, ``journal`` how each was routed. ``forwarded_headers``:
    the names, lower case, of the client's fields that backends get."""

    def __init__(
        self, pool: Pool, upstream: Upstream, counters: Counters, metrics: Metrics, changes: Changes, *,
        queue_timeout: float, trusted: Trusted | None = None, want: Callable[[str], None] = lambda adapter: None,
        random: Random | None = None, clock: Callable[[], float] = time.monotonic,
        strategy: Callable[[tuple[int, int], str], str] = lambda version, named: named, resume: bool = True,
        migration_limit: int = 3, stall_timeout: float = 10.0, first_byte_timeout: float = 0.0,
        outcomes: Outcomes | None = None, journal: Journal | None = None,
        forwarded_headers: frozenset[bytes] = FORWARDED,
    ) -> None:
        self.pool, self.upstream, self.metrics, self.clock = pool, upstream, metrics, clock
        self.queue_timeout, self.trusted = queue_timeout, trusted or Trusted()
        self.affinity, self.tasks, self.budget = Affinity(), Tasks(), RetryBudget()
        self.resume, self.migration_limit, self.stall_timeout = resume, migration_limit, stall_timeout
        self.first_byte_timeout = first_byte_timeout
        self.outcomes, self.journal = outcomes or Outcomes(), journal or Journal()
        self.forwarded_headers = forwarded_headers
        self._counters, self._changes, self._want = counters, changes, want
        self._random = random or Random()
        self._in_force = strategy
        self._strategy: tuple[str, Strategy] | None = None
        self.builds = Builds()

    async def close(self) -> None:
        await self.tasks.close()
        self.upstream.close()

    # who takes it

    def choose(self, info: RequestInfo, excluded: frozenset[str], pinned: Pinned | None) -> Backend | None:
        """A backend that may take the request now. Raises ProxyError where waiting for one is of no use."""
        pool = self.pool
        if pool.shutting_down:
            raise ProxyError(503, "the cluster is shutting down", source=Source.INTERNAL, retry_after=30)
        now = self.clock()
        if pinned is not None:
            info.choice = None
            backend = pool.backends.get(pinned[0])
            usable = backend is not None and backend.keeps_running() and not backend.ejection.active(now)
            return backend if usable else None
        candidates = pool.candidates(info.model, excluded, now, info.root)
        if len(candidates) == 1:
            info.choice = candidates, None, None
            return candidates[0]
        if not candidates and excluded:
            candidates = pool.candidates(info.model, (), now, info.root)
        if not candidates:
            return None
        strategy = self._current_strategy()
        backend = strategy.choose(candidates, info)
        info.choice = candidates, strategy, strategy.scores
        return backend

    async def wait(
        self, info: RequestInfo, excluded: frozenset[str], pinned: Pinned | None, came: float
    ) -> Backend:
        """A backend for the request that came then, as soon as there is one. Raises ProxyError (503) if there is none
        in time."""
        deadline = came + self.queue_timeout
        with self.metrics.queued(info.model):
            while True:
                self._give_up_if_useless(info, deadline)
                if info.model in self.pool.registered:
                    self._want(str(info.model))
                changed = self._changes.next()
                try:
                    async with asyncio.timeout(min(_LOOK_AGAIN, max(0.001, deadline - self.clock()))):
                        await changed
                except TimeoutError:
                    pass
                if (backend := self.choose(info, excluded, pinned)) is not None:
                    return backend

    def still_there(self, response: str, owner: Pinned) -> Pinned:
        """``owner``, if that incarnation runs. Raises ProxyError (404)."""
        backend = self.pool.backends.get(owner[0])
        if backend is None or backend.spec.incarnation != owner[1]:
            raise _no_response(response)
        return owner

    async def find(self, response: str) -> Pinned:
        """Asks all workers which of them knows a response that no request of this balancer has made: another one
        may have, or this one before it was started again. Raises ProxyError (404)."""
        backends = [b for b in self.pool.backends.values() if b.keeps_running()]
        if not _RESPONSE.fullmatch(response) or not backends:
            raise _no_response(response)
        asking = (self.get(b, f"{routes.RESPONSES}/{response}", _FIND_S) for b in backends)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        for backend, answer in zip(backends, answers, strict=True):
            if isinstance(answer, tuple) and answer[0] == 200 and f'"{response}"'.encode() in answer[1]:
                self.affinity.remember(response, backend.id, backend.spec.incarnation)
                return backend.id, backend.spec.incarnation
            if isinstance(answer, BaseException) and not isinstance(answer, AttemptFailed):
                raise answer
        raise _no_response(response)

    async def get(self, backend: Backend, path: str, timeout: float) -> tuple[int, bytes]:
        """A question of our own to a worker. Raises AttemptFailed."""
        head = f"GET {self._own_head(backend, path)}\r\n"
        return await self.upstream.fetch(self.upstream.endpoint(backend.spec), head.encode(), timeout)

    async def read_tokens(self, backend: Backend, model: str | None, tokens: Sequence[int]) -> str:
        """The text of ``tokens``, from a worker, as we have no tokenizer. Raises AttemptFailed."""
        body = json.dumps({"model": model, "tokens": list(tokens)}).encode()
        status, answer = await self._post(backend, "/detokenize", body, _FIND_S)
        try:
            return str(json.loads(answer)["prompt"])
        except (ValueError, KeyError, TypeError):
            raise AttemptFailed(f"{backend.id} answered {status} to /detokenize", Failure.BROKEN) from None

    async def render(self, backend: Backend, path: str, body: bytes) -> bytes | None:
        """What a worker says of the generation that ``body`` asks for at ``path``, see `lb.forwarding.resume.rendered`;
        None where it does not say. Raises AttemptFailed."""
        timeout = min(_RENDER_S, self.stall_timeout)  # for longer no stream stands still where another place is free
        status, answer = await self._post(backend, f"{path}/render", body, timeout)
        return answer if status == 200 else None

    async def _post(self, backend: Backend, path: str, body: bytes, timeout: float) -> tuple[int, bytes]:
        fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head = f"POST {self._own_head(backend, path)}{fields}\r\n"
        return await self.upstream.fetch(self.upstream.endpoint(backend.spec), head.encode() + body, timeout, "POST")

    def _own_head(self, backend: Backend, path: str) -> str:
        """Of a request of our own, from the path to the last of its lines, with its end."""
        spec, host = backend.spec, self.upstream.endpoint(backend.spec).host_field.decode()
        key = f"Authorization: Bearer {spec.api_key}\r\n" if spec.api_key else ""
        return f"{spec.path}{path} HTTP/1.1\r\nHost: {host}\r\n{key}"

    async def has_killed(self, record: Record) -> bool:
        """Whether so many workers have died of a request that no other may be given it. Waits a moment for the
        supervisor's word: a connection breaks before anybody knows why."""
        deadline = self.clock() + _WORD_S
        while len(record) >= MOST_DEATHS:
            if sum(self._has_died(*worker) for worker in record) >= MOST_DEATHS:
                return True
            if (left := deadline - self.clock()) <= 0:
                break
            changed = self._changes.next()
            try:
                async with asyncio.timeout(left):
                    await changed
            except TimeoutError:
                break
        return False

    async def keep_apart(
        self, info: RequestInfo, excluded: frozenset[str], record: Record | None
    ) -> frozenset[str]:
        """The workers that a request should not be given to, as it may be what killed one and they have another of
        which that is true: when such a worker dies, it is known which of them it was. Waits a moment for one that has
        none; together is better than never."""
        deadline = self.clock() + _APART_S
        while record:
            avoided = frozenset(b.id for b in self.pool.backends.values() if b.suspects)
            if self.pool.candidates(info.model, excluded | avoided, self.clock(), info.root):
                return avoided
            if not avoided or self.clock() >= deadline:
                break
            await asyncio.sleep(_BUDGET_EVERY)
        return frozenset()

    def _has_died(self, name: str, incarnation: int) -> bool:
        backend = self.pool.backends.get(name)
        if backend is None or backend.spec.incarnation != incarnation or backend.spec.state in ("backoff", "failed"):
            return True
        return backend.ejection.dying(self.clock())

    async def repeat(self, came: float) -> bool:
        """Waits until the retry budget has room, as long as the request that came then may wait; False: it has
        none. `RetryBudget.give_back` follows."""
        while not self.budget.take(self.clock()):
            if self.clock() >= came + self.queue_timeout:
                self.metrics.over_budget()
                return False
            await asyncio.sleep(_BUDGET_EVERY)
        return True

    def unknown(self, model: str | None) -> ProxyError:
        """The answer for a model that nobody serves."""
        known = nearest(model or "", self.pool.names())
        return ProxyError(404, f"The model `{model}` does not exist.{known}", param="model", code=404)

    def _give_up_if_useless(self, info: RequestInfo, deadline: float) -> None:
        if not self.pool.knows(info.model):
            raise self.unknown(info.model)  # unloaded while this request waited for it
        what = f" for model {info.model}" if info.model else ""
        if self.pool.hopeless(info.model):
            message = f"no worker{what}: all of them have failed; see /v1/cluster/status"
            raise ProxyError(503, message, source=Source.INTERNAL, retry_after=30)
        if self.clock() >= deadline:
            message = f"no worker{what} became ready within {self.queue_timeout:g} s"
            raise ProxyError(503, message, source=Source.INTERNAL, retry_after=5)

    @property
    def strategy(self) -> str:
        """The name of the one in force."""
        return self._in_force(self.pool.version, self.pool.strategy)

    def _current_strategy(self) -> Strategy:
        name = self._in_force(self.pool.version, self.pool.strategy)
        if self._strategy is None or self._strategy[0] != name:
            self._strategy = (name, STRATEGIES[name](self._random))
        return self._strategy[1]

    # what is counted

    def first_byte(self, backend: Backend, info: RequestInfo, data: bytes, began: float) -> None:
        """The first bytes of an answer, ``data``, have come of a request sent at ``began``."""
        now = self.clock()
        backend.latency.observe(now - began, now)
        self._book(backend, info.path).first_byte(now - began)
        if info.path == routes.RESPONSES:
            self.affinity.learn(data, backend.id, backend.spec.incarnation)

    def answered(
        self, backend: Backend, info: RequestInfo, body: bytes, began: float, meter: Meter, request: Request
    ) -> None:
        """`first_byte`, `completed` and the end of ``meter`` at once, of an answer of 200 that came in one piece."""
        now = self.clock()
        seconds = now - began
        backend.latency.observe(seconds, now)
        self._counters.hit(backend.id)
        (backend.books.get(info.path) or self._book(backend, info.path)).whole(200, seconds)
        if info.path == routes.RESPONSES:
            self.affinity.learn(body, backend.id, backend.spec.incarnation)
        meter.whole(body, now)
        self.journal.whole((info, backend, began, meter.began, now, now, 200, meter.made, ""))
        if self.journal.observers:
            self.journal.tell(request, body)
        if self.pool.registered:
            self.count_adapter(info.model, False)

    def completed(self, backend: Backend, info: RequestInfo, status: int, began: float) -> None:
        self._counters.add(backend.id, requests=1, errors=1 if status >= 500 else 0)
        self._book(backend, info.path).finished(status, self.clock() - began)

    def _book(self, backend: Backend, path: str) -> Book:
        book: Book | None = backend.books.get(path)
        if book is None:
            book = self.metrics.book(backend.id, path)
            if len(backend.books) < _MOST_BOOKS:
                backend.books[path] = book
        return book

    def left(self, backend: Backend, info: RequestInfo, began: float) -> None:
        """The client went away meanwhile."""
        self._counters.add(backend.id, requests=1)
        self.metrics.finished(backend.id, info.path, 499, self.clock() - began)

    def attempt_failed(self, backend: Backend, failure: AttemptFailed) -> None:
        follows, now = failure.follows, self.clock()
        if follows.sent:
            self.outcomes.broke(backend.id, backend.spec.incarnation, now)
            self._counters.add(backend.id, requests=1, errors=1)
        else:
            self._counters.add(backend.id, errors=1)
        if self._eject(backend, follows.ejects, now):
            self.metrics.ejected(backend.id)
        self.metrics.attempt_failed(backend.id, follows.cause)

    def _eject(self, backend: Backend, ejects: Ejects, now: float) -> bool:
        """Whether it is left out from now on, and was not before."""
        if ejects is Ejects.UNTIL_RESTARTED and (news := backend.ejection.dies(now)):
            data = fields("engine.died", instance=backend.id)
            log.warning("%s says that its engine has died: it gets nothing until it is back", backend.id, extra=data)
            return news
        slow = ejects is Ejects.IF_ROOM
        if ejects is Ejects.FOR_A_WHILE or (slow and self.pool.may_eject_slow(now)):
            return backend.ejection.failed(now, slow)
        return False

    def touch(self, model: str | None) -> None:
        """It is in use from now on: a long stream is no reason to make room by taking its adapter away."""
        if model in self.pool.registered:
            self._counters.add(f"{ADAPTER}{model}", used_ms=int(time.time() * 1000))

    def count_adapter(self, model: str | None, failed: bool) -> None:
        if model in self.pool.registered:
            self._counters.add(f"{ADAPTER}{model}", requests=1, errors=int(failed), used_ms=int(time.time() * 1000))


def _no_response(response: str) -> ProxyError:
    return ProxyError(404, f"Response with id '{response}' not found.", param="response_id")
