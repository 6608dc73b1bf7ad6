"""Which backends a name belongs to, whatever else comes and goes. Pure."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from lb.routing.backend import Backend

#: Names whose order is kept.
_MOST = 4096

#: So many times the mean in flight a backend may have.
_FACTOR = 1.25


def weight(name: str, backend_id: str) -> int:
    """The larger, the sooner ``name`` goes there (Thaler and Ravishankar, "Using name-based mappings to increase hit
    rates", 1998: who leaves takes only its own names along)."""
    return int.from_bytes(hashlib.blake2b(f"{name}\0{backend_id}".encode(), digest_size=8).digest(), "big")


class BoundedHash:
    """The first backend in a name's order that has less in flight than 1.25 times the mean, this request with it
    (Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", 2018)."""

    def __init__(self) -> None:
        self._orders: OrderedDict[tuple[Hashable, tuple[str, ...]], list[int]] = OrderedDict()

    def first(self, name: str, candidates: Sequence[Backend]) -> tuple[Backend, list[int]]:
        """And the loads of all."""
        loads = [b.load for b in candidates]
        bound = math.ceil(_FACTOR * (sum(loads) + 1) / len(loads))
        order = self._order(name, candidates)
        at = next((i for i in order if loads[i] < bound), order[0])
        return candidates[at], loads

    def _order(self, name: str, candidates: Sequence[Backend]) -> list[int]:
        key = (name, tuple(b.id for b in candidates))
        order = self._orders.get(key)
        if order is None:
            order = sorted(range(len(candidates)), key=lambda i: -weight(name, candidates[i].id))
            self._orders[key] = order
            if len(self._orders) > _MOST:
                self._orders.popitem(last=False)
        return order
