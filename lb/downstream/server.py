"""Takes the clients' connections in, says what each request is for, and watches over their time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from config.aio import Tasks
from config.identity.principal import Principal
from lb.admission.allowance import Admission
from lb.downstream.certificate import ServedCertificate
from lb.downstream.connection import ClientConnection
from lb.downstream.cors import Cors
from lb.downstream.service import Client
from lb.downstream.tls import TlsConnection
from lb.protocol import body, routes
from lb.protocol.errors import ProxyError
from lb.protocol.fields.caps import NONE_AT_ALL, CapsByTenant
from lb.protocol.http1.request import RequestHead
from lb.protocol.messages import Downstream, Exchange, Request
from lb.protocol.routes import Route
from lb.protocol.tenant import ANYBODY, Tenant
from lb.telemetry.cooperative import cooperatively

log = logging.getLogger(__name__)

#: Seconds between two looks at what takes too long.
_SWEEP_S = 0.5

#: Characters of a path with its query that the management API reads.
_MOST_TARGET = 8000

#: The same for one that has been replaced.
_RETIRE_LOOK_S = 0.1

#: Seconds that an answer which was told to end may take to do so.
_CUT_S = 1.0


def _check_coding(head: RequestHead) -> None:
    """A body in a coding cannot be routed by what is in it, and a backend that takes the coding off might answer as
    another model. Raises ProxyError (415, as RFC 9110 15.5.16 wants it)."""
    if (head.find(b"content-encoding") or "identity").lower() != "identity":
        raise ProxyError(415, "a body has to come without Content-Encoding", headers={"Accept-Encoding": "identity"})


#: Routes that we answer ourselves as the engine would.
_ENGINES_TOO = frozenset({"/v1/models", "/health"})


@dataclass(frozen=True, slots=True)
class Handlers:
    """Who answers: ``forwarded`` what is for workers as it is, ``other`` the rest. Who is told:
    ``refused`` of an error, with the request's id and what was answering it; ``slow_reader`` of a client that was cut
    off; ``swept`` when connections are looked at."""

    other: Callable[[Downstream, Request, Route], Exchange]
    forwarded: Callable[[Downstream, Request, Route], Exchange]
    refused: Callable[[ProxyError, Request | None, str, Exchange | None], None]
    slow_reader: Callable[[], None]
    swept: Callable[[], None]


class Server:
    """Implements `lb.downstream.service.Service`. ``guard`` says who asks a route of ours that is not open,
    ``tenant`` for whom a request for models is; ``check_socket`` whether a page may
    open a WebSocket; all raise ProxyError for who may not. With a
    ``certificate`` clients speak TLS, and nothing else. More methods than a class should have: two
    thirds of them are that protocol's."""

    def __init__(
        self, handlers: Handlers, guard: Callable[[RequestHead, Client], Principal],
        tenant: Callable[[RequestHead, str], Tenant], admission: Admission,
        routes_too: frozenset[str] = frozenset(), cors: Cors | None = None,
        certificate: ServedCertificate | None = None, caps: CapsByTenant = NONE_AT_ALL,
        check_socket: Callable[[RequestHead], None] = lambda head: None,
    ) -> None:
        self._check_socket = check_socket
        self._certificate, self._caps = certificate, caps
        self._watching: asyncio.Task[None] | None = None
        self.admission, self.closing, self._cors = admission, False, cors
        #: Those that are one too many and may say what they want, the oldest first.
        self._reserve: dict[Client, None] = {}
        self._handlers, self._guard, self._tenant, self._routes_too = handlers, guard, tenant, routes_too
        #: Ids of requests: one run of a balancer, numbered.
        self._run, self._number = f"{random.getrandbits(64):016x}", 0
        self._connections: set[Client] = set()
        self._server: asyncio.AbstractServer | None = None
        self._tasks = Tasks()
        self._empty = asyncio.Event()

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def serve(self, listener: socket.socket) -> None:
        """``listener`` is closed when no more are taken. Raises OSError."""
        # Inherited by every connection: small writes go out at once, a peer that is gone is noticed.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        self._server = await asyncio.get_running_loop().create_server(self._connection, sock=listener, backlog=4096)
        self._tasks.start(self._sweep(), "watch over connections")
        if self._certificate is not None:
            self._watching = self._tasks.start(self._certificate.watch(), "watch the certificate")

    async def retire(self, timeout: float) -> None:
        """Takes no more connections, as another balancer does on the same socket, and returns when the last of those
        it has is gone. A request has ``timeout`` seconds from now, or from its beginning. A connection that is idle is
        not closed under the next request, which may be on its way: that one is answered, and told that it was the
        last."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        if self._watching is not None:
            self._watching.cancel()  # what is served is the successor's business
        # One that was accepted in this very turn of the loop is heard of in the next.
        await asyncio.sleep(_RETIRE_LOOK_S)
        begun: dict[Exchange, float] = {}
        while self._connections:
            now = time.monotonic()
            busy = {c.exchange: c for c in list(self._connections) if c.exchange is not None}
            begun = {exchange: begun.get(exchange, now) for exchange in busy}
            for exchange, connection in busy.items():
                over = now - begun[exchange] - timeout
                if over >= _CUT_S:
                    connection.cut_off()
                elif over >= 0:
                    connection.end("the balancer that answered this was replaced, and it took too long")
            await self._until_empty(_RETIRE_LOOK_S)

    async def close(self, grace: float) -> None:
        """Takes no more connections, gives the running answers ``grace`` seconds, and ends what is left."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.end()
        await self._until_empty(grace)
        for connection in list(self._connections):
            connection.end("the balancer is going down")
        await self._until_empty(0.2)
        for connection in list(self._connections):
            connection.cut()
        await self._tasks.close()

    # for connections

    def opened(self, connection: Client) -> ProxyError | None:
        self._connections.add(connection)
        return self.admission.crowd.enter(connection.peer.origin)

    def keep_place(self, connection: Client) -> bool:
        reserve = self._reserve
        if len(reserve) >= self.admission.limits.reserve:
            # An operator's request comes with its connection: one that has not said anything yet is nobody's loss.
            silent = next((each for each in reserve if each.exchange is None), None)
            if silent is None:
                return False
            silent.cut()
            del reserve[silent]
        reserve[connection] = None
        return True

    def answers_anyway(self, head: RequestHead) -> bool:
        route: Route | None = head.notes.get(Route)
        return route is not None and route.ours

    def slow_reader(self, connection: Client) -> None:
        self._handlers.slow_reader()
        log.info("client at %s does not read its response: disconnected", connection.peer.address)

    def closed(self, connection: Client) -> None:
        self._connections.discard(connection)
        if connection.unwanted is None:
            self.admission.crowd.leave(connection.peer.origin)
        else:
            self._reserve.pop(connection, None)
        if not self._connections:
            self._empty.set()

    def admit(self, request: Request, connection: Client) -> str:
        head = request.head
        if self._cors is not None:
            request.grant = self._cors.admit(head, self._is_for_other_origins)
        route = head.notes.get(Route)
        if route is None:
            route = routes.of(head.path, self._routes_too)
            if route.ours and len(head.target) > _MOST_TARGET:
                raise ProxyError(414, f"a target of more than {_MOST_TARGET:,} characters")
            if not route.ours:
                route.check(head.method)
                _check_coding(head)
            head.notes[Route] = route  # of a head that is admitted: the next one like it need not be looked at
        if not route.ours:
            if route.websocket:
                self._check_socket(head)
            request.tenant = self._tenant(head, request.peer)
        elif route.is_for_models(head.method):
            request.principal = Principal(self._tenant(head, request.peer).name, frozenset())
        elif not route.open:
            request.principal = self._guard(head, connection)
        if b"x-request-id" in head.ours:
            return self.identify(head)
        self._number += 1
        return f"{self._run}{self._number:016x}"

    def identify(self, head: RequestHead | None) -> str:
        if head is not None and (given := head.request_id):
            return given
        self._number += 1
        return f"{self._run}{self._number:016x}"

    def exchange(self, client: Downstream, request: Request) -> Exchange:
        route: Route = request.head.notes[Route]
        handlers = self._handlers
        return handlers.forwarded(client, request, route) if route.direct else handlers.other(client, request, route)

    def scan(self, request: Request) -> body.Scan | None:
        head, caps = request.head, self._caps
        route: Route = head.notes[Route]
        if route.ours:
            return None
        return body.scan(head.content_type, caps.anybody if request.tenant is ANYBODY else caps.keyed)

    def may_stream(self, head: RequestHead, scan: body.Scan | None) -> bool:
        if scan is None or head.path == routes.RESPONSES:
            return False  # a response that it goes on from may be named at its end
        return scan.names.name is not None or scan.silent

    def refused(self, error: ProxyError, connection: Client, id: str) -> None:
        self._handlers.refused(error, connection.request, id, connection.exchange)

    def under_way(self) -> list[Exchange]:
        """What is being answered."""
        return [connection.exchange for connection in self._connections if connection.exchange is not None]

    # inside

    def _connection(self) -> asyncio.Protocol:
        connection, certificate = ClientConnection(self), self._certificate
        return TlsConnection(connection, certificate.context, self.admission.crowd) if certificate else connection

    def _is_for_other_origins(self, path: str) -> bool:
        """What the engine serves; what manages the cluster never is."""
        return path in _ENGINES_TOO or not routes.of(path, self._routes_too).ours

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            await cooperatively(self._look_at(list(self._connections)))
            self._handlers.swept()

    def _look_at(self, connections: Sequence[Client]) -> Generator[None, None, None]:
        for connection in connections:
            if connection not in self._connections:
                continue  # it was closed meanwhile
            try:
                connection.check(time.monotonic())
            except Exception:
                log.exception("connection of %s", connection.peer.address)
                connection.cut_off()
            yield

    async def _until_empty(self, seconds: float) -> None:
        self._empty.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
