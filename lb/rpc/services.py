"""What can be called: the chat, the health of the cluster (grpc.health.v1), and what there is (reflection)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from config.aio import patience
from lb.downstream.service import Service
from lb.protocol.errors import ProxyError
from lb.protocol.routes import RPC_CHAT, Route
from lb.routing.notifier import Notifier
from lb.rpc import contract, metadata
from lb.rpc.call import RpcCall
from lb.rpc.codes import CallFailure
from lb.rpc.connection import RpcConnection
from lb.rpc.contract import ChatMessages

CHAT = RPC_CHAT
REFLECTION = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"

#: Neither goes to workers as it is, and the first may ask any model.
_ROUTES = {path: Route(path, frozenset({"POST"}), asks="", direct=False) for path in (CHAT, REFLECTION)}

#: The services by name.
SERVED = (contract.SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)

#: From `RpcListener.find`.
Find = Callable[[str], RpcConnection | None]


class Callers:
    """Who calls: ``find`` tells by the address of a call over which connection it came."""

    def __init__(self, service: Service, find: Find) -> None:
        self.service, self._find = service, find

    async def call(self, context: Any) -> tuple[RpcCall, RpcConnection]:
        """`over` follows. Ends one that came past us."""
        connection = self._find(context.peer())
        if connection is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this is no way in")
        assert connection is not None
        call = RpcCall(self.service, connection.peer, connection.cut)
        connection.began(call)
        return call, connection

    @contextmanager
    def over(self, call: RpcCall, connection: RpcConnection) -> Iterator[None]:
        try:
            yield
        finally:
            call.leave()
            connection.over(call)

    def admit(self, call: RpcCall, path: str, context: Any) -> None:
        """Raises ProxyError."""
        call.admit(metadata.head(path, context.invocation_metadata(), context.time_remaining()), _ROUTES[path])


class ChatService:
    """`InternalChat`."""

    def __init__(self, callers: Callers, messages: ChatMessages) -> None:
        self._callers, self._messages = callers, messages

    def handler(self) -> Any:
        """Its one message is read once its caller is let in: so it is a stream for whoever reads it."""
        method = grpc.stream_stream_rpc_method_handler(self.stream_chat)
        return grpc.method_handlers_generic_handler(contract.SERVICE, {contract.METHOD: method})

    async def stream_chat(self, _: Any, context: Any) -> None:
        call, connection = await self._callers.call(context)
        with self._callers.over(call, connection):
            try:
                self._callers.admit(call, CHAT, context)
                call.begin(self._messages.body(await self._message(context)))
            except ProxyError as error:
                call.refuse(error)
            await self._answer(call, context)

    async def _message(self, context: Any) -> bytes:
        """Raises ProxyError (400, 408)."""
        limit = self._callers.service.admission.limits.body
        try:
            async with patience(limit):
                data = await context.read()
        except TimeoutError:
            raise ProxyError(408, f"no message came for {limit:g} s") from None
        if not isinstance(data, bytes):
            raise ProxyError(400, "a message is needed")
        return data

    async def _answer(self, call: RpcCall, context: Any) -> None:
        began = False
        while (delta := await call.next()) is not None:
            if not began:
                began = True
                await context.send_initial_metadata(tuple(call.fields))
            await context.write(self._messages.write(delta.text, finished=delta.finished))
            call.sent(delta)
        if call.failure is not None:
            await _fail(context, call.failure)


async def _fail(context: Any, failure: CallFailure) -> None:
    await context.abort(grpc.StatusCode[failure.code], failure.message, failure.trailers)


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """``serves()``: whether there is a worker that takes requests; ``changes`` tells when that may have changed. For
    everybody, as `/health` is. The library's own lets one that watches and takes nothing hold up all others."""

    def __init__(self, serves: Callable[[], bool], changes: Notifier) -> None:
        self._serves, self._changes = serves, changes
        self._closing = False

    def close(self) -> None:
        """Another process serves from now on."""
        self._closing = True
        self._changes.notify()

    async def Check(self, request: Any, context: Any) -> Any:
        if (status := self._status(request.service)) == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> None:
        told = None
        while True:
            change = self._changes.next()
            if (status := self._status(request.service)) != told:
                told = status
                await context.write(health_pb2.HealthCheckResponse(status=status))
            await change

    def _status(self, service: str) -> Any:
        statuses = health_pb2.HealthCheckResponse
        if service not in ("", contract.SERVICE):
            return statuses.SERVICE_UNKNOWN
        return statuses.SERVING if self._serves() and not self._closing else statuses.NOT_SERVING


class ReflectionService(aio.ReflectionServicer):  # type: ignore[misc]
    """Of what is served, for whoever may call it."""

    def __init__(self, callers: Callers, messages: ChatMessages) -> None:
        for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            messages.pool.AddSerializedFile(file.serialized_pb)
        super().__init__(SERVED, pool=messages.pool)
        self._callers = callers

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        call, connection = await self._callers.call(context)
        with self._callers.over(call, connection):
            try:
                self._callers.admit(call, REFLECTION, context)
            except ProxyError as error:
                call.refuse(error)
                assert call.failure is not None
                await _fail(context, call.failure)
            async for answer in super().ServerReflectionInfo(requests, context):
                yield answer
