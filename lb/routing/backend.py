"""One upstream as the balancer sees it: what is in flight there (leases), and how fast it answers. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from config.topology import KEEPS_RUNNING, MAY_RECOVER, TAKES_NEW, BackendSpec
from lb.routing.ejection import Ejection

#: So many requests may go elsewhere before an estimate is taken for old: being slower than others is no reason alone.
PATIENCE = 10
#: What is left of it by each further one. One that is N times too high is tried again after some
#: PATIENCE + FORGETTING x ln(N) requests: about 22 where N is 10.
FORGETTING = 5.0
_KEPT = math.exp(-1.0 / FORGETTING)

#: One more request in flight for so many seats, so that a worker that has finished one need not wait for the next.
_MARGIN = 16


class Shared(Protocol):
    """Where several balancer processes count what each of them has in flight on one incarnation."""

    def put(self, own: int) -> None: ...

    def others(self) -> int: ...


class Asker(Protocol):
    """A request in flight. It is looked at about once a second."""

    @property
    def awaited(self) -> int | None:
        """The bytes of its body, None once its answer has begun."""


class Backend:
    """One incarnation of one worker: a restarted worker is a new Backend, whose count starts at 0. ``shared`` is None
    for a balancer that is alone. ``on_room`` is called when it may take a request that it could not take before,
    though nobody has said anything new of it. ``limit``: how many requests it may have in flight, through all
    balancers; None: any number. Three methods more than a class should have: questions of a line or two, which who
    chooses puts to each candidate, and which would cost a call more behind another object."""

    __slots__ = (
        "_active", "_adapters", "_leases", "_names", "_on_room", "_shared", "ejection", "endpoint",
        "id", "key", "latency", "limit", "missing_models", "order", "route_stats", "spec", "suspects",
        "takes_new", "weight",
    )  # fmt: skip

    def __init__(
        self, spec: BackendSpec, shared: Shared | None = None, on_room: Callable[[], None] = lambda: None
    ) -> None:
        self.id = spec.id
        #: (id, incarnation); a server that is not ours is the same one whatever we call its incarnation.
        self.key = (spec.id, spec.incarnation if spec.managed else 0)
        #: What others keep with it: counts by route, and the address in the form that connections need (of this spec).
        self.route_stats: dict[str, Any] = {}
        self.endpoint: Any = None
        #: instance_10 comes after instance_9.
        self.order = (len(spec.id), spec.id)
        self.update(spec)
        self.latency = PeakEwma()
        self.ejection = Ejection()
        self._leases: set[Lease] = set()
        self._active: dict[str | None, int] = {}  # requests in flight by adapter
        self._shared, self._on_room = shared, on_room
        #: Models it was said to serve and answered 404 for, and until when (s, monotonic) it is not asked for them.
        self.missing_models: dict[str, float] = {}
        #: Requests there that may have killed another worker, and have not got anything yet.
        self.suspects = 0

    def update(self, spec: BackendSpec) -> None:
        """What is said of it now."""
        self.spec, self.endpoint = spec, None
        self.weight = spec.weight
        self.takes_new = spec.state in TAKES_NEW
        self.limit = None if spec.seats is None else spec.seats + max(2, spec.seats // _MARGIN)
        self._adapters = frozenset(card["id"] for card in spec.models if card.get("parent"))
        self._names = frozenset(card["id"] for card in spec.models) or frozenset(spec.expected)

    @property
    def in_flight(self) -> int:
        """Through this process."""
        return len(self._leases)

    @property
    def load(self) -> int:
        """What is in flight on it, through whichever balancer: what strategies go by."""
        return len(self._leases) if self._shared is None else len(self._leases) + self._shared.others()

    def unshare(self) -> None:
        """It is gone: its place is another incarnation's now."""
        if self._shared is not None:
            self._shared.put(0)
            self._shared = None

    @property
    def is_shared(self) -> bool:
        """Whether other balancers have requests in flight on it."""
        return self._shared is not None and self._shared.others() > 0

    @property
    def full(self) -> bool:
        return self.limit is not None and self.load >= self.limit

    def available(self, now: float) -> bool:
        """The one predicate for everyone: may a new request be sent here?"""
        if not self.takes_new or self.ejection.until > now:
            return False
        if (limit := self.limit) is None:
            return True
        own = len(self._leases)
        return own < limit and (self._shared is None or own + self._shared.others() < limit)

    def in_rotation(self, now: float) -> bool:
        """Whether one may, as soon as it has room."""
        return self.takes_new and self.ejection.until <= now

    def answers_still(self, now: float) -> bool:
        """May a request be sent here that nobody else can answer?"""
        return self.keeps_running() and not self.ejection.active(now)

    def succeeded(self) -> None:
        """A request did, while it was ejected."""
        self.ejection.succeeded()
        self._on_room()

    def may_recover(self) -> bool:
        """Whether waiting for it makes sense."""
        return self.spec.state in MAY_RECOVER

    def serves(self, model: str | None) -> bool:
        """Whether it serves ``model`` (None: the request names none), or is going to once it is up."""
        return model is None or model in self._names or not self._names

    def root(self, model: str | None) -> str | None:
        """What its card says that ``model`` was loaded from, which tells one version of an adapter from another."""
        found = next((card.get("root") for card in self.spec.models if card["id"] == model), None)
        return found if isinstance(found, str) else None

    def longest(self) -> int | None:
        """Tokens that prompt and answer may have together, where its cards tell."""
        lengths = [card["max_model_len"] for card in self.spec.models if isinstance(card.get("max_model_len"), int)]
        return min(lengths, default=None)

    def is_missing(self, model: str | None, now: float) -> bool:
        """It has just said that it has not got ``model``: true for a moment, as an adapter comes back unannounced."""
        return model is not None and self.missing_models.get(model, 0.0) > now

    def waiting(self) -> tuple[int, int]:
        """How many wait for the first byte of an answer, and the bytes of the largest body among them."""
        sizes = [awaited for x in self._leases if x.asker is not None and (awaited := x.asker.awaited) is not None]
        return len(sizes), max(sizes, default=0)

    def has_slot_for(self, model: str | None) -> bool:
        """Whether ``model`` needs no adapter slot, has one, or can have one, of those that requests through this
        process take."""
        slots = self.spec.slots
        return slots is None or model not in self._adapters or model in self._active or len(self._active) < slots

    def waiting_for_slots(self) -> int:
        """Requests through this process for adapters without a slot, while all slots are taken: those whose adapter
        has not begun any answer."""
        slots = self.spec.slots
        if slots is None or len(self._active) <= slots:
            return 0
        begun = {x.adapter for x in self._leases if x.asker is None or x.asker.awaited is None}
        return sum(x.adapter is not None and x.adapter not in begun for x in self._leases)

    def lease(
        self, on_evict: Callable[[str], None], asker: Asker | None = None, model: str | None = None
    ) -> Lease:
        """One more in flight, for ``model``. ``on_evict`` is called with the reason if the worker is lost before the
        release. ``asker`` tells what it waits for; without one it does not count as waiting."""
        lease = Lease(self, on_evict, asker)
        self._leases.add(lease)
        if model in self._adapters:
            lease.adapter = model
            self._active[model] = self._active.get(model, 0) + 1
        if self._shared is not None:
            self._shared.put(len(self._leases))
        return lease

    def release(self, lease: Lease) -> bool:
        """True the first time."""
        if lease not in self._leases:
            return False
        self._leases.discard(lease)
        if (adapter := lease.adapter) is not None:
            if self._active[adapter] > 1:
                self._active[adapter] -= 1
            else:
                del self._active[adapter]
        if self._shared is not None:
            self._shared.put(len(self._leases))
        if self.limit is not None:
            self._on_room()
        return True

    def evict(self, reason: str) -> None:
        """The worker is gone: whatever runs on it is told."""
        for lease in list(self._leases):
            lease.on_evict(reason)

    def keeps_running(self) -> bool:
        return self.spec.state in KEEPS_RUNNING


class Lease:
    """One request in flight on one incarnation. `release` is safe to call on every way out, and counts once."""

    __slots__ = ("adapter", "asker", "backend", "on_evict")

    def __init__(self, backend: Backend, on_evict: Callable[[str], None], asker: Asker | None = None) -> None:
        self.backend = backend
        self.on_evict = on_evict
        self.asker = asker
        self.adapter: str | None = None

    def release(self) -> bool:
        return self.backend.release(self)


class PeakEwma:
    """The rule is Finagle's and tower's (``tower::load::PeakEwma``): a measurement above the average replaces it, one
    below moves it by ``1 - exp(-elapsed / decay)``. One slow answer is believed at once, and forgotten as time passes.
    Who is avoided is not measured, and time alone would have it avoided for ever, or for long: so it is also forgotten
    a little by each request that goes elsewhere (decision 23).

    ``value``: seconds, as measured; ``estimate``: what to reckon with, which is less where it has not been asked for
    a while. Both are None before the first measurement. ``decay`` (s) is the time constant of forgetting."""

    __slots__ = ("_at", "_passed", "decay", "estimate", "value")

    def __init__(self, decay: float = 10.0) -> None:
        self.decay = decay
        self.value: float | None = None
        self.estimate: float | None = None
        self._at = 0.0
        self._passed = 0

    def observe(self, latency: float, now: float) -> None:
        """``latency`` (s) was measured at ``now`` (s, monotonic)."""
        before = self.estimate
        if before is None or latency >= before:
            self.value = latency
        else:
            keep = math.exp(-max(0.0, now - self._at) / self.decay)
            self.value = before * keep + latency * (1.0 - keep)
        self.estimate = self.value
        self._at, self._passed = now, 0

    def passed_over(self, requests: int) -> None:
        """So many ``requests`` that it could have had went elsewhere; no answer of it is awaited that would tell."""
        self._passed += requests
        if self._passed > PATIENCE and self.estimate is not None:
            self.estimate *= _KEPT**requests
