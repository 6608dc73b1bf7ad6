"""How many requests run at the same time: in all, with one key, for one model. Pure.

Several balancers of one machine keep to the same limits: each writes how many it runs before it looks at what the
others have written, and takes its own back if that is too many. So they never run more than the limit together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lb.admission.rate_limits import Charge
from lb.protocol.tenant import ANYBODY, Tenant
from lb.routing.backend import Shared

#: Names that counts are kept for though nothing runs under them.
_MOST_IDLE = 4_096


class _Count:
    """What runs under one name here, and elsewhere."""

    __slots__ = ("_shared", "own")

    def __init__(self, shared: Shared | None) -> None:
        self._shared, self.own = shared, 0

    def total(self) -> int:
        return self.own if self._shared is None else self.own + self._shared.others()

    def begin(self) -> int:
        """One more; how many that are."""
        self.own = own = self.own + 1
        if self._shared is None:
            return own
        self._shared.put(own)
        return own + self._shared.others()

    def end(self) -> None:
        self.own = own = max(0, self.own - 1)
        if self._shared is not None:
            self._shared.put(own)


@dataclass(slots=True, eq=False)
class Claim:
    """What one request takes of what is limited, from when a worker is found for it until it is over, on however many
    workers. ``cost``: tokens that it is expected to take; ``charged``: those that its tenant was charged for it in the
    queue; ``charge``: at its rates, where it has any and until it is settled. ``counts``: what it is counted in, and
    the most that may be in each."""

    tenant: Tenant
    model: str | None = None
    cost: float = 1.0
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
        self, limits: ConcurrencyLimits, share: Callable[[str], Shared | None] = lambda name: None
    ) -> None:
        self.limits, self._share = limits, share
        self._counts: dict[str, _Count] = {}

    def free(self, claim: Claim) -> bool:
        """Whether one more like it may run. Before `begin`, in the same turn."""
        claim.counts = found = self._limited(claim.tenant, claim.model)
        return all(count.total() < most for count, most in found)

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
        for begun, (count, most) in enumerate(claim.counts, 1):
            if count.begin() > most:
                for each, _ in claim.counts[:begun]:
                    each.end()
                return False
        claim.running = True
        return True

    def end(self, claim: Claim) -> None:
        """It is over. May be called again."""
        if claim.running:
            claim.running = False
            for count, _ in claim.counts:
                count.end()

    def _limited(self, tenant: Tenant, model: str | None) -> list[tuple[_Count, int]]:
        """Where it counts, and how many may run there."""
        made, limits = [], self.limits
        if tenant.max_concurrent is not None:
            made.append((self._count(f"key:{tenant.name}"), tenant.max_concurrent))
        if limits.any:
            if (most := limits.of(model)) is not None:
                made.append((self._count(f"model:{model}"), most))
            if limits.total is not None:
                made.append((self._count("total"), limits.total))
        return made

    def _count(self, name: str) -> _Count:
        count = self._counts.get(name)
        if count is None:
            if len(self._counts) >= _MOST_IDLE:
                self._counts = {key: each for key, each in self._counts.items() if each.own}
            count = self._counts[name] = _Count(self._share(name))
        return count
