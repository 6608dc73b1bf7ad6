"""Finds the worker that made a response: the Responses API keeps its answers in the memory of one worker."""

from __future__ import annotations

import asyncio
import re

from lb.admission.access.response_marks import ResponseMarks
from lb.protocol import routes
from lb.protocol.errors import AttemptFailed, ProxyError
from lb.protocol.messages import Request
from lb.routing.pool import Pool
from lb.routing.response_owners import ResponseOwners
from lb.routing.router import Pinned
from lb.upstream.client import WorkerClient

#: How long (s) a worker may take to say whether it has made a response.
_FIND_S = 2.0

_RESPONSE = re.compile(r"resp_[A-Za-z0-9_-]{1,128}")


class ResponseFinder:
    def __init__(self, pool: Pool, owners: ResponseOwners, client: WorkerClient, marks: ResponseMarks) -> None:
        self._pool, self._owners, self._client, self._marks = pool, owners, client, marks

    def sign(self, mark: str, request: Request) -> None:
        """Makes the response that ``request`` asks for one that nobody without ``mark`` may ask for."""
        request.add(b'"request_id":"%b"' % self._marks.new(mark).encode())

    def check_owner(self, mark: str, response: str) -> None:
        """Raises ProxyError (404) for a response that somebody else has asked for."""
        if not self._marks.owns(mark, response):
            raise _no_response(response)

    def known(self, response: str) -> Pinned | None:
        """Who made it; None where no request of this balancer has. Raises ProxyError (404) if that incarnation is
        gone."""
        owner = self._owners.owner(response)
        if owner is None:
            return None
        backend = self._pool.backends.get(owner[0])
        if backend is None or backend.spec.incarnation != owner[1]:
            raise _no_response(response)
        return owner

    def moved(self, response: str, backend: str, incarnation: int) -> None:
        """Another worker makes it."""
        self._owners.remember(response, backend, incarnation)

    async def search(self, response: str) -> Pinned:
        """Asks all workers: another balancer's request may have made it, or one of this balancer before it was started
        again. Raises ProxyError (404)."""
        backends = [b for b in self._pool.backends.values() if b.keeps_running()]
        if not _RESPONSE.fullmatch(response) or not backends:
            raise _no_response(response)
        asking = (self._client.get(b.spec, f"{routes.RESPONSES}/{response}", _FIND_S) for b in backends)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        for backend, answer in zip(backends, answers, strict=True):
            if isinstance(answer, tuple) and answer[0] == 200 and f'"{response}"'.encode() in answer[1]:
                self._owners.remember(response, backend.id, backend.spec.incarnation)
                return backend.id, backend.spec.incarnation
            if isinstance(answer, BaseException) and not isinstance(answer, AttemptFailed):
                raise answer
        raise _no_response(response)


def _no_response(response: str) -> ProxyError:
    return ProxyError(404, f"Response with id '{response}' not found.", param="response_id")
