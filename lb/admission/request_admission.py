"""What a request and its admission know of each other, on its way to a worker."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from config.identity.api_keys import Priority
from lb.admission.concurrency import Claim
from lb.protocol.errors import ProxyError
from lb.protocol.messages import Request
from lb.protocol.tenant import Tenant
from lb.routing.backend import Backend
from lb.routing.router import Pinned
from lb.routing.strategies.base import RequestInfo


class Applicant(Protocol):
    """Of one that waits, one of the first two is called, once, unless it has left."""

    def granted(self, backend: Backend) -> None:
        """A lease is to be taken on it before this returns."""

    def refused(self, error: ProxyError) -> None: ...
    def patience(self) -> float | None:
        """How long (s) its client waits; None: as long as may be."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in the queue. ``came``, ``deadline`` (of its client): s, monotonic."""

    claim: Claim
    info: RequestInfo
    excluded: frozenset[str]
    pinned: Pinned | None
    came: float
    deadline: float
    applicant: Applicant
    again: bool = False
    timer: asyncio.TimerHandle | None = None
    #: Since when nobody has been there that could take it, as far as was looked; `inf` while somebody is.
    alone_since: float = math.inf
    number: int = 0
    ahead: int = 0
    passed: int = 0

    @property
    def tenant(self) -> Tenant:
        return self.claim.tenant

    @property
    def priority(self) -> Priority:
        return self.claim.priority

    @property
    def cost(self) -> float:
        return 0.0 if self.claim.charged else self.claim.cost

    @property
    def kind(self) -> tuple[str | None, str | None, Pinned | None]:
        return self.info.model, self.info.root, self.pinned


class RequestAdmission(Protocol):
    """What a request needs on its way to a worker."""

    def claim(self, request: Request, model: str | None) -> Claim:
        """What ``request`` takes, for all of its attempts. Raises ProxyError (429) beyond a rate of its tenant."""

    def admit(
        self, claim: Claim, info: RequestInfo, excluded: frozenset[str], pinned: Pinned | None, came: float,
        applicant: Applicant, *, again: bool = False,
    ) -> Backend | Ticket:
        """A backend for the request that came then (s, monotonic), or its place among those that wait. ``excluded``
        are asked only if there is nobody else; ``pinned`` is the only one that can answer. ``again``: it had a worker
        before, and goes before all that had none. Raises ProxyError where waiting is of no use."""

    def leave(self, ticket: Ticket) -> None:
        """Its request is over. May be called again, and after it was served."""

    def over(self, claim: Claim, prompt: int | None, made: int) -> None:
        """Nothing of its request runs any more; its tokens, as far as they were counted. May be called again."""

    async def wait(
        self, claim: Claim, info: RequestInfo, excluded: frozenset[str], came: float
    ) -> Backend:
        """`admit` of one that had a worker before, for those that have something to wait with. Raises ProxyError."""

    def close(self) -> None:
        """Nobody is served any more."""


class QueueMetrics(Protocol):
    """What is counted of the queue. Times are s."""

    def queued(self, model: str | None, change: int) -> None:
        """So many more wait for it, or fewer."""

    def waited(self, tenant: str, seconds: float, absent: str | None) -> None:
        """One was served. ``absent``: the model that was not up when it came."""

    def dropped(self, tenant: str, reason: str) -> None:
        """One was not: ``full``, ``deadline``, ``timeout``, ``refused`` or ``left``."""


class Wants(Protocol):
    """Hears what requests wait for, again as long as one does."""

    def want(self, adapter: str) -> None:
        """Nobody holds it."""

    def want_model(self, name: str) -> None:
        """It is not up."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """``timeout``: how long (s) one waits for a worker to be there at all; ``patience``: for room on those that are;
    ``most``: how many wait. ``wall``: s since the epoch."""

    timeout: float
    patience: float = 600.0
    most: int = 10_000
    wall: Callable[[], float] = time.time
