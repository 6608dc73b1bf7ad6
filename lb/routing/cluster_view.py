"""What a balancer knows of all workers: who holds an adapter, or the beginning of a prompt. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from random import Random

from lb.routing.backend import Backend
from lb.routing.worker_view import WorkerView

#: Of homes or places where its adapter is active, at most so many are looked at.
_MOST_HOMES = 4

#: Beginnings of prompts that are remembered.
_MOST_BLOCKS = 100_000


class ClusterView:
    """``kv_tokens``, ``places``: what is taken for granted of a worker that does not say."""

    def __init__(self, kv_tokens: int, places: int) -> None:
        self._kv_tokens, self._places = kv_tokens, places
        self.views: dict[tuple[str, int], WorkerView] = {}
        self._by_id: dict[str, Backend] = {}
        #: Who was sent a prompt that begins so; who an adapter.
        self._last: OrderedDict[int, Backend] = OrderedDict()
        self.holders: dict[str, dict[Backend, int]] = {}

    def view(self, backend: Backend) -> WorkerView:
        """Of that incarnation, which is there from now on."""
        view = self.views.get(backend.key)
        if view is None:
            spec = backend.spec
            places = self._places if spec.places is None else spec.places
            self.views[backend.key] = view = WorkerView(spec.slots, max(places, spec.slots or 0), self._kv_tokens)
            self._by_id[backend.id] = backend
        return view

    def left(self, backend: Backend) -> None:
        """That incarnation is gone."""
        self.views.pop(backend.key, None)
        if self._by_id.get(backend.id) is backend:
            del self._by_id[backend.id]
        for holders in self.holders.values():
            holders.pop(backend, None)

    def enter(self, backend: Backend, adapter: str | None, rank: int, tokens: int, blocks: Sequence[int]) -> None:
        """A request for it, with so many ``tokens`` to read, through whichever balancer."""
        self.views[backend.key].enter(adapter, rank, tokens, blocks)
        if adapter is not None:
            holders = self.holders.setdefault(adapter, {})
            holders[backend] = holders.get(backend, 0) + 1
        for block in blocks:
            self._last[block] = backend
            self._last.move_to_end(block)
        while len(self._last) > _MOST_BLOCKS:
            self._last.popitem(last=False)

    def leave(self, key: tuple[str, int], adapter: str | None, unread: int) -> None:
        """One of its requests is over, of which so many tokens were not read."""
        view = self.views.get(key)
        if view is None:
            return
        view.backlog -= unread
        view.leave(adapter)
        backend = self._by_id.get(key[0])
        holders = None if adapter is None else self.holders.get(adapter)
        if adapter is None or holders is None or backend is None or backend not in holders:
            return
        holders[backend] -= 1
        if not holders[backend]:
            del holders[backend]
            if not holders:
                del self.holders[adapter]

    def holding(
        self, adapter: str | None, blocks: Sequence[int], homes: Sequence[str], random: Random
    ) -> Iterator[Backend]:
        """Some of ``homes``, of those with requests for ``adapter``, and who was sent the most of ``blocks`` last."""
        first = int(random.random() * len(homes)) if len(homes) > _MOST_HOMES else 0
        for name in (*homes[first:], *homes[:first])[:_MOST_HOMES]:
            if (backend := self._by_id.get(name)) is not None:
                yield backend
        for backend, _ in zip(self.holders.get(adapter or "", ()), range(_MOST_HOMES), strict=False):
            yield backend
        for block in reversed(blocks):
            if (found := self._last.get(block)) is not None:
                yield found
                break
