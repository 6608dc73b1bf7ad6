"""What the connections of clients and the server that took them in know of each other."""

from __future__ import annotations

from typing import Protocol

from lb.admission.allowance import Admission
from lb.protocol.body import Scan
from lb.protocol.errors import ProxyError
from lb.protocol.http1.request import RequestHead
from lb.protocol.messages import Downstream, Exchange, Request


class PeerView(Protocol):
    """Who is at the other end, where a request came to, and what the address is counted as; `lb.downstream.peer`."""

    address: str
    local: str
    origin: str

    def uid(self) -> int | None: ...


class Client(Protocol):
    """One connection. ``peer``: who is at the other end. ``request``: what is being read or answered, once its head is
    understood; ``exchange``: what is being answered. ``unwanted``: it is one too many, and what is answered to all but
    a few requests."""

    @property
    def peer(self) -> PeerView: ...
    @property
    def exchange(self) -> Exchange | None: ...
    @property
    def request(self) -> Request | None: ...
    @property
    def unwanted(self) -> ProxyError | None: ...

    def check(self, now: float) -> None:
        """Ends what takes too long (s, monotonic). Called now and then."""

    def end(self, reason: str | None = None) -> None:
        """The balancer is going."""

    def cut_off(self) -> None:
        """The client has gone."""

    def cut(self) -> None:
        """At once, so that what was sent cannot be taken for complete."""


class Service(Protocol):
    """What a connection of a client serves."""

    admission: Admission
    closing: bool

    def opened(self, connection: Client) -> ProxyError | None:
        """What to answer if there is no room for one more."""

    def keep_place(self, connection: Client) -> bool:
        """Whether one that is one too many may say what it wants: management is answered all the same."""

    def answers_anyway(self, head: RequestHead) -> bool:
        """Whether a request is answered although there is no room."""

    def slow_reader(self, connection: Client) -> None:
        """It is cut off."""

    def closed(self, connection: Client) -> None: ...
    def admit(self, request: Request, connection: Client) -> str:
        """Before the body is read; the request's id. Raises ProxyError, and Answered."""

    def exchange(self, client: Downstream, request: Request) -> Exchange: ...
    def scan(self, request: Request) -> Scan | None:
        """Reads the body that follows its head; None where nobody wants to know what it says. Raises ProxyError."""

    def may_stream(self, head: RequestHead, scan: Scan | None) -> bool:
        """Whether enough is known of a long body to pass it on while it comes."""

    def identify(self, head: RequestHead | None) -> str:
        """The id of a request, also of one that is not admitted, or not understood."""

    def refused(self, error: ProxyError, connection: Client, id: str) -> None: ...
