"""Takes the connections of gRPC in, and knows whose call comes over which of them."""

from __future__ import annotations

import asyncio
import functools
import secrets
import socket
from pathlib import Path

from config.aio import Tasks
from config.paths import short_socket_path
from lb.downstream.certificate import ServedCertificate
from lb.downstream.service import Service
from lb.downstream.tls import TlsConnection
from lb.rpc.connection import Behind, RpcConnection

#: How the other side names the address of a connection that is passed on to it.
_SCHEME = "unix-abstract:"


class RpcListener:
    """Implements `lb.rpc.connection.RpcPort`. Passes them on to the server that listens at ``path``, each from an
    address that nobody else can guess, by which that one says where a call came from."""

    def __init__(self, service: Service, path: Path, certificate: ServedCertificate | None, tasks: Tasks) -> None:
        self._service, self._path, self._certificate, self._tasks = service, path, certificate, tasks
        self._prefix, self._number = f"clusterctl-{secrets.token_hex(16)}", 0
        self._by_name: dict[str, RpcConnection] = {}
        self._names: dict[RpcConnection, str] = {}
        self._server: asyncio.Server | None = None
        self._closing = False

    async def start(self, listener: socket.socket) -> None:
        """``listener`` is closed when no more are taken. Raises OSError."""
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        self._server = await asyncio.get_running_loop().create_server(self._connection, sock=listener, backlog=4096)

    def find(self, address: str) -> RpcConnection | None:
        """The connection that a call came over from ``address``, as the server behind says it."""
        return self._by_name.get(address.removeprefix(_SCHEME))

    def go_away(self) -> None:
        """No more are taken, and those that there are end with their last call."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._names):
            connection.go_away()

    # for connections

    def opened(self, connection: RpcConnection) -> None:
        self._number += 1
        name = f"{self._prefix}-{self._number}"
        self._by_name[name], self._names[connection] = connection, name
        if self._closing:
            connection.go_away()  # it was accepted in the very turn in which no more were to be

    def pass_on(self, connection: RpcConnection) -> None:
        self._tasks.start(self._pass_on(connection, self._names[connection]), "pass a connection on")

    def closed(self, connection: RpcConnection) -> None:
        name = self._names.pop(connection, None)
        if name is not None:
            del self._by_name[name]

    # inside

    def _connection(self) -> asyncio.Protocol:
        connection, certificate = RpcConnection(self._service, self), self._certificate
        if certificate is None:
            return connection
        return TlsConnection(connection, certificate.http2_context, self._service.admission.crowd)

    async def _pass_on(self, connection: RpcConnection, name: str) -> None:
        behind = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            behind.bind(f"\0{name}")
            behind.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(behind, short_socket_path(self._path))
            await loop.create_unix_connection(functools.partial(Behind, connection), sock=behind)
        except OSError:
            behind.close()
            connection.ended()
