"""What a balancer knows of one worker's memory and work, by what it sent there and what came back. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

from lb.routing.learning import Rates

#: Tokens a block of a prompt.
BLOCK = 512

T = TypeVar("T", bound=Hashable)


class Recent(Generic[T]):
    """The ``most`` things used last, as the keys of ``items``."""

    __slots__ = ("items", "most")

    def __init__(self, most: int) -> None:
        self.items: OrderedDict[T, None] = OrderedDict()
        self.most = most

    def __contains__(self, item: object) -> bool:
        return item in self.items

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:
        """The one used longest ago first."""
        return iter(self.items)

    def use(self, item: T) -> None:
        items = self.items
        items[item] = None
        items.move_to_end(item)
        if len(items) > self.most:
            items.popitem(last=False)


class WorkerView:
    """``slots``: adapters that it computes at a time, None for any number; ``places``: those that it keeps in host
    memory; ``kv_tokens``: what its prefix cache holds.

    ``backlog``: tokens of prompts sent there and not answered yet. ``running``: requests in flight, ``active`` those by
    adapter, and ``top`` the largest rank among them. ``resident``, ``held``, ``prefixes``: mirrors of its slots, its
    host memory and its prefix cache, which are all emptied of what was used longest ago."""

    __slots__ = ("_ranks", "active", "backlog", "held", "prefixes", "rates", "resident", "running", "slots", "top")

    def __init__(self, slots: int | None, places: int, kv_tokens: int) -> None:
        self.slots = slots
        self.backlog = self.running = self.top = 0
        self.active: dict[str, int] = {}
        self._ranks: dict[str, int] = {}
        self.resident: Recent[str] = Recent(slots or places)
        self.held: Recent[str] = Recent(places)
        self.prefixes: Recent[int] = Recent(max(1, kv_tokens // BLOCK))
        self.rates = Rates()

    def matched(self, blocks: Sequence[int]) -> int:
        """Tokens at the beginning of a prompt that its cache has."""
        prefixes, found = self.prefixes.items, 0
        for block in blocks:
            if block not in prefixes:
                break
            found += 1
        return found * BLOCK

    def enter(self, adapter: str | None, rank: int, tokens: int, blocks: Sequence[int]) -> None:
        """A request with so many ``tokens`` to read."""
        self.backlog += tokens
        self.running += 1
        for block in blocks:
            self.prefixes.use(block)
        if adapter is None:
            return
        self.active[adapter] = self.active.get(adapter, 0) + 1
        self._ranks[adapter] = rank
        self.top = max(self.top, rank)
        self.resident.use(adapter)
        self.held.use(adapter)

    def leave(self, adapter: str | None) -> None:
        """One of its requests is over."""
        self.running -= 1
        if adapter is None:
            return
        if self.active[adapter] > 1:
            self.active[adapter] -= 1
            return
        del self.active[adapter]
        if self._ranks.pop(adapter) == self.top:
            self.top = max(self._ranks.values(), default=0)
