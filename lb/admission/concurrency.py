"""How many requests run at the same time: in all, with one key, for one model. Pure.

Several balancers of one machine keep to the same limits: each writes how many it runs before it looks at what the
others have written, and takes its own back if that is too many. So they never run more than the limit together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakValueDictionary

from config.identity.api_keys import Priority
from lb.admission.rate_limits import RateLimits, TenantRates
from lb.protocol.tenant import ANYBODY, Tenant

#: Terms at hand. Nothing is lost with those that are not.
_MOST_TERMS = 4_096


class SharedCount(Protocol):
    """What all processes run under one name; what this one does, it writes into ``cells`` at ``at``."""

    @property
    def cells(self) -> memoryview: ...
    @property
    def at(self) -> int: ...
    @property
    def elsewhere(self) -> Sequence[object]:
        """Empty, always the same, while no other process counts there: then `others` need not be asked."""

    def others(self) -> int: ...


class _Count:
    """What runs under one name here, and elsewhere."""

    __slots__ = ("__weakref__", "_others", "at", "cells", "elsewhere", "own")

    def __init__(self, shared: SharedCount | None) -> None:
        self.own = 0
        self.cells: memoryview | list[int]
        if shared is None:
            self.cells, self.at, self.elsewhere, self._others = [0], 0, _NONE, _nobody
        else:
            self.cells, self.at, self.elsewhere = shared.cells, shared.at, shared.elsewhere
            self._others = shared.others

    def total(self) -> int:
        return self.own + self._others() if self.elsewhere else self.own

    def end(self) -> None:
        self.cells[self.at] = self.own = self.own - 1


_NONE: Sequence[object] = ()


def _nobody() -> int:
    return 0


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What holds for all requests of one tenant for one model, so that it is looked up once and not with each of them.
    ``counts``: where they are counted while they run, and the most that may be in each; ``rates``: what they are
    charged to, if to anything."""

    tenant: Tenant
    model: str | None = None
    counts: Sequence[tuple[_Count, int]] = ()
    rates: TenantRates | None = None


class Claim:
    """What one request takes of what is limited, from when a worker is found for it until it is over, on however many
    workers. ``priority``: the class it waits in, its tenant's or a lower one; ``cost``: tokens that it is expected to
    take; ``charged``: those that its tenant was charged for it in the queue; ``charge``: those of its prompt at its
    rates, where it has any and until that is settled."""

    # Defaults stand here and not in `__init__`: most requests are over without any of them being set.
    priority = Priority.NORMAL
    running = False
    charged = 0.0
    charge: int | None = None

    def __init__(self, terms: Terms, cost: float = 1.0) -> None:
        self.terms, self.cost = terms, cost

    @property
    def tenant(self) -> Tenant:
        return self.terms.tenant


#: Of every request while nothing is limited and nobody needs a key.
FREE = Claim(Terms(ANYBODY))


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
        #: As long as something runs under the name, or somebody has terms of it.
        self._counts: WeakValueDictionary[str, _Count] = WeakValueDictionary()

    def counts(self, tenant: Tenant, model: str | None) -> Sequence[tuple[_Count, int]]:
        """Where requests of its for ``model`` count, and how many may run there."""
        key, of_model, total = tenant.max_concurrent, self.limits.of(model), self.limits.total
        named = (f"key:{tenant.name}", key), (f"model:{model}", of_model), ("total", total)
        return [(self._count(name), most) for name, most in named if most is not None]

    def free(self, terms: Terms) -> bool:
        """Whether one more request may run on those ``terms``. Before `begin`, in the same turn."""
        for count, most in terms.counts:
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

    def begin(self, claim: Claim) -> bool:
        """It runs from now on; False: it may not. True again while it does."""
        if claim.running:
            return True
        for count, most in claim.terms.counts:
            count.cells[count.at] = count.own = own = count.own + 1
            if own > most or (count.elsewhere and count.total() > most):
                for each, _ in claim.terms.counts:
                    each.end()
                    if each is count:
                        return False
        claim.running = True
        return True

    def end(self, claim: Claim) -> None:
        """It is over. May be called again."""
        if claim.running:
            claim.running = False
            for count, _ in claim.terms.counts:
                count.cells[count.at] = count.own = count.own - 1

    def _count(self, name: str) -> _Count:
        count = self._counts.get(name)
        if count is None:
            count = self._counts[name] = _Count(self._share(name))
        return count


class AllTerms(dict[tuple[Tenant, str | None], Terms]):
    """By tenant and model; made when they are first asked for. A key that was changed is another tenant."""

    def __init__(self, concurrency: Concurrency, rates: RateLimits) -> None:
        super().__init__()
        self._concurrency, self._rates = concurrency, rates

    def __missing__(self, key: tuple[Tenant, str | None]) -> Terms:
        if len(self) >= _MOST_TERMS:
            self.clear()
        tenant, model = key
        rates = self._rates.of(tenant) if tenant.is_limited else None
        made = self[key] = Terms(tenant, model, self._concurrency.counts(tenant, model), rates)
        return made
