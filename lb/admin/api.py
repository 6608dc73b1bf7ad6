"""What the balancer answers itself: the management API, status, health, models, metrics.

Reads are answered from the supervisor's last snapshot and the balancer's own counts, with or without a supervisor;
changes are passed on to the supervisor, which checks them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from config.link import SEQUENCE_HEADER
from config.paths import StateDir, short_socket_path
from config.principal import PRINCIPAL_HEADER
from lb.admin.cluster_metrics import ClusterSeries, mean_latency, scraped
from lb.admin.event_stream import EventFeed
from lb.admin.explain import Why
from lb.admin.live import Live
from lb.admin.ui_files import Page
from lb.admin.worker_logs import follow
from lb.admission.admin_guard import require_json
from lb.admission.ui_sessions import UiSessions
from lb.control.link import Link
from lb.control.peers import Peers
from lb.protocol.errors import AttemptFailed, ProxyError, Source
from lb.routing.pool import Pool
from lb.telemetry import exposition
from lb.telemetry.cooperative import in_turns
from lb.telemetry.metrics import Metrics
from lb.telemetry.recorder import Recorder
from lb.telemetry.shared_counters import ADAPTER, Counters
from lb.upstream.client import WorkerClient

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: A worker that does not tell its metrics in this time (s) is left out of a scrape.
_SCRAPE_S = 2.0

#: How long (s) a change may take at the supervisor: a roll-out goes worker by worker. And a mere question.
_CHANGE_S, _QUESTION_S = 900.0, 5.0


#: The log of a balancer process, and that of the requests through all of them.
_BALANCER = re.compile(r"balancer(-[0-9]{1,2})?|standby|access")

_YES_OR_NO = {"0": False, "false": False, "1": True, "true": True}


class Admin:
    def __init__(
        self, pool: Pool, link: Link, counters: Counters, metrics: Metrics, strategy: Callable[[], str],
        client: WorkerClient, siblings: Peers, state: StateDir, why: Why, sessions: UiSessions,
        events: EventFeed | None = None,
    ) -> None:
        self._pool, self._link, self._counters = pool, link, counters
        self._metrics, self._strategy, self._client, self._siblings = metrics, strategy, client, siblings
        self._state, self._sessions = state, sessions
        self.events, self.why = events or EventFeed(), why
        self.recorder = Recorder(state.root, counters, metrics, self._tokens_made)
        self._live, self._ui = Live(self.status, self.recorder, self.events, self._gpus), Page()
        self._merger = exposition.Merger()
        control = aiohttp.UnixConnector(path=short_socket_path(state.control), limit=256, force_close=True)
        self._control = aiohttp.ClientSession(connector=control, trust_env=False)
        #: Series that every balancer process reads from the same place.
        self._alike = ClusterSeries(metrics, pool, link, counters).alike

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """All of the balancer's own routes; a wrong method on one of them is 405, whatever comes after."""
        change = self._change
        table: dict[str, dict[str, _Handler]] = {
            "/health": {"GET": self._health},
            "/metrics": {"GET": self._render_metrics},
            "/v1/models": {"GET": self._models},
            "/v1/cluster/status": {"GET": self._status},
            "/v1/cluster/openapi.json": {"GET": _openapi},
            "/v1/cluster/events": {"GET": self.events.answer},
            "/v1/cluster/live": {"GET": self._live.stream},
            "/v1/cluster/history": {"GET": self._live.history},
            "/v1/cluster/why": {"GET": self.why.answer},
            "/v1/cluster/scale": {"POST": change},
            "/v1/cluster/strategy": {"POST": change},
            "/v1/cluster/restart": {"POST": change},
            "/v1/cluster/apply": {"POST": change},
            "/v1/cluster/shutdown": {"POST": change},
            "/v1/cluster/ui/link": {"POST": self._sessions.link},
            "/v1/cluster/ui/session": {"POST": self._sessions.session},
            "/v1/cluster/instances/{name}": {"PATCH": change},
            "/v1/cluster/instances/{name}/drain": {"POST": change, "DELETE": change},
            "/v1/cluster/instances/{name}/logs": {"GET": self._logs},
            "/v1/lora_adapters": {"GET": self._adapters},
            "/v1/lora_adapters/{name}": {"GET": self._adapters},
            "/v1/lora_adapters/{name}/rollback": {"POST": change},
            "/v1/load_lora_adapter": {"POST": change},
            "/v1/unload_lora_adapter": {"POST": change},
            "/v1/system/health": {"GET": self._system_health},
            "/v1/system/metrics": {"GET": self._system_metrics},
            "/ui": {"GET": self._ui.folder},
            "/ui/": {"GET": self._ui.file},
            "/ui/{file}": {"GET": self._ui.file},
        }
        for path, methods in table.items():
            resource = router.add_resource(path)
            for method, handler in methods.items():
                resource.add_route(method, handler if method == "GET" else _json_only(handler))
                if method == "GET":
                    resource.add_route("HEAD", handler)
            resource.add_route("*", _not_allowed(sorted(methods)))
        router.add_route("*", "/", self._ui.root)

    async def close(self) -> None:
        await self._live.close()
        await self.recorder.close()
        await self._control.close()

    # for everybody

    async def _health(self, _: web.Request) -> web.Response:
        ready = self._ready()
        return web.json_response(
            {"status": "ok" if ready else "unavailable", "ready": len(ready)}, status=200 if ready else 503
        )

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": self._pool.models()})

    async def _render_metrics(self, _: web.Request) -> web.Response:
        backends = [b for b in self._pool.backends.values() if b.keeps_running()]
        scrapes = (self._client.get(b.spec, "/metrics", _SCRAPE_S) for b in backends)
        others, answers = await asyncio.gather(
            self._siblings.expositions(), asyncio.gather(*scrapes, return_exceptions=True)
        )
        texts: dict[str, str] = {}
        for backend, answer in zip(backends, answers, strict=True):
            if isinstance(answer, tuple):
                if answer[0] == 200:
                    texts[backend.id] = answer[1].decode(errors="replace")
            elif not isinstance(answer, AttemptFailed):
                raise answer
        answered = [(b.id, b.id in texts) for b in backends]
        pieces = await in_turns(self._page(texts, others, answered))
        return web.Response(
            body="".join(pieces).encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    def _page(
        self, texts: Mapping[str, str], others: Sequence[str], answered: Sequence[tuple[str, bool]]
    ) -> exposition.Steps[list[str]]:
        own: Iterable[str] = self._metrics.registry.pieces()
        if others:  # of all balancer processes as if they were one
            here = "".join((yield from exposition.gathered(own)))
            own = yield from exposition.total_steps([here, *others], self._alike)
        return (yield from self._merger.merge(texts, itertools.chain(own, scraped(answered))))

    def _sums(self, others: Sequence[str]) -> exposition.Steps[dict[str, float]]:
        """Values by series of all balancer processes."""
        here = "".join((yield from exposition.gathered(self._metrics.registry.pieces())))
        return (yield from exposition.sample_steps([here, *others], self._alike))

    # for those who may manage the cluster

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self.status())

    def status(self) -> dict[str, Any]:
        """`GET /v1/cluster/status`; without a supervisor, from what is known here."""
        seen = self._link.snapshot
        instances = {name: self._instance(name, value) for name, value in seen.get("instances", {}).items()}
        supervisor = {**seen.get("supervisor", {"pid": None, "state_dir": str(self._state.root)})}
        supervisor["age_s"] = None if self._link.age is None else round(self._link.age, 1)
        if not self._link.alive:
            supervisor["pid"] = None
        running = sum(i["is_running"] for i in instances.values() if i["managed"])
        return {
            "is_running": bool(self._ready()),
            "total_instances": seen.get("total_instances", 0),
            "running_instances": running,
            "load_balancer_strategy": self._strategy(),
            "engine": seen.get("engine"),
            "model": seen.get("model"),
            "min_instances": seen.get("min_instances"),
            "max_instances": seen.get("max_instances"),
            "supervisor": supervisor,
            "load_balancer": {
                "restarts": 0, "replacements": 0, "replacing": False, "standby": None, "draining": [],
                "processes": [{"pid": os.getpid()}], **seen.get("load_balancer", {}),
                "pid": os.getpid(), "in_flight": sum(self._pool.load().values()),
            },
            "instances": instances,
        }

    def _gpus(self) -> list[dict[str, Any]]:
        """As the supervisor's last word has them; nothing while there is none."""
        return list(self._link.snapshot.get("gpus", ())) if self._link.alive else []

    def _tokens_made(self) -> dict[str, float]:
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

    async def _system_health(self, _: web.Request) -> web.Response:
        status = self.status()
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

    async def _system_metrics(self, _: web.Request) -> web.Response:
        instances, others = self.status()["instances"], await self._siblings.expositions()
        series = await in_turns(self._sums(others)) if others else {}
        everything = sum(i["requests_total"] for i in instances.values())
        result = {}
        for name, i in instances.items():
            backend, requests = self._pool.backends.get(name), i["requests_total"]
            mean = mean_latency(series, name) if others else self._metrics.mean_latency(name)
            result[name] = {
                "requests_total": requests,
                "errors_total": i["errors_total"],
                "success_rate": max(0.0, 1.0 - i["errors_total"] / requests) if requests else None,
                "mean_latency_ms": None if mean is None else round(mean * 1000, 2),
                "active_connections": backend.load if backend else 0,
                "healthy": i["is_running"],
                "state": i["state"],
                "cpu_percent": i["cpu_percent"],
                "memory_mb": i["memory_mb"],
                "traffic_share": round(requests / everything, 4) if everything else 0.0,
            }
        total_errors = sum(i["errors_total"] for i in instances.values())
        return web.json_response(
            {"requests_total": everything, "errors_total": total_errors,
             "active_connections": sum(self._pool.load().values()), "instances": result}
        )  # fmt: skip

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        seen = self._link.snapshot.get("instances", {}).get(name)
        path = seen.get("log") if seen else str(self._state.log(name)) if _BALANCER.fullmatch(name) else None
        if path is None:
            raise ProxyError(404, f"no log of {name!r}")
        try:
            lines = int(request.query.get("lines", "100"))
        except ValueError:
            raise ProxyError(400, "lines: a whole number is needed", param="lines") from None
        if not 0 <= lines <= 100_000:
            raise ProxyError(400, "lines: 0 to 100000", param="lines")
        if (given := request.query.get("follow", "0")) not in _YES_OR_NO:
            raise ProxyError(400, f"follow: 0 or 1, not {given[:100]!r}", param="follow")
        return await follow(request, Path(path), lines, _YES_OR_NO[given], lambda: self.events.closed)

    async def _adapters(self, request: web.Request) -> web.Response:
        """The supervisor's answer, with what only the balancer can count."""
        answer, text = await self._ask(request, b"")
        if answer.status == 200:
            data = json.loads(text)
            for adapter in data.get("adapters", [data]):
                name = f"{ADAPTER}{adapter['lora_name']}"
                adapter["requests_total"], adapter["errors_total"] = self._counters.get(name)
                adapter["last_used"] = self._counters.last_used(name)
            text = json.dumps(data)
        return web.Response(status=answer.status, text=text, content_type="application/json")

    async def _change(self, request: web.Request) -> web.Response:
        """Passed on to the supervisor; its answer is passed back once what it changed shows here too."""
        answer, text = await self._ask(request, await request.read())
        if sequence := answer.headers.get(SEQUENCE_HEADER):
            epoch, _, number = sequence.partition(".")
            await self._link.has_snapshot((int(epoch), int(number)), timeout=1.0)
        return web.Response(status=answer.status, text=text, content_type="application/json")

    async def _ask(self, request: web.Request, body: bytes) -> tuple[aiohttp.ClientResponse, str]:
        """Raises ProxyError (503) where there is no supervisor, or none that answers."""
        method = "GET" if request.method == "HEAD" else request.method  # the same head, of the same body
        patience = aiohttp.ClientTimeout(total=_QUESTION_S if method == "GET" else _CHANGE_S)
        try:
            async with self._control.request(
                method, _at_supervisor(request), data=body, timeout=patience,
                headers={PRINCIPAL_HEADER: request.headers.get(PRINCIPAL_HEADER, "")},
            ) as answer:
                return answer, await answer.text()
        except TimeoutError:
            done = "" if method == "GET" else "; the change may still be made: see /v1/cluster/events"
            raise ProxyError(
                503, f"the supervisor has not answered in {patience.total:g} s; traffic is served{done}",
                source=Source.INTERNAL, retry_after=5,
            ) from None
        except (aiohttp.ClientError, OSError):
            raise ProxyError(
                503, "the supervisor is not running; traffic is served, changes are not possible",
                source=Source.INTERNAL, retry_after=5,
            ) from None

    def _ready(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        return [b.id for b in self._pool.backends.values() if b.available(now)]


def _at_supervisor(request: web.Request) -> URL:
    """The path as it was sent: an encoded question mark in a name must not become one."""
    return URL(f"http://supervisor{request.rel_url.raw_path}", encoded=True)


async def _openapi(_: web.Request) -> web.Response:
    return web.Response(body=await asyncio.to_thread(_described), content_type="application/json")


def _described() -> bytes:
    from lb.admin import (
        openapi,  # it brings all the settings along, which takes a moment, and nothing else here needs them
    )

    return openapi.text()


def _json_only(handler: _Handler) -> _Handler:
    """For what changes something."""
    async def declared(request: web.Request) -> web.StreamResponse:
        require_json(request.method, request.headers.get("Content-Type", ""), request.body_exists)
        return await handler(request)

    return declared


def _not_allowed(methods: list[str]) -> _Handler:
    allowed = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else ())}))

    async def handler(request: web.Request) -> web.StreamResponse:
        raise ProxyError(
            405, f"{request.path} takes {', '.join(methods)}, not {request.method}", headers={"Allow": allowed}
        )

    return handler
