"""One attempt on one backend: connect, send, stream the answer through.

The boundary that decides what may follow a failure: before the first byte of the answer has gone to the client, the
attempt can be made again elsewhere; after it, the client has to be told that the answer is broken. An attempt that
could not connect has changed nothing and may always be made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from lb import headers
from lb.backend import Backend
from lb.errors import AttemptFailed, sse_error
from lb.headers import Pairs
from lb.model_metrics import Meter
from lb.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it goes to whichever worker takes it. ``target`` is the path with its query, as sent."""

    method: str
    target: str
    headers: Pairs
    body: bytes | None
    request_id: str


class Attempt:
    """``on_first_byte`` gets the first bytes of the answer's body as they arrive from the worker. ``refuse`` is asked
    whether an answer of that status is to be treated as a failed attempt instead of being passed on; ``absent`` the
    same of the body of a 404."""

    def __init__(
        self, upstream: Upstream, backend: Backend, request: web.Request, on_first_byte: Callable[[bytes], None],
        refuse: Callable[[int], bool] = lambda status: False, meter: Meter | None = None,
        absent: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._upstream, self._backend, self._request = upstream, backend, request
        self._refuse, self._meter, self._absent = refuse, meter, absent
        self._on_first_byte = on_first_byte
        self._evicted: str | None = None
        self.status = 0
        self._last = b""  # the end of what the client has: an event may break off in its middle

    async def run(self, outgoing: Outgoing) -> web.StreamResponse:
        """The finished answer. Raises AttemptFailed; if it says ``answered``, the client's connection is closed."""
        response: web.StreamResponse | None = None
        try:
            async with asyncio.timeout(None) as scope:

                def evict(reason: str) -> None:
                    if self._evicted is not None:
                        return  # told already: a timeout that has expired cannot be set again
                    self._evicted = reason
                    scope.reschedule(0)  # interrupts whatever this task is waiting for

                lease = self._backend.lease(evict)
                try:
                    answer = await self._upstream.send(
                        self._backend.spec.address, outgoing.method, outgoing.target, outgoing.headers, outgoing.body
                    )
                    self.status = answer.status
                    complete = False
                    try:
                        if self._refuse(answer.status):
                            raise AttemptFailed(f"it answered {answer.status}", connected=True)
                        if answer.status == 404 and self._absent is not None and self._absent(await answer.read()):
                            raise AttemptFailed("it has not got the model", connected=True, absent=True)
                        response = self._respond(answer, outgoing)
                        await self._stream(answer, response)
                        complete = True
                    finally:
                        # Anything but a complete answer: the connection is of no more use, and closing it tells
                        # the worker to stop generating.
                        answer.release() if complete else answer.close()
                finally:
                    lease.release()
            return response
        except TimeoutError:
            if self._evicted is None:
                raise
            failure = AttemptFailed(self._evicted, connected=True)
        except (aiohttp.ClientError, _WorkerBroke) as error:
            failure = AttemptFailed(f"the answer broke off ({error or type(error).__name__})", connected=True)
        if response is not None and response.prepared:
            failure.answered = True
            await self._end_broken(response, f"{self._backend.id}: {failure}")
        raise failure

    def _respond(self, answer: aiohttp.ClientResponse, outgoing: Outgoing) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in headers.to_client(answer.headers.items(), outgoing.request_id):
            response.headers.add(name, value)
        length = answer.headers.get("Content-Length")
        if length is not None:
            response.headers["Content-Length"] = length
        return response

    async def _stream(self, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        request, first, meter = self._request, True, self._meter
        is_stream = response.content_type == "text/event-stream"
        chunks = _already_read(answer) if answer.status == 404 and self._absent else answer.content.iter_any()
        while True:
            try:
                chunk = await anext(chunks, b"")
            except aiohttp.ClientError:
                raise
            except (OSError, EOFError) as error:
                raise _WorkerBroke(str(error)) from None
            if first:
                # Not before the first byte of the body: until then a dead worker's request can still be made again.
                self._on_first_byte(chunk)
            try:
                if first:
                    await response.prepare(request)
                    first = False
                if not chunk:
                    await response.write_eof()
                    return
                await response.write(chunk)
                if meter is not None:
                    meter.chunk(chunk, is_stream)
                self._last = (self._last + chunk)[-2:]
            except (aiohttp.ClientError, OSError) as error:
                raise ClientGone(str(error)) from None

    async def _end_broken(self, response: web.StreamResponse, reason: str) -> None:
        """The client must not take what it has for complete: no last chunk, the connection is closed."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            return
        if response.content_type == "text/event-stream":
            try:
                boundary = b"" if self._last == b"\n\n" else b"\n\n"
                await response.write(boundary + sse_error(reason))
            except (ConnectionError, OSError):
                pass
            transport.close()
        else:
            transport.abort()


async def _already_read(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    if body := await answer.read():
        yield body


class _WorkerBroke(Exception):
    """Reading from the worker failed, as against writing to the client."""


class ClientGone(Exception):
    """Writing to the client failed: nobody's fault here, and nobody is left to be told."""
