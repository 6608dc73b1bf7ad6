"""How many requests run at the same time: in all, with one key, for one model. Pure.

Several balancers of one machine keep to the same limits: each writes how many it runs before it looks at what the
others have written, and takes its own back if that is too many. So they never run more than the limit together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from config.identity.api_keys import Priority
from lb.admission.rate_limits import Charge
from lb.protocol.tenant import ANYBODY, Tenant
from lb.routing.backend import Shared

#: Names that counts are kept for though nothing runs under them.
_MOST_IDLE = 4_096


class SharedCount(Shared, Protocol):
    @property
    def elsewhere(self) -> Sequence[object]:
        """Empty, always the same, while no other process counts there: then `others` need not be asked."""


class _Count:
    """What runs under one name here, and elsewhere."""

    __slots__ = ("elsewhere", "others", "own", "put")

    def __init__(self, shared: SharedCount | None) -> None:
        self.own, self.elsewhere = 0, _NONE if shared is None else shared.elsewhere
        self.others, self.put = (_nobody, _nowhere) if shared is None else (shared.others, shared.put)

    def total(self) -> int:
        return self.own + self.others() if self.elsewhere else self.own

    def end(self) -> None:
        self.own = own = self.own - 1
        self.put(own)


_NONE: Sequence[object] = ()


def _nobody() -> int:
    return 0


def _nowhere(own: int) -> None:
    pass


@dataclass(slots=True, eq=False)
class Claim:
    """What one request takes of what is limited, from when a worker is found for it until it is over, on however many
    workers. ``priority``: the class it waits in, its tenant's or a lower one; ``cost``: tokens that it is expected to
    take; ``charged``: those that its tenant was charged for it in the queue; ``charge``: at its rates, where it has any
    and until it is settled. ``counts``: what it is counted in, and the most that may be in each."""

    tenant: Tenant
    model: str | None = None
    cost: float = 1.0
    priority: Priority = Priority.NORMAL
    running: bool = False
    charged: float = 0.0
    charge: Charge | None = None
    counts: Sequence[tuple[_Count, int]] = ()


#: Of every request while nothing is limited and nobody needs a key.
FREE = Claim(ANYBODY)


@dataclass(frozen=True, slots=True)
class ConcurrencyLimits:
    """Requests at the same time, None: any number. ``total``: through all balancers; ``per_adapter``: for each model
    but those in ``adapters``, which have their own."""

    total: int | None = None
    per_adapter: int | None = None
    adapters: Mapping[str, int] = field(default_factory=dict)

    def of(self, model: str | None) -> int | None:
        return self.adapters.get(model, self.per_adapter) if model is not None else None

    @property
    def any(self) -> bool:
        return self.total is not None or self.per_adapter is not None or bool(self.adapters)


class Concurrency:
    """``share``: where the count of a name is shared with other balancers."""

    def __init__(
        self, limits: ConcurrencyLimits, share: Callable[[str], SharedCount | None] = lambda name: None
    ) -> None:
        self.limits, self._share = limits, share
        self._counts: dict[str, _Count] = {}
        #: Where requests of a tenant that has such a limit, for a model, count; and how many may run there.
        self._at_hand: dict[tuple[str, int | None, str | None], Sequence[tuple[_Count, int]]] = {}

    def free(self, claim: Claim) -> bool:
        """Whether one more like it may run. Before `begin`, in the same turn."""
        claim.counts = found = self._limited(claim.tenant, claim.model)
        for count, most in found:
            if count.own >= most:
                return False
            if count.elsewhere and count.total() >= most:
                return False
        return True

    def spent(self) -> bool:
        """Whether nobody may run any more."""
        total = self.limits.total
        return total is not None and self._count("total").total() >= total

    def blocked(self, tenant: Tenant) -> bool:
        """Whether nothing more of its may run."""
        most = tenant.max_concurrent
        return most is not None and self._count(f"key:{tenant.name}").total() >= most

    def running(self, tenant: Tenant) -> int:
        """Of its, through all balancers."""
        count = self._counts.get(f"key:{tenant.name}")
        return 0 if count is None else count.total()

    def begin(self, claim: Claim) -> bool:
        """It runs from now on; False: it may not. True again while it does."""
        if claim.running:
            return True
        for count, most in claim.counts:
            count.own = own = count.own + 1
            count.put(own)
            if own > most or (count.elsewhere and count.total() > most):
                for each, _ in claim.counts:
                    each.end()
                    if each is count:
                        return False
        claim.running = True
        return True

    def end(self, claim: Claim) -> None:
        """It is over. May be called again."""
        if claim.running:
            claim.running = False
            for count, _ in claim.counts:
                count.own = own = count.own - 1
                count.put(own)

    def _limited(self, tenant: Tenant, model: str | None) -> Sequence[tuple[_Count, int]]:
        """Where it counts, and how many may run there."""
        key = tenant.name, tenant.max_concurrent, model
        found = self._at_hand.get(key)
        if found is not None:
            return found
        self._forget()
        made, limits = [], self.limits
        if tenant.max_concurrent is not None:
            made.append((self._count(f"key:{tenant.name}"), tenant.max_concurrent))
        if limits.any:
            if (most := limits.of(model)) is not None:
                made.append((self._count(f"model:{model}"), most))
            if limits.total is not None:
                made.append((self._count("total"), limits.total))
        self._at_hand[key] = made
        return made

    def _count(self, name: str) -> _Count:
        count = self._counts.get(name)
        if count is None:
            count = self._counts[name] = _Count(self._share(name))
        return count

    def _forget(self) -> None:
        """What nothing runs under, if there is too much."""
        if len(self._counts) >= _MOST_IDLE or len(self._at_hand) >= _MOST_IDLE:
            self._counts = {name: each for name, each in self._counts.items() if each.own}
            self._at_hand.clear()
