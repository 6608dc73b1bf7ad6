"""What can be called: the chat, the health of the cluster (grpc.health.v1), and what there is (reflection)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from config.aio import patience
from lb.downstream.service import Service
from lb.protocol.errors import ProxyError
from lb.protocol.routes import RPC_CHAT, Route
from lb.routing.notifier import Notifier
from lb.rpc import codes, contract, metadata
from lb.rpc.call import RpcCall
from lb.rpc.codes import CallFailure
from lb.rpc.connection import RpcConnection
from lb.rpc.contract import ChatMessages

CHAT = RPC_CHAT
REFLECTION = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"

#: Neither goes to workers as it is, and the first may ask any model.
_ROUTES = {path: Route(path, frozenset({"POST"}), asks="", direct=False) for path in (CHAT, REFLECTION)}

#: The services by name.
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
SERVED = (contract.SERVICE, HEALTH, reflection.SERVICE_NAME)

Status = health_pb2.HealthCheckResponse

#: From `RpcListener.find`.
Find = Callable[[str], RpcConnection | None]


class Callers:
    """Who calls: ``find`` tells by the address of a call over which connection it came."""

    def __init__(self, service: Service, find: Find) -> None:
        self.service, self._find = service, find

    async def connection(self, context: Any) -> RpcConnection:
        """Ends a call that came past us."""
        connection = self._find(context.peer())
        if connection is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this is no way in")
        assert connection is not None
        return connection

    async def call(self, context: Any) -> tuple[RpcCall, RpcConnection]:
        """`over` follows."""
        connection = await self.connection(context)
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

    @asynccontextmanager
    async def counted(self, context: Any) -> AsyncIterator[None]:
        """For a call that asks nobody anything, and may stay: it takes the place of a connection, as any other does."""
        crowd, origin = self.service.admission.crowd, (await self.connection(context)).peer.origin
        if (error := crowd.enter(origin)) is not None:
            await _fail(context, codes.refusal(error))
        try:
            yield
        finally:
            crowd.leave(origin)

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
            with suppress(grpc.aio.InternalError):  # its caller has gone, in the middle of a chunk
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


def _read(kind: Any, data: bytes) -> Any:
    """A message of the ``kind``. Raises ProxyError (400): the library would write what strangers send into the log."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise ProxyError(400, f"the message is no {kind.DESCRIPTOR.name}") from None


class HealthService:
    """``serves()``: whether there is a worker that takes requests; ``changes`` tells when that may have changed. For
    everybody, as `/health` is. The library's own lets one that watches and takes nothing hold up all others."""

    def __init__(self, callers: Callers, serves: Callable[[], bool], changes: Notifier) -> None:
        self._callers, self._serves, self._changes = callers, serves, changes
        self._closing = False

    def handler(self) -> Any:
        write = health_pb2.HealthCheckResponse.SerializeToString
        return grpc.method_handlers_generic_handler(HEALTH, {
            "Check": grpc.unary_unary_rpc_method_handler(self.check, response_serializer=write),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch, response_serializer=write),
        })

    def close(self) -> None:
        """Another process serves from now on."""
        self._closing = True
        self._changes.notify()

    async def check(self, data: bytes, context: Any) -> Any:
        if (status := self._status(await self._service(data, context))) == Status.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, data: bytes, context: Any) -> None:
        service, told = await self._service(data, context), None
        async with self._callers.counted(context):
            while True:
                change = self._changes.next()
                if (status := self._status(service)) != told:
                    told = status
                    try:
                        await context.write(health_pb2.HealthCheckResponse(status=status))
                    except grpc.aio.InternalError:
                        return  # its caller has gone
                await change

    async def _service(self, data: bytes, context: Any) -> str:
        try:
            return str(_read(health_pb2.HealthCheckRequest, data).service)
        except ProxyError as error:
            await _fail(context, codes.refusal(error))
            raise

    def _status(self, service: str) -> Any:
        if service not in ("", contract.SERVICE):
            return Status.SERVICE_UNKNOWN
        return Status.SERVING if self._serves() and not self._closing else Status.NOT_SERVING


class ReflectionService:
    """Of what is served, for whoever may call it."""

    def __init__(self, callers: Callers, messages: ChatMessages) -> None:
        for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            messages.pool.AddSerializedFile(file.serialized_pb)
        self._callers, self._library = callers, aio.ReflectionServicer(SERVED, pool=messages.pool)

    def handler(self) -> Any:
        method = grpc.stream_stream_rpc_method_handler(
            self.describe, response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": method})

    async def describe(self, asked: AsyncIterator[bytes], context: Any) -> None:
        """As long as a connection may be idle: whoever asks does so at once."""
        call, connection = await self._callers.call(context)
        with self._callers.over(call, connection):
            try:
                self._callers.admit(call, REFLECTION, context)
                questions = (_read(reflection_pb2.ServerReflectionRequest, data) async for data in asked)
                with suppress(grpc.aio.InternalError, TimeoutError):
                    async with patience(self._callers.service.admission.limits.idle):
                        async for answer in self._library.ServerReflectionInfo(questions, context):
                            await context.write(answer)
            except ProxyError as error:
                call.refuse(error)
                assert call.failure is not None
                await _fail(context, call.failure)
