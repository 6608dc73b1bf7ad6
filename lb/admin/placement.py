"""`GET /v1/cluster/placement`: adapters x workers, as the balancer that is asked sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from lb.routing.pool import Pool
from lb.routing.router import Router
from lb.routing.strategies.base import Holdings

#: Adapters in an answer, those with the most requests under way first.
MOST = 1_000


class PlacementPage:
    """Where adapters belong, and where the strategy in force takes them to be; one that does not follow that says
    nothing of it."""

    def __init__(self, pool: Pool, router: Router) -> None:
        self._pool, self._router = pool, router

    async def answer(self, _: web.Request) -> web.Response:
        held = self._router.holdings()
        workers = {
            backend.id: held.get(backend.key)
            for backend in self._pool.backends.values() if backend.spec.managed or backend.key in held
        }  # fmt: skip
        homes, ranks = self._pool.placement
        return web.json_response({"strategy": self._router.strategy, **described(workers, homes, ranks)})


def described(
    workers: Mapping[str, Holdings | None], homes: Mapping[str, tuple[str, ...]], ranks: Mapping[str, int]
) -> dict[str, Any]:
    """Pure. By id, what each of the ``workers`` holds, where that is followed."""
    adapters: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in ranks}
    for name, ids in homes.items():
        for id in ids:
            _cell(adapters, name, id)["home"] = True
    for id, holdings in workers.items():
        if holdings is None:
            continue
        for name in holdings.held:
            _cell(adapters, name, id)["held"] = True
        for name in holdings.resident:
            _cell(adapters, name, id)["resident"] = True
        for name, count in holdings.active.items():
            _cell(adapters, name, id)["active"] = count
    shown = sorted(adapters, key=lambda name: (-_busy(adapters[name]), -len(adapters[name]), name))
    return {
        "workers": {id: {"slots": None if held is None else held.slots} for id, held in workers.items()},
        "adapters": [{"lora_name": name, "rank": ranks.get(name), "on": adapters[name]} for name in shown[:MOST]],
        "left_out": max(0, len(shown) - MOST),
    }


def _cell(adapters: dict[str, dict[str, dict[str, Any]]], name: str, id: str) -> dict[str, Any]:
    made = {"active": 0, "resident": False, "held": False, "home": False}
    return adapters.setdefault(name, {}).setdefault(id, made)


def _busy(cells: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(cell["active"] for cell in cells.values())
