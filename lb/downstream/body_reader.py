"""The body of one request that did not come with its head: read as it comes, and begun with as soon as may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from lb.admission.allowance import Allowance
from lb.downstream.intake import BodyIntake, SmallBody
from lb.downstream.read_gate import ReadGate
from lb.protocol.body import Scan
from lb.protocol.errors import ProxyError
from lb.protocol.facts import Facts
from lb.protocol.http1.request import Malformed, RequestHead
from lb.protocol.messages import Exchange, Request, Upload


class Owner(Protocol):
    """The connection. ``body``: what reads the one that is still wanted; ``exchange``: what answers its request."""

    body: BodyReader | None
    exchange: Exchange | None

    def body_is_read(self, rest: bytes) -> None:
        """All of it is there; ``rest`` came behind it."""

    def begin(self, request: Request, body: bytes) -> None:
        """With the whole of it, or with its first piece and the request's upload."""

    def reject(self, error: Malformed | ProxyError) -> None: ...


class BodyReader:
    """Of ``request``. ``collect``: bytes up to which a body is put together; ``may_stream``: whether a longer one may
    be begun with before it is complete."""

    __slots__ = ("_allowance", "_collect", "_intake", "_may_stream", "_owner", "_reading", "_request")

    def __init__(
        self, owner: Owner, request: Request, intake: BodyIntake | SmallBody, allowance: Allowance, reading: ReadGate,
        collect: int, may_stream: Callable[[RequestHead, Scan | None], bool],
    ) -> None:
        self._owner, self._request, self._intake = owner, request, intake
        self._allowance, self._reading, self._collect, self._may_stream = allowance, reading, collect, may_stream

    @property
    def progress(self) -> int:
        """Bytes that have been read."""
        return self._intake.size

    @property
    def missing(self) -> int:
        """Bytes that have to come yet, as far as that is known."""
        return self._intake.missing

    def take(self, data: bytes) -> None:
        """More of it."""
        if self._request.upload is None and not self._allowance.came(len(data), monotonic()):
            self._reading.pause()
        self._intake.add(data)
        self.read()

    def read(self) -> None:
        """What there is of it, for a millisecond; the rest of it after the others' turn."""
        if self._owner.body is not self:
            return  # given up meanwhile
        intake, request, reading = self._intake, self._request, self._reading
        try:
            is_read = intake.read()
        except (Malformed, ProxyError) as error:
            self._owner.reject(error)
            return
        if not is_read:
            reading.busy = True
            reading.pause()
            asyncio.get_running_loop().call_soon(self.read)
            return
        reading.busy = False
        if intake.complete:
            self._allowance.complete()
            self._owner.body_is_read(intake.rest)
        if request.upload is not None:
            request.upload.pieces += intake.take()
            request.upload.complete = intake.complete
            if self._owner.exchange is not None:
                self._owner.exchange.more()
        elif intake.complete:
            self._begin()
        elif intake.size > self._collect and self._may_stream(request.head, intake.scan):
            reading.held = True  # until somebody takes it
            reading.pause()
            self._allowance.passed_on()
            self._begin()
        if not reading.held:
            reading.resume()

    def _begin(self) -> None:
        """With a body that is complete, or that goes on as it comes."""
        intake, request = self._intake, self._request
        names = None if intake.scan is None else intake.scan.names
        request.facts = intake.facts or (None if names is None else Facts(names.name, names=names))
        pieces = intake.take()
        if isinstance(intake, SmallBody) or (intake.complete and intake.size <= self._collect):
            self._owner.begin(request, b"".join(pieces))
            return
        length = intake.size if intake.complete else request.head.length
        request.upload = Upload(pieces, intake.complete, intake.complete, length)
        self._owner.begin(request, pieces[0])
