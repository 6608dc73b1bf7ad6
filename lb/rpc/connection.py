"""A client's connection, its bytes passed on to the gRPC server of this process.

That one cannot take over a socket that is there, tell its clients to go elsewhere before it stops to listen, or leave
TLS to others. All of it is done here, in front of it, as for HTTP (decision 42).
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol, cast

from lb.downstream.peer import Peer
from lb.downstream.service import Service
from lb.protocol.errors import ProxyError
from lb.protocol.messages import Exchange, Request
from lb.rpc.call import RpcCall
from lb.rpc.frames import GOAWAY, FrameReader

#: What uvloop reads at once: so much may follow after reading has been paused.
_ONE_READ = 256_000


class RpcPort(Protocol):
    """What took a connection in."""

    def opened(self, connection: RpcConnection) -> None: ...
    def pass_on(self, connection: RpcConnection) -> None:
        """Its client has begun to speak; `RpcConnection.connected` or `ended` follows."""

    def closed(self, connection: RpcConnection) -> None: ...


class RpcConnection(asyncio.Protocol):
    """``calls``: those under way on it. Its requests are its calls, each with an exchange of its own
    (`lb.downstream.service.Client`)."""

    exchange: Exchange | None = None
    request: Request | None = None

    peer: Peer
    _transport: asyncio.Transport

    def __init__(self, service: Service, port: RpcPort) -> None:
        self._service, self._port = service, port
        self.calls: set[RpcCall] = set()
        self.unwanted: ProxyError | None = None
        self._behind: asyncio.Transport | None = None
        self._early: list[bytes] | None = []  # what came before there was somebody to pass it on to
        self._frames = FrameReader()
        self._goes = self._told = False
        self._since = monotonic()

    # from the client's side of it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are of no asyncio class
        crowd, limits = self._service.admission.crowd, self._service.admission.limits
        transport.set_write_buffer_limits(high=max(0, limits.buffer - _ONE_READ))
        self.peer = Peer(transport, crowd.origin)
        self.unwanted = self._service.opened(self)
        if self.unwanted is None:
            self.unwanted = crowd.enter(self.peer.origin)  # once more: it takes as many open files as two
            if self.unwanted is not None:
                crowd.leave(self.peer.origin)
        if self.unwanted is None:
            self._port.opened(self)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._behind is not None:
            self._behind.abort()
        if self.unwanted is None:
            self._service.admission.crowd.leave(self.peer.origin)
        self._service.closed(self)
        self._port.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._behind is not None:
            self._behind.write(data)
        elif self._early is not None and self.unwanted is None:
            # Not sooner: what is behind speaks at once, and over TLS nobody could hear it before the handshake.
            if not self._early:
                self._port.pass_on(self)
            self._early.append(data)
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.peer.stops_reading(self._service.admission.limits, monotonic())
        if self._behind is not None:
            self._behind.pause_reading()

    def resume_writing(self) -> None:
        self.peer.reads_again()
        if self._behind is not None and not self._behind.is_closing():
            self._behind.resume_reading()

    # from the server behind

    def connected(self, behind: asyncio.Transport) -> None:
        if self._transport.is_closing():
            behind.abort()
            return
        self._behind, early, self._early = behind, self._early, None
        behind.write(b"".join(early or ()))
        self._transport.resume_reading()

    def answered(self, data: bytes) -> None:
        at = self._frames.feed(data)
        if self._goes and not self._told and at is not None:
            self._told = True
            data = data[:at] + GOAWAY + data[at:]
        self._transport.write(data)

    def hold(self, held: bool) -> None:
        """What is behind takes nothing more for now, or does again."""
        if not self._transport.is_closing():
            self._transport.pause_reading() if held else self._transport.resume_reading()

    def ended(self) -> None:
        """What is behind has closed its end, or could not be reached."""
        if not self._transport.is_closing():
            self._transport.close()

    # for the server

    def go_away(self) -> None:
        """Its client is to make another connection for new calls; those that are under way go on, and it ends with the
        last of them."""
        if self._goes:
            return
        self._goes, self._since = True, monotonic()
        if self._frames.between:
            self._told = True
            self._transport.write(GOAWAY)

    def began(self, call: RpcCall) -> None:
        self.calls.add(call)

    def over(self, call: RpcCall) -> None:
        self.calls.discard(call)
        self._since = monotonic()

    def check(self, now: float) -> None:
        limits, waited = self._service.admission.limits, now - self._since
        if self.peer.is_too_slow(now):
            self._service.slow_reader(self)
            self.cut()
        elif self._early is not None and waited > limits.head:
            self.cut()
        elif self._goes and not self.calls and waited > limits.linger:
            self.ended()

    def end(self, reason: str | None = None) -> None:
        self.go_away()
        if not self.calls:
            self.ended()

    def cut_off(self) -> None:
        self.cut()

    def cut(self) -> None:
        self._transport.abort()


class Behind(asyncio.Protocol):
    """The other side of a connection: the bytes of the server of this process."""

    def __init__(self, front: RpcConnection) -> None:
        self._front = front

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._front.connected(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._front.answered(data)

    def pause_writing(self) -> None:
        self._front.hold(True)

    def resume_writing(self) -> None:
        self._front.hold(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.ended()
