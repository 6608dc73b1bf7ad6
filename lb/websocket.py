"""A WebSocket carried to one worker: frames as they come, both ways, until either side ends it."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

from lb.backend import Backend
from lb.forward import Outgoing
from lb.upstream import Upstream

#: How long (s) a client may take to agree to the end of its socket.
_CLOSE_S = 1.0


async def carry(request: web.Request, backend: Backend, upstream: Upstream, outgoing: Outgoing) -> web.StreamResponse:
    """Raises AttemptFailed if the worker does not take the socket."""
    evicted = asyncio.Event()
    lease = backend.lease(lambda reason: evicted.set())
    try:
        worker = await upstream.websocket(
            backend.spec.address, outgoing.target, _head(outgoing), _protocols(request)
        )
        try:
            agreed = (worker.protocol,) if worker.protocol else ()
            client = web.WebSocketResponse(autoping=False, max_msg_size=0, protocols=agreed, timeout=_CLOSE_S)
            await client.prepare(request)
            ways = [
                asyncio.ensure_future(_pass_on(client, worker)),
                asyncio.ensure_future(_pass_on(worker, client)),
                asyncio.ensure_future(evicted.wait()),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
            await client.close(code=1012 if evicted.is_set() else worker.close_code or 1000)
        finally:
            await worker.close()
    finally:
        lease.release()
    return client


def _head(outgoing: Outgoing) -> list[tuple[str, str]]:
    """Less what belongs to the client's own handshake."""
    return [(n, v) for n, v in outgoing.headers if not n.lower().startswith("sec-websocket-")]


def _protocols(request: web.Request) -> tuple[str, ...]:
    offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    return tuple(name.strip() for name in offered if name.strip())


_Side = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _pass_on(source: _Side, sink: _Side) -> None:
    while True:
        message = await source.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await sink.send_bytes(message.data)
        elif message.type is aiohttp.WSMsgType.PING:
            await sink.ping(message.data)
        elif message.type is aiohttp.WSMsgType.PONG:
            await sink.pong(message.data)
        else:
            return


