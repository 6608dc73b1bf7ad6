"""What a client's connection and those who serve it know of each other: a request, and what becomes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from config.identity.principal import Principal
from lb.protocol import body
from lb.protocol.errors import ProxyError
from lb.protocol.facts import Facts
from lb.protocol.http1.request import RequestHead
from lb.protocol.tenant import ANYBODY, Tenant


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


class Downstream(Protocol):
    """A client's connection, for whoever answers its request. ``close_after``: it ends with this answer. ``full``: its
    client does not read what it is sent."""

    close_after: bool

    @property
    def write(self) -> Callable[[bytes], None]: ...
    @property
    def full(self) -> bool: ...
    def closes_after_this(self) -> bool:
        """Whether the connection ends with the answer under way."""

    def done(self) -> None:
        """The answer is complete."""

    def refuse(self, error: ProxyError) -> None:
        """Answers with an error, in the shape of the API that was asked."""

    def close(self) -> None:
        """After what was written."""

    def cut(self) -> None:
        """At once, so that what was sent cannot be taken for complete."""

    def become_tunnel(self) -> None: ...
    def hold_upload(self, hold: bool) -> None:
        """Stops reading the body while whoever takes it cannot keep up."""


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


@dataclass(frozen=True, slots=True)
class Grant:
    """What an answer to one origin says besides. ``fields``: names and values."""

    fields: tuple[tuple[str, str], ...] = ()

    @property
    def lines(self) -> list[str]:
        """For an answer that is our own."""
        return [*(f"{name}: {value}" for name, value in self.fields), "Vary: Origin"]

    def applied(self, kept: Sequence[bytes]) -> list[bytes]:
        """The field lines ``kept`` of a backend's answer, with ours in place of its own."""
        lines, vary = [], []
        for line in kept:
            name, _, value = line.partition(b":")
            low = name.lower()
            if low == b"vary":
                vary += [each.strip(b" \t") for each in value.split(b",")]
            elif not low.startswith(b"access-control-"):
                lines.append(line)
        if not any(each.lower() in (b"origin", b"*") for each in vary):
            vary.append(b"Origin")
        lines.append(b"Vary: " + b", ".join(each for each in vary if each))
        return lines + [f"{name}: {value}".encode() for name, value in self.fields]


@dataclass(slots=True)
class Upload:
    """A body too large to be one piece: what has come of it and not been taken yet. ``kept``: all of it was there
    before any of it was sent, and stays, so that it can be sent again. ``length``: in bytes, None where only its end
    will tell."""

    pieces: deque[bytes] = field(default_factory=deque)
    complete: bool = False
    kept: bool = False
    length: int | None = None


@dataclass
class Request:
    """``peer``: the client's address. ``body`` is whole, unless there is an ``upload``; then it is what the upload
    begins with. ``facts``: what is known of it, if somebody has looked already. ``principal``: who asks, of a request
    for the management API; ``tenant``: of one for models. ``grant``: what its answer says to another origin;
    ``told``: what it says of its tenant's rates, field lines behind a CRLF each."""

    head: RequestHead
    peer: str
    # Not set with each request: most are over without the others.
    id: str = field(default="", init=False)
    body: bytes = field(default=b"", init=False)
    upload: Upload | None = field(default=None, init=False)
    facts: Facts | None = field(default=None, init=False)
    principal: Principal | None = field(default=None, init=False)
    tenant: Tenant = field(default=ANYBODY, init=False)
    grant: Grant | None = field(default=None, init=False)
    told: bytes = field(default=b"", init=False)

    @property
    def prompt_bytes(self) -> int:
        """Bytes that are its prompt, about; of a form most are none."""
        if self.upload is None and self.head.content_type == "application/json":
            return len(self.body)
        return 0 if body.is_form(self.head.content_type) else self.length or 0

    @property
    def length(self) -> int | None:
        """Bytes of the body; None where only its end will tell."""
        return len(self.body) if self.upload is None else self.upload.length

    @property
    def repeatable(self) -> bool:
        """Whether all of it can be sent once more."""
        return self.upload is None or self.upload.kept

    def add(self, member: bytes) -> None:
        """Writes ``member`` (name and value) at the end of its body, where it goes before any other of its name. What
        is no JSON object stays as it is: no worker takes it."""
        body = self.body if self.upload is None else b"".join(self.upload.pieces)
        start = body.rstrip()
        if not start.endswith(b"}"):
            return
        start = start[:-1].rstrip()
        made = b"%b%b%b}" % (start, b"" if start.endswith(b"{") else b",", member)
        self.body = made
        if self.upload is not None:
            self.upload.pieces, self.upload.length = deque([made]), len(made)

    def renamed(self, model: str) -> bytes:
        """Its body, or what has come of it, with ``model`` wherever it names one; all else as it is. Raises ProxyError
        (400)."""
        return b"".join(self._renamed(model))

    def _renamed(self, model: str) -> list[bytes]:
        kind = self.head.content_type
        names = self.facts.names if self.facts is not None else None
        names = names or body.names(self.body, kind)
        pieces = [self.body] if self.upload is None else self.upload.pieces
        return body.with_model(pieces, names, model, form=body.is_form(kind))

    def rename(self, model: str) -> None:
        """Writes ``model`` wherever its body names one; all else stays as it is. Raises ProxyError (400)."""
        before = 0 if self.upload is None else sum(map(len, self.upload.pieces))
        written = self._renamed(model)
        if self.upload is None:
            self.body = b"".join(written)
            return
        self.upload.pieces, self.body = deque(written), written[0]
        if self.upload.length is not None:
            self.upload.length += sum(map(len, written)) - before
