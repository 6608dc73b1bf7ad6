"""A request that may be answered as the same one was before. Used only where answers are kept."""

from __future__ import annotations

from lb.forwarding.caching import question
from lb.forwarding.caching.answer_tee import AnswerTee
from lb.forwarding.caching.response_cache import CachedAnswer, ResponseCache
from lb.forwarding.collaborators import Collaborators
from lb.forwarding.exchange import Exchange
from lb.protocol.http1 import response
from lb.protocol.messages import Downstream, Request
from lb.protocol.routes import Route
from lb.routing.pool import Pool
from lb.upstream import headers

_HIT, _MISS = b"\r\nX-Cache: hit", b"\r\nX-Cache: miss"


class CachingExchange(Exchange):
    _digest: bytes | None = None  # of a request whose answer is to be kept
    _version: str | None = None
    _tee: AnswerTee | None = None
    _has_looked = False

    def __init__(
        self, cache: ResponseCache, parts: Collaborators, client: Downstream, request: Request, route: Route
    ) -> None:
        super().__init__(parts, client, request, route)
        self._cache = cache

    def place(self, avoided: frozenset[str] = frozenset()) -> None:
        if not self._has_looked:
            self._has_looked = True
            if self._look_up():
                return
        super().place(avoided)

    def answered(self) -> None:
        self._keep()
        super().answered()

    def completed(self, status: int) -> None:
        if status == 200:
            self._keep()
        super().completed(status)

    def finish(self, status: int, reason: str = "", *, failed: bool) -> None:
        super().finish(status, reason, failed=failed)
        if self._tee is not None:
            self._tee.drop()

    def _look_up(self) -> bool:
        """Whether that was its answer."""
        request, model = self._routed.request, self._routed.info.model
        self._version = version(self._parts.pool, model)
        if model is None or self._version is None:
            return False
        self._digest = question.digest(request, self._routed.route.path, model, self._version)
        if self._digest is None:
            return False
        if (found := self._cache.get(self._digest)) is not None:
            self._give_again(found)
            return True
        request.told += _MISS
        self._client = self._tee = AnswerTee(self._client, self._cache)
        return False

    def _give_again(self, found: CachedAnswer) -> None:
        request, client = self._routed.request, self._client
        head = headers.to_client(
            response.parse(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n\r\n" % found.kind), request_id=request.id,
            framing=b"Content-Length: %d" % len(found.body), close=client.closes_after_this(), grant=request.grant,
            told=request.told + _HIT,
        )  # fmt: skip
        client.write(head + found.body)
        self.finish(200, failed=False)
        client.done()

    def _keep(self) -> None:
        """The whole answer has been sent. Not one that two workers made, nor one whose model has changed meanwhile."""
        tee, routed, attempt = self._tee, self._routed, self._attempt
        if tee is None or self._digest is None or attempt is None:
            return
        same = version(self._parts.pool, routed.info.model) == self._version == attempt.backend.root(routed.info.model)
        if same and routed.broken is None and routed.early is None and (answer := tee.answer()) is not None:
            self._cache.put(self._digest, *answer)
        tee.drop()


def version(pool: Pool, model: str | None) -> str | None:
    """What ``model`` is made of, on all workers that have said so; None where that is not one thing."""
    roots = {root for backend in pool.serving(model) if (root := backend.root(model)) is not None}
    return roots.pop() if len(roots) == 1 else None
