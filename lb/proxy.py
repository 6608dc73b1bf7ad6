"""The way of a request: what it asks for, who can take it, wait for one, attempt, again if that is safe."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Callable
from random import Random

from aiohttp import web

from config.errors import nearest
from lb import body as request_body
from lb import headers, routes, websocket
from lb.affinity import Affinity
from lb.backend import Backend
from lb.body import Facts, says_model_is_missing
from lb.counters import ADAPTER, Counters
from lb.errors import AttemptFailed, ProxyError, Source
from lb.forward import Attempt, ClientGone, Outgoing
from lb.metrics import Metrics
from lb.model_metrics import Meter
from lb.pool import Pool
from lb.strategies.base import RequestInfo, Strategy
from lb.strategies.registry import STRATEGIES
from lb.upstream import Upstream
from lb.waiting import Changes

#: A generation that a worker took and did not answer with a single byte is made again this often.
_SILENT_RETRIES = 1

#: Statuses of a worker's answer that are worth asking another worker.
_ELSEWHERE = frozenset({500, 503})

#: Seconds for which a worker is not asked again for an adapter that it answered 404 for.
_LACKING_S = 0.3

#: Seconds between two looks for a free backend where nothing changes: an ejection ends without any word.
_LOOK_AGAIN = 0.25


class Proxy:
    """``clock`` is monotonic seconds."""

    def __init__(
        self, pool: Pool, upstream: Upstream, counters: Counters, metrics: Metrics, changes: Changes, *,
        queue_timeout: float, want: Callable[[str], None] = lambda adapter: None,
        random: Random | None = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool, self._upstream, self._counters = pool, upstream, counters
        self._metrics, self._changes, self._clock = metrics, changes, clock
        self._queue_timeout = queue_timeout
        self._want = want
        self._random = random or Random()
        self._strategy: tuple[str, Strategy] | None = None
        self._affinity = Affinity()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Raises ProxyError for what has no answer from a worker."""
        target = request.path_qs if request.raw_path.startswith("http") else request.raw_path
        path = target.partition("?")[0]
        check_route(path, request.method)
        body = await request.read() if request.body_exists else None
        facts = request_body.facts(body or b"", request.headers.get("Content-Type", ""))
        model = self._pool.canonical(facts.model)
        if model is not None and model != facts.model and body is not None:
            facts, body = dataclasses.replace(facts, model=model), request_body.with_model(body, model)
        request_id = request.headers.get("X-Request-Id") or uuid.uuid4().hex
        pinned = self._pinned(path, facts)
        if not self._pool.knows(facts.model):
            raise self._unknown(facts.model)
        info, deadline = RequestInfo(facts.model, path), self._clock() + self._queue_timeout
        meter, failed = self._metrics.models.begin(facts.model), True
        try:
            response = await self._until_answered(request, info, target, body, request_id, deadline, pinned, meter)
            failed = response.status >= 500
            return response
        except (ClientGone, asyncio.CancelledError) as error:
            failed = isinstance(error, AlreadyAnswered)  # else the client went away, which is nobody's failure
            raise
        finally:
            meter.end(failed)
            self._count_adapter(facts.model, failed)

    async def _until_answered(
        self, request: web.Request, info: RequestInfo, target: str, body: bytes | None, request_id: str,
        deadline: float, pinned: tuple[str, int] | None, meter: Meter,
    ) -> web.StreamResponse:
        path, model = info.path, info.model
        self._touch(model)
        excluded: set[str] = set()
        silent = 0
        while True:
            backend = await self._choose(info, excluded, deadline, pinned)
            outgoing = Outgoing(request.method, target, self._head(request, backend, request_id), body, request_id)
            began = self._clock()
            try:
                again = routes.is_generation(path) and silent < _SILENT_RETRIES and pinned is None
                fixed = pinned is not None
                response = await self._attempt(request, backend, outgoing, info, again, deadline, meter, fixed)
            except (ClientGone, asyncio.CancelledError):
                self._counters.add(backend.id, requests=1)
                self._metrics.finished(backend.id, path, 499, self._clock() - began)
                raise
            except AttemptFailed as failure:
                if failure.absent and model is not None:
                    backend.lacking[model] = self._clock() + _LACKING_S  # another has it, or it will be back here
                    continue
                self._count_failure(backend, failure)
                if failure.answered:
                    self._metrics.finished(backend.id, path, 502, self._clock() - began)
                    raise AlreadyAnswered from None
                if not failure.connected:
                    continue  # that backend is out for a while: the next choice is another, or waits
                if again:
                    silent += 1
                    excluded.add(backend.id)
                    continue
                raise ProxyError(502, f"{backend.id}: {failure}", source=Source.UPSTREAM) from None
            backend.ejection.succeeded()
            failed = response.status >= 500
            self._counters.add(backend.id, requests=1, errors=int(failed))
            self._metrics.finished(backend.id, path, response.status, self._clock() - began)
            return response

    async def _attempt(
        self, request: web.Request, backend: Backend, outgoing: Outgoing, info: RequestInfo, again: bool,
        deadline: float, meter: Meter, pinned: bool,
    ) -> web.StreamResponse:
        path = info.path

        def refuse(status: int) -> bool:
            """A worker whose engine has died answers 500, one that is full 503: another may do better, if there
            is one. Its answer is the client's."""
            others = again and status in _ELSEWHERE
            return others and bool(self._pool.candidates(info.model, {backend.id}, self._clock()))

        if path in routes.WEBSOCKET and request.headers.get("Upgrade", "").lower() == "websocket":
            return await websocket.carry(request, backend, self._upstream, outgoing)
        def absent(body: bytes) -> bool:
            """A worker's own 404 for a model that the registry holds is never the client's answer, in time."""
            held = info.model in self._pool.registered  # still: it may have been unloaded on purpose
            return held and self._clock() < deadline and says_model_is_missing(body, str(info.model))

        ours = info.model in self._pool.registered and not pinned
        attempt = Attempt(
            self._upstream, backend, request, self._first_byte(backend, path), refuse, meter, absent if ours else None
        )
        return await attempt.run(outgoing)

    def _head(self, request: web.Request, backend: Backend, request_id: str) -> headers.Pairs:
        return headers.to_worker(
            request.headers.items(), peer=request.remote or "", scheme=request.scheme,
            host=request.headers.get("Host", ""), request_id=request_id, api_key=backend.spec.api_key,
        )

    def _pinned(self, path: str, facts: Facts) -> tuple[str, int] | None:
        """The worker that holds the response this request is about. Raises ProxyError (404) for an unknown one."""
        wanted = routes.response_id(path) or (facts.previous if path == routes.RESPONSES else None)
        if wanted is None:
            return None
        owner = self._affinity.owner(wanted)
        backend = self._pool.backends.get(owner[0]) if owner else None
        if owner is None or backend is None or backend.spec.incarnation != owner[1]:
            raise ProxyError(404, f"Response with id '{wanted}' not found.", param="response_id")
        return owner

    async def _choose(
        self, info: RequestInfo, excluded: set[str], deadline: float, pinned: tuple[str, int] | None
    ) -> Backend:
        """A backend for the request, as soon as there is one. Raises ProxyError (503) if there is none in time."""
        if (backend := self._choose_now(info, excluded, pinned)) is not None:
            return backend
        with self._metrics.queued():
            while True:
                self._give_up_if_useless(info, deadline)
                if info.model in self._pool.registered:
                    self._want(str(info.model))
                changed = self._changes.next()
                try:
                    async with asyncio.timeout(min(_LOOK_AGAIN, max(0.001, deadline - self._clock()))):
                        await changed
                except TimeoutError:
                    pass
                if (backend := self._choose_now(info, excluded, pinned)) is not None:
                    return backend

    def _choose_now(self, info: RequestInfo, excluded: set[str], pinned: tuple[str, int] | None) -> Backend | None:
        if self._pool.shutting_down:
            raise ProxyError(503, "the cluster is shutting down", source=Source.INTERNAL, retry_after=30)
        now = self._clock()
        if pinned is not None:
            backend = self._pool.backends.get(pinned[0])
            usable = backend is not None and backend.keeps_running() and not backend.ejection.active(now)
            return backend if usable else None
        candidates = self._pool.candidates(info.model, excluded, now) or self._pool.candidates(info.model, (), now)
        return self._current_strategy().choose(candidates, info) if candidates else None

    def _unknown(self, model: str | None) -> ProxyError:
        known = nearest(model or "", self._pool.names())
        return ProxyError(404, f"The model `{model}` does not exist.{known}", param="model", code=404)

    def _give_up_if_useless(self, info: RequestInfo, deadline: float) -> None:
        if not self._pool.knows(info.model):
            raise self._unknown(info.model)  # unloaded while this request waited for it
        what = f" for model {info.model}" if info.model else ""
        if self._pool.hopeless(info.model):
            message = f"no worker{what}: all of them have failed; see /v1/cluster/status"
            raise ProxyError(503, message, source=Source.INTERNAL, retry_after=30)
        if self._clock() >= deadline:
            message = f"no worker{what} became ready within {self._queue_timeout:g} s"
            raise ProxyError(503, message, source=Source.INTERNAL, retry_after=5)

    def _current_strategy(self) -> Strategy:
        name = self._pool.strategy
        if self._strategy is None or self._strategy[0] != name:
            self._strategy = (name, STRATEGIES[name](self._random))
        return self._strategy[1]

    def _first_byte(self, backend: Backend, path: str) -> Callable[[bytes], None]:
        began = self._clock()

        def on_first_byte(chunk: bytes) -> None:
            now = self._clock()
            backend.latency.observe(now - began, now)
            self._metrics.first_byte(backend.id, now - began)
            if path == routes.RESPONSES:
                self._affinity.learn(chunk, backend.id, backend.spec.incarnation)

        return on_first_byte

    def _touch(self, model: str | None) -> None:
        """It is in use from now on: a long stream is no reason to make room by taking its adapter away."""
        if model in self._pool.registered:
            self._counters.add(f"{ADAPTER}{model}", used_ms=int(time.time() * 1000))

    def _count_adapter(self, model: str | None, failed: bool) -> None:
        if model in self._pool.registered:
            self._counters.add(f"{ADAPTER}{model}", requests=1, errors=int(failed), used_ms=int(time.time() * 1000))

    def _count_failure(self, backend: Backend, failure: AttemptFailed) -> None:
        if failure.connected:
            self._counters.add(backend.id, requests=1, errors=1)
        else:
            self._counters.add(backend.id, errors=1)
            if backend.ejection.failed(self._clock()):
                self._metrics.ejected(backend.id)
        self._metrics.attempt_failed(backend.id, "broken" if failure.connected else "connect")


class AlreadyAnswered(ClientGone):
    """The client has had the beginning of an answer and its connection is closed: there is nothing more to say."""




def check_route(path: str, method: str) -> None:
    """Raises ProxyError (404, 405) for what is not passed on."""
    methods = routes.allowed_methods(path)
    if not methods:
        raise ProxyError(404, f"no route {path}")
    if method not in methods:
        raise ProxyError(405, f"{path} takes {', '.join(sorted(methods))}, not {method}")
