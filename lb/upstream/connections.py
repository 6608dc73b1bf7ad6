"""Connections to workers: kept for the next request, opened where there is none, no name looked up on the way."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from config.aio import patience
from config.topology import BackendSpec
from config.values.addresses import bracketed
from lb.protocol.errors import AttemptFailed
from lb.protocol.failures import Failure
from lb.protocol.http1.response import ResponseHead
from lb.upstream.connection import WorkerConnection

#: Below the 5 s after which vLLM closes an idle connection by default.
_IDLE_S = 3.0
_CONNECT_S = 2.0

_MOST_ENDPOINTS = 4096

#: Bytes of an answer that is read whole.
_MOST_TEXT = 64 * 1024 * 1024


class Endpoint(Protocol):
    """Where requests can be sent: connections to the same one are interchangeable. ``patience``: how long (s) one may
    take to be opened, None for as long as it takes."""

    @property
    def patience(self) -> float | None: ...

    async def open(self, make: Callable[[], WorkerConnection]) -> WorkerConnection:
        """A new connection. Raises OSError."""


@dataclass(frozen=True, slots=True, eq=False)
class TcpEndpoint:
    """A worker's address. ``host`` is its name, for the Host field and for TLS; ``ip`` what it resolved to."""

    host: str
    ip: str
    port: int
    host_field: bytes
    tls: ssl.SSLContext | None = None

    @property
    def patience(self) -> float:
        return _CONNECT_S

    async def open(self, make: Callable[[], WorkerConnection]) -> WorkerConnection:
        if not self.ip:
            raise OSError(f"{self.host} has not been resolved")
        _, connection = await asyncio.get_running_loop().create_connection(
            make, self.ip, self.port, ssl=self.tls, server_hostname=self.host if self.tls else None
        )
        return connection


class Upstream:
    """``clock``: s, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._idle: dict[object, list[WorkerConnection]] = {}
        self._open: set[WorkerConnection] = set()
        self._endpoints: dict[tuple[str, str, str, int], TcpEndpoint] = {}
        self._tls: ssl.SSLContext | None = None

    def endpoint(self, spec: BackendSpec) -> TcpEndpoint:
        """Where ``spec`` listens: the same object for the same address."""
        address = (spec.scheme, spec.host, spec.ip, spec.port)
        known = self._endpoints.get(address)
        if known is None:
            if spec.scheme == "https" and self._tls is None:
                self._tls = ssl.create_default_context()
            tls = self._tls if spec.scheme == "https" else None
            known = TcpEndpoint(spec.host, spec.ip, spec.port, f"{bracketed(spec.host)}:{spec.port}".encode(), tls)
            if len(self._endpoints) >= _MOST_ENDPOINTS:
                self._endpoints.clear()  # of workers long gone, most of them
            self._endpoints[address] = known
        return known

    def idle(self, endpoint: Endpoint) -> WorkerConnection | None:
        """A connection that is open and free, the one used last first."""
        waiting = self._idle.get(endpoint)
        oldest = self._clock() - _IDLE_S
        while waiting:
            connection = waiting.pop()
            transport = connection.transport
            # None that is kept has a request: it is as good as its transport.
            if connection.idle_since > oldest and transport is not None and not transport.is_closing():
                return connection
            connection.drop()
        return None

    async def connect(self, endpoint: Endpoint) -> WorkerConnection:
        """A new one. Raises AttemptFailed."""
        made: list[WorkerConnection] = []

        def make() -> WorkerConnection:
            made.append(WorkerConnection(endpoint, self._keep, self._open.discard))
            return made[0]

        try:
            async with patience(endpoint.patience):
                connection = await endpoint.open(make)
                self._open.add(connection)
                return connection
        except TimeoutError:
            raise AttemptFailed(f"no connection in {endpoint.patience:g} s", Failure.SLOW_CONNECT) from None
        except OSError as error:  # ssl.SSLError is one
            raise AttemptFailed(f"cannot connect: {error.strerror or error}", Failure.UNREACHABLE) from None
        finally:
            for unwanted in made:
                if unwanted not in self._open:
                    unwanted.drop()  # it may have been opened in the moment in which nobody wanted it any more

    async def fetch(
        self, endpoint: Endpoint, request: bytes, timeout: float, method: str = "GET"
    ) -> tuple[int, bytes]:
        """Status and body of the answer to ``request``, head and body. ``timeout`` in s. Raises AttemptFailed."""
        kept = self.idle(endpoint)
        if kept is not None:
            try:
                return await self._fetch(kept, request, timeout, method)
            except AttemptFailed as failure:
                if failure.kind is not Failure.STALE:
                    raise
        return await self._fetch(await self.connect(endpoint), request, timeout, method)

    async def _fetch(
        self, connection: WorkerConnection, request: bytes, timeout: float, method: str
    ) -> tuple[int, bytes]:
        reader = _Whole(connection)
        try:
            connection.ask(reader, method, request)
            async with patience(timeout):
                return await reader.done
        except TimeoutError:
            raise AttemptFailed(f"no answer in {timeout:g} s", Failure.SILENT) from None
        finally:
            if not reader.done.done() or reader.done.cancelled():
                connection.drop()

    def sweep(self) -> None:
        """Closes what has been idle for too long."""
        oldest = self._clock() - _IDLE_S
        for endpoint, waiting in list(self._idle.items()):
            for connection in [c for c in waiting if c.idle_since < oldest or not c.usable]:
                waiting.remove(connection)
                connection.drop()
            if not waiting:
                del self._idle[endpoint]

    def close(self) -> None:
        for connection in list(self._open):
            connection.drop()

    @property
    def connections(self) -> int:
        """How many are open, idle ones included."""
        return len(self._open)

    def _keep(self, connection: WorkerConnection) -> None:
        connection.idle_since = self._clock()
        waiting = self._idle.get(connection.endpoint)
        if waiting is None:
            waiting = self._idle[connection.endpoint] = []
        waiting.append(connection)


class _Whole:
    """Reads an answer to its end."""

    raw, aligned = False, True

    def __init__(self, connection: WorkerConnection) -> None:
        self._connection = connection
        self.done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._status, self._body = 0, bytearray()

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        self._status = head.status
        self.on_body(body)
        self.on_end()

    def on_head(self, head: ResponseHead) -> None:
        self._status = head.status

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > _MOST_TEXT:
            self._connection.drop()
            self.on_failure("its answer is too large")

    def on_end(self) -> None:
        if not self.done.done():
            self.done.set_result((self._status, bytes(self._body)))

    def on_failure(self, reason: str) -> None:
        if not self.done.done():
            kind = Failure.STALE if self._connection.stale else Failure.BROKEN
            self.done.set_exception(AttemptFailed(reason, kind))

    def on_writable(self, writable: bool) -> None:
        """There is no body to send."""
