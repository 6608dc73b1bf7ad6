"""The gRPC server of a balancer process. Needs the extra ``grpc``, which is imported only where gRPC is spoken."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from config.aio import Tasks
from config.paths import short_socket_path
from lb.downstream.certificate import ServedCertificate
from lb.downstream.service import Service
from lb.protocol.http1.request import MAX_HEAD
from lb.protocol.messages import Limits
from lb.routing.notifier import Notifier
from lb.rpc.contract import ChatMessages
from lb.rpc.listener import RpcListener
from lb.rpc.services import Callers, ChatService, HealthService, ReflectionService

#: Calls at a time on one connection.
_STREAMS = 1000

#: Seconds: between two questions whether a client is still there and until it has to answer, and that have to be
#: between two of the client's own (the third that comes too early ends its connection).
_PING, _PING_TIMEOUT, _LEAST_BETWEEN_PINGS = 60, 20, 10


def _options(limits: Limits) -> list[tuple[str, Any]]:
    """https://grpc.github.io/grpc/core/group__grpc__arg__keys.html"""
    return [
        ("grpc.max_receive_message_length", limits.collect),
        ("grpc.max_metadata_size", MAX_HEAD),
        ("grpc.absolute_max_metadata_size", MAX_HEAD),
        ("grpc.max_concurrent_streams", _STREAMS),
        ("grpc.max_connection_idle_ms", int(1000 * limits.idle)),
        ("grpc.server_handshake_timeout_ms", int(1000 * limits.head)),
        ("grpc.keepalive_time_ms", 1000 * _PING),
        ("grpc.keepalive_timeout_ms", 1000 * _PING_TIMEOUT),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000 * _LEAST_BETWEEN_PINGS),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a small message may be of any size without it
    ]


class RpcServer:
    """Serves what `lb.rpc.services` has over the connections that come to ``listener``, by way of a Unix socket at
    ``path``. ``serves()``: whether there is a worker that takes requests, ``changes`` tells when that may change."""

    def __init__(
        self, service: Service, path: Path, serves: Callable[[], bool], changes: Notifier,
        certificate: ServedCertificate | None, listener: socket.socket,
    ) -> None:
        self._socket, self.messages = listener, ChatMessages()
        self._limits, self._path, self._tasks = service.admission.limits, path, Tasks()
        self._listener = RpcListener(service, path, certificate, self._tasks)
        self._callers = Callers(service, self._listener.find)
        self._health = HealthService(self._callers, serves, changes)
        self._server: Any = None

    async def start(self) -> None:
        """Raises OSError."""
        limits, messages = self._limits, self.messages
        self._server = grpc.aio.server(
            options=_options(limits), maximum_concurrent_rpcs=limits.connections + limits.reserve
        )
        chat, reflection = ChatService(self._callers, messages), ReflectionService(self._callers, messages)
        self._server.add_generic_rpc_handlers(tuple(each.handler() for each in (chat, self._health, reflection)))
        try:
            self._server.add_insecure_port(f"unix:{short_socket_path(self._path)}")
        except RuntimeError as error:
            raise OSError(f"{self._path}: {error}") from None
        await self._server.start()
        await self._listener.start(self._socket.dup())  # which is closed when no more are taken

    def retire(self) -> None:
        """Another process takes the connections; those that there are end with their last call."""
        self._health.close()
        self._listener.go_away()

    async def close(self) -> None:
        """Whatever still runs is ended."""
        self.retire()
        if self._server is not None:
            await self._server.stop(None)
        await self._tasks.close()
        self._path.unlink(missing_ok=True)
