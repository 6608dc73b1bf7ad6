"""What a client's connection and those who serve it know of each other: a request, and what becomes of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from config.principal import Principal
from lb.downstream.cors import Grant
from lb.protocol import body
from lb.protocol.body import Scan
from lb.protocol.errors import ProxyError
from lb.protocol.facts import Facts
from lb.protocol.http1.request import RequestHead

if TYPE_CHECKING:
    from lb.admission.allowance import Admission
    from lb.downstream.connection import ClientConnection


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes and seconds. ``buffer``: of an answer that its client does not read; ``head``: for a head to be complete
    once a connection is open; ``body``: between two pieces of a body; ``send``: in which a client that has not taken
    all of an answer has to take more; ``rate``: bytes a second that one has to send of a body, or take of an answer,
    over that time; ``wait``: for memory; ``idle``: between two requests; ``linger``: for a client to hear the answer
    before its connection is reset under what it still sends. ``reserve``: connections beyond the most, for management
    and health; ``reserve_head``: as ``head``, for them."""

    max_body: int = 64 * 1024 * 1024
    collect: int = 1024 * 1024
    buffer: int = 256 * 1024
    connections: int = 10_000
    reserve: int = 64
    reserve_head: float = 2.0
    head: float = 10.0
    body: float = 60.0
    send: float = 60.0
    rate: float = 500.0
    wait: float = 30.0
    idle: float = 75.0
    linger: float = 2.0


class Exchange(Protocol):
    """What becomes of one request."""

    def start(self) -> None:
        """Raises ProxyError where there is nothing to be asked."""

    def client_gone(self) -> None: ...
    def client_writable(self, writable: bool) -> None: ...
    def more(self) -> None:
        """There is more in the request's `Upload`."""

    def tunnelled(self, data: bytes) -> None: ...
    def cut(self, reason: str) -> None:
        """It has to end now."""

    def check(self, now: float) -> None:
        """Called now and then (s, monotonic), to end what takes too long."""

    @property
    def began(self) -> bool:
        """Whether bytes of an answer have gone out."""

    @property
    def is_between_chunks(self) -> bool:
        """Whether those that have end with a chunk, and another one follows."""


@dataclass(slots=True)
class Upload:
    """A body too large to be one piece: what has come of it and not been taken yet. ``kept``: all of it was there
    before any of it was sent, and stays, so that it can be sent again. ``length``: in bytes, None where only its end
    will tell."""

    pieces: deque[bytes] = field(default_factory=deque)
    complete: bool = False
    kept: bool = False
    length: int | None = None


@dataclass(slots=True)
class Request:
    """``body`` is whole, unless there is an ``upload``; then it is what the upload begins with. ``facts``: what is
    known of it, if somebody has looked already. ``principal``: who asks, of a request for the management API.
    ``grant``: what its answer says to another origin."""

    head: RequestHead
    body: bytes
    peer: str
    local: str
    id: str
    upload: Upload | None = None
    facts: Facts | None = None
    principal: Principal | None = None
    grant: Grant | None = None

    @property
    def length(self) -> int | None:
        """Bytes of the body; None where only its end will tell."""
        return len(self.body) if self.upload is None else self.upload.length

    @property
    def again(self) -> bool:
        """Whether all of it can be sent once more."""
        return self.upload is None or self.upload.kept

    def rename(self, model: str) -> None:
        """Writes ``model`` wherever its body names one; all else stays as it is. Raises ProxyError (400)."""
        kind = self.head.content_type
        names = self.facts.names if self.facts is not None else None
        names = names or body.names(self.body, kind)
        pieces = [self.body] if self.upload is None else self.upload.pieces
        before = sum(map(len, pieces))
        written = body.with_model(pieces, names, model, form=body.is_form(kind))
        if self.upload is None:
            self.body = b"".join(written)
            return
        self.upload.pieces, self.body = deque(written), written[0]
        if self.upload.length is not None:
            self.upload.length += sum(map(len, written)) - before


class Service(Protocol):
    """What a `ClientConnection` serves."""

    admission: Admission
    closing: bool

    def opened(self, connection: ClientConnection) -> ProxyError | None:
        """What to answer if there is no room for one more."""

    def keep_place(self, connection: ClientConnection) -> bool:
        """Whether one that is one too many may say what it wants: management is answered all the same."""

    def preflight(self, head: RequestHead) -> tuple[int, str, dict[str, str]] | None:
        """Status, text and headers of the answer to a browser that asks what another origin may do."""

    def answers_anyway(self, head: RequestHead) -> bool:
        """Whether a request is answered although there is no room."""

    def slow_reader(self, connection: ClientConnection) -> None:
        """It is cut off."""

    def closed(self, connection: ClientConnection) -> None: ...
    def admit(self, request: Request, connection: ClientConnection) -> str:
        """Before the body is read; the request's id. Raises ProxyError."""

    def exchange(self, client: ClientConnection, request: Request) -> Exchange: ...
    def scan(self, head: RequestHead) -> Scan | None:
        """Reads the body that follows this head; None where nobody wants to know what it says. Raises ProxyError."""

    def may_stream(self, head: RequestHead, scan: Scan | None) -> bool:
        """Whether enough is known of a long body to pass it on while it comes."""

    def identify(self, head: RequestHead | None) -> str:
        """The id of a request, also of one that is not admitted, or not understood."""

    def refused(self, error: ProxyError, connection: ClientConnection, id: str) -> None: ...
