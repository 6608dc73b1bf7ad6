"""How the cluster is: the supervisor's last snapshot with the balancer's own counts, with or without a supervisor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from config.errors import nearest
from config.identity.principal import PRINCIPAL_HEADER, Principal
from lb.control.link import Link
from lb.protocol.errors import ProxyError
from lb.protocol.facts import MOST_NAME
from lb.protocol.routes import shown
from lb.routing.pool import Pool
from lb.telemetry.shared_counters import Counters


class Status:
    """``strategy()`` is the name of the one in force, ``root`` the state directory; ``models_for(name)``:
    the models that exist for who is called so, None: all; ``limits()``: how it is with limits that other machines
    share, None where none do."""

    def __init__(
        self, pool: Pool, link: Link, counters: Counters, strategy: Callable[[], str], root: Path,
        models_for: Callable[[str], frozenset[str] | None],
        limits: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        self._pool, self._link, self._counters, self._strategy, self._root = pool, link, counters, strategy, root
        self._models_for, self._limits = models_for, limits

    # routes

    async def health(self, _: web.Request) -> web.Response:
        ready = self.ready()
        return web.json_response(
            {"status": "ok" if ready else "unavailable", "ready": len(ready)}, status=200 if ready else 503
        )

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": self._cards(request)})

    async def model(self, request: web.Request) -> web.Response:
        """One card. Raises ProxyError (404), as for a request to a model that there is not for whoever asks."""
        name, cards = request.match_info["name"], {card["id"]: card for card in self._cards(request)}
        if (card := cards.get(name)) is not None:
            return web.json_response(card)
        message = f"The model `{shown(name)}` does not exist.{nearest(name[:MOST_NAME], list(cards))}"
        raise ProxyError(404, message, param="model", code=404)

    def _cards(self, request: web.Request) -> list[dict[str, Any]]:
        """Of the models that exist for whoever asks; where there are several, with what each is doing."""
        models = self._models_for(Principal.from_line(request.headers.get(PRINCIPAL_HEADER, "")).name)
        offers = self._pool.offered
        return [
            {**card, **offers.status(card)} if offers else card
            for card in self._pool.models()
            if models is None or card["id"] in models
        ]

    async def answer(self, _: web.Request) -> web.Response:
        return web.json_response(self.snapshot())

    async def system_health(self, _: web.Request) -> web.Response:
        status = self.snapshot()
        total, running = status["total_instances"], status["running_instances"]
        word = "unhealthy" if not status["is_running"] else "healthy" if running >= total else "degraded"
        instances = {
            name: {"healthy": i["is_running"], "state": i["state"], "reason": i["reason"], "degraded": i["degraded"]}
            for name, i in status["instances"].items()
        }
        return web.json_response(
            {"status": word, "ready": running, "total": total, "supervisor": status["supervisor"]["pid"] is not None,
             "load_balancer": True, "instances": instances}
        )  # fmt: skip

    # for others in here

    def snapshot(self) -> dict[str, Any]:
        """`GET /v1/cluster/status`; without a supervisor, from what is known here."""
        seen = self._link.snapshot
        instances = {name: self._instance(name, value) for name, value in seen.get("instances", {}).items()}
        supervisor = {**seen.get("supervisor", {"pid": None, "state_dir": str(self._root)})}
        supervisor["age_s"] = None if self._link.age is None else round(self._link.age, 1)
        if not self._link.alive:
            supervisor["pid"] = None
        running = sum(i["is_running"] for i in instances.values() if i["managed"])
        return {
            "is_running": bool(self.ready()),
            "total_instances": seen.get("total_instances", 0),
            "running_instances": running,
            "load_balancer_strategy": self._strategy(),
            "engine": seen.get("engine"),
            "model": seen.get("model"),
            "min_instances": seen.get("min_instances"),
            "max_instances": seen.get("max_instances"),
            **({"wanted_strategy": seen["wanted_strategy"]} if seen.get("wanted_strategy") else {}),
            **({"autoscale": seen["autoscale"]} if seen.get("autoscale") else {}),
            **({"models": seen["models"]} if seen.get("models") else {}),
            **({"zygote": seen["zygote"]} if seen.get("zygote") else {}),
            **({"jobs": seen["jobs"]} if seen.get("jobs") else {}),
            **({"discovery": seen["discovery"]} if seen.get("discovery") else {}),
            **({"nodes": seen["nodes"]} if seen.get("nodes") else {}),
            "supervisor": supervisor,
            "load_balancer": {
                "restarts": 0, "replacements": 0, "replacing": False, "standby": None, "draining": [],
                "processes": [{"pid": os.getpid()}], **seen.get("load_balancer", {}),
                "pid": os.getpid(), "state_dir": str(self._root), "in_flight": sum(self._pool.load().values()),
                **({} if (limits := self._limits()) is None else {"limits": limits}),
            },
            "instances": instances,
        }

    def gpus(self) -> list[dict[str, Any]]:
        """As the supervisor's last word has them; nothing while there is none."""
        return list(self._link.snapshot.get("gpus", ())) if self._link.alive else []

    def tokens_made(self) -> dict[str, float]:
        """By instance, as its engine says; without a supervisor nobody asks them."""
        instances = self._link.snapshot.get("instances", {}) if self._link.alive else {}
        told = {name: seen.get("tokens_total") for name, seen in instances.items()}
        return {name: float(tokens) for name, tokens in told.items() if tokens is not None}

    def _instance(self, name: str, seen: dict[str, Any]) -> dict[str, Any]:
        backend = self._pool.backends.get(name)
        requests, errors = self._counters.get(name)
        result = {**seen, "in_flight": backend.load if backend else 0}
        result |= {"requests_total": requests, "errors_total": errors}
        if backend is not None:
            result["weight"] = backend.spec.weight
            if backend.latency.value is not None:
                result["first_byte_ms"] = round(backend.latency.value * 1000, 1)
            gone = not self._link.alive and backend.ejection.until > 0 and seen["is_running"]
            if gone:
                result |= {"state": "unhealthy", "is_running": False, "reason": "it cannot be connected to"}
        return result

    def ready(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        return [b.id for b in self._pool.backends.values() if b.available(now)]
