"""The management API behind the same server: an aiohttp application in this very process, spoken to over socket pairs.

What reaches it was parsed, limited and authorised in front, and is written anew, as for any worker. aiohttp does there
what it is good at, and no request for a model pays for it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from config.aio import Tasks
from config.identity.principal import PEER_HEADER, PRINCIPAL_HEADER
from lb.forwarding.relay import Handling, Relay, Relayed
from lb.protocol.errors import AttemptFailed, ProxyError, Source
from lb.protocol.http1.response import ResponseHead
from lb.protocol.messages import Downstream, Request
from lb.upstream import headers
from lb.upstream.connection import WorkerConnection
from lb.upstream.connections import Upstream


class BridgeEndpoint:
    """``serve`` makes the protocol that serves one connection, as `aiohttp.web.Server` does."""

    def __init__(self, serve: Callable[[], asyncio.Protocol]) -> None:
        self._serve = serve

    @property
    def patience(self) -> None:
        """Nobody but this process is waited for: where it is short of time, a question is answered late, not never."""

    async def open(self, make: Callable[[], WorkerConnection]) -> WorkerConnection:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        await loop.connect_accepted_socket(self._serve, theirs)
        _, connection = await loop.create_unix_connection(make, sock=ours)
        return connection


class BridgeExchange(Relayed):
    """Implements `lb.protocol.messages.Exchange` and `lb.forwarding.relay.Owner`."""

    relay: Relay | None = None

    def __init__(
        self, endpoint: BridgeEndpoint, upstream: Upstream, tasks: Tasks, client: Downstream, request: Request
    ) -> None:
        self._endpoint, self._upstream, self._tasks = endpoint, upstream, tasks
        self._client, self._request = client, request
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        connection = self._upstream.idle(self._endpoint)
        if connection is not None:
            self._send(connection)
        else:
            self._task = self._tasks.start(self._connect(), "reach the management API")

    async def _connect(self) -> None:
        try:
            self._send(await self._upstream.connect(self._endpoint))
        except AttemptFailed as failure:  # too many open files
            message = f"the management API cannot be reached: {failure}"
            self._client.refuse(ProxyError(503, message, source=Source.INTERNAL, retry_after=1))

    def _send(self, connection: WorkerConnection) -> None:
        request = self._request
        self._task, self.relay = None, Relay(self, self._client, connection, request)
        head = headers.to_worker(
            request.head, host=request.head.host.encode() or b"localhost", prefix="", forwarded=b"",
            request_id=request.id, api_key=None, length=request.length, names=None,
        )
        # Not noted with the head: what a caller may can change between two requests that are alike.
        who = request.principal.line() if request.principal is not None else ""
        fields = f"{PRINCIPAL_HEADER}: {who}\r\n{PEER_HEADER}: {request.peer}\r\n\r\n"
        self.relay.send(head[:-2] + fields.encode())

    # from the client

    def client_gone(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self.relay is not None:
            self.relay.drop()
            self.relay = None

    def cut(self, reason: str) -> None:
        self.client_gone()
        self._client.cut()

    # from the relay

    def on_answer(self, head: ResponseHead) -> Handling:
        return Handling.PASS

    def on_looked(self, head: ResponseHead, body: bytes) -> AttemptFailed | None:
        return None

    def on_first_byte(self, data: bytes) -> None:
        """Nobody measures it."""

    def on_whole(self, body: bytes) -> None:
        self.relay = None
        self._client.done()

    def on_complete(self, status: int) -> None:
        self.relay = None
        self._client.done()

    def on_broken(self, failure: AttemptFailed) -> None:
        began, self.relay = self.began, None
        if began:
            self._client.cut()
        else:
            self._client.refuse(ProxyError(500, f"internal error of the balancer: {failure}", source=Source.INTERNAL))
