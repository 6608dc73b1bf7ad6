"""A queue in front of a pool that a test fills, and requests that take what they are granted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from random import Random

from config.topology import BackendSpec
from lb.admission.concurrency import FREE, Claim, Concurrency, ConcurrencyLimits, SharedCount
from lb.admission.queue import WaitingQueue
from lb.admission.rate_limits import RateLimits
from lb.admission.request_admission import QueueLimits, RequestAdmission, Ticket
from lb.protocol.errors import ProxyError
from lb.protocol.http1.request import RequestHead, parse
from lb.protocol.messages import Request
from lb.protocol.tenant import ANYBODY, Tenant
from lb.routing.backend import Backend, Lease
from lb.routing.pool import Pool
from lb.routing.router import Pinned, Router
from lb.routing.strategies.base import RequestInfo
from lbfakes import backend_set

TIMEOUT_S = 30.0

KEY, OTHER = Tenant("key", max_concurrent=2), Tenant("other")


@dataclass
class Asker:
    """One request: takes a lease on what it is granted."""

    name: int
    served: list[Asker]
    leases: list[Lease] = field(default_factory=list)
    error: ProxyError | None = None
    fails: bool = False
    wait: float | None = None
    claim: Claim = FREE
    model: str | None = None

    def granted(self, backend: Backend) -> None:
        if self.fails:
            self.fails = False
            raise RuntimeError("a mistake")
        self.served.append(self)
        self.leases.append(backend.lease(lambda reason: None, model=self.model))

    def refused(self, error: ProxyError) -> None:
        self.error = error

    def patience(self) -> float | None:
        return self.wait

    def end(self, house: House, made: int = 10) -> None:
        """Its answer is complete."""
        self.leases[0].release()
        house.admission.over(self.claim, 100, made)


@dataclass
class Heard:
    """What is counted of a queue."""

    waiting: Counter[str | None]
    waits: list[tuple[str, float]] = field(default_factory=list)
    drops: Counter[tuple[str, str]] = field(default_factory=Counter)
    absent: list[str | None] = field(default_factory=list)

    def queued(self, model: str | None, change: int) -> None:
        self.waiting.update({model: change})

    def waited(self, tenant: str, seconds: float, absent: str | None) -> None:
        self.waits.append((tenant, seconds))
        self.absent.append(absent)

    def dropped(self, tenant: str, reason: str) -> None:
        self.drops[tenant, reason] += 1


@dataclass
class Wanted:
    """What the supervisor is told that somebody waits for."""

    adapters: list[str]
    models: list[str]

    def want(self, adapter: str) -> None:
        self.adapters.append(adapter)

    def want_model(self, name: str) -> None:
        self.models.append(name)


HEAD = parse(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n")
BACKGROUND = parse(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nPriority: u=7\r\n\r\n")


@dataclass
class House:
    """An admission over a pool that a test fills."""

    pool: Pool
    admission: RequestAdmission
    router: Router
    heard: Heard
    wanted: Wanted
    served: list[Asker] = field(default_factory=list)
    revision: int = 0

    @property
    def waiting(self) -> Counter[str | None]:
        return self.heard.waiting

    def push(self, *specs: BackendSpec, **fields: object) -> None:
        self.revision += 1
        assert self.pool.apply(backend_set(*specs, revision=self.revision, **fields))

    def ask(
        self, name: int = 0, model: str | None = "base", pinned: Pinned | None = None, came: float | None = None,
        fails: bool = False, tenant: Tenant = ANYBODY, wait: float | None = None,
        head: RequestHead = HEAD,
    ) -> tuple[Asker, Ticket | None]:
        request = Request(head, "10.0.0.9")
        request.body, request.tenant = b"x" * 400, tenant
        claim = self.admission.claim(request, model)
        asker = Asker(name, self.served, fails=fails, wait=wait, claim=claim, model=model)
        came = time.monotonic() if came is None else came
        found = self.admission.admit(claim, RequestInfo(model), frozenset(), pinned, came, asker)
        if isinstance(found, Ticket):
            return asker, found
        asker.granted(found)
        return asker, None


@contextlib.asynccontextmanager
async def open_house(
    queue_class: type[WaitingQueue] = WaitingQueue, limits: ConcurrencyLimits | None = None,
    queue_limits: QueueLimits | None = None, share: Callable[[str], SharedCount | None] = lambda name: None,
    rates: RateLimits | None = None,
) -> AsyncIterator[House]:
    def changed() -> None:
        router.pool_changed()
        queue.serve_soon()

    heard, wanted = Heard(Counter()), Wanted([], [])
    pool = Pool(changed, on_room=lambda: queue.serve_soon(room=True))
    router = Router(pool, lambda version, named: named, time.monotonic, Random(1))
    queue = queue_class(
        router, pool, heard, Concurrency(limits or ConcurrencyLimits(), share), queue_limits or QueueLimits(TIMEOUT_S),
        wants=wanted, clock=time.monotonic, rates=rates,
    )  # fmt: skip
    yield House(pool, queue, router, heard, wanted)
    queue.close()


def with_adapters(made: BackendSpec, *names: str) -> BackendSpec:
    cards = tuple({**card, "parent": "base"} if card["id"] in names else card for card in made.models)
    return replace(made, models=cards)


def limited(house: House, limit: int, name: str = "instance_0") -> Backend:
    backend = house.pool.backends[name]
    backend.limit = limit
    return backend


async def turn() -> None:
    """What was to be done soon is done."""
    for _ in range(4):
        await asyncio.sleep(0)
