"""The routes of what the balancer answers itself: the management API, status, health, models, metrics."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from config.jobs.folder import LOG
from config.link import CHANGE_BYTES
from config.paths import StateDir
from lb.admin import worker_logs
from lb.admin.changes import SupervisorCalls
from lb.admin.event_stream import EventFeed
from lb.admin.explain import RouteTrial, Why
from lb.admin.live import Live
from lb.admin.metrics import MetricsPage
from lb.admin.placement import PlacementPage
from lb.admin.status import Status
from lb.admin.ui_files import Page
from lb.admin.usage import UsagePage
from lb.admission.access.admin_guard import require_json
from lb.admission.access.ui_sessions import UiSessions
from lb.control.link import Link
from lb.protocol.errors import ProxyError, error_body, internal_error
from lb.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: The log of a balancer process, and that of the requests through all of them.
_BALANCER = re.compile(r"lb|balancer(-[0-9]{1,2})?|standby|access")

#: Ids of jobs.
_JOB = re.compile(r"[a-z]{1,32}-[0-9]{1,15}")


class Admin:
    def __init__(
        self, status: Status, metrics: MetricsPage, recorder: Recorder, supervisor: SupervisorCalls, link: Link,
        state: StateDir, why: Why, sessions: UiSessions, events: EventFeed, usage: UsagePage, routes: RouteTrial,
        placement: PlacementPage,
    ) -> None:
        self.status, self.metrics, self.recorder, self.events = status, metrics, recorder, events
        self._supervisor, self._link, self._state, self._why, self._sessions = supervisor, link, state, why, sessions
        self._usage, self._routes, self._placement = usage, routes, placement
        self._live, self._ui = Live(status.snapshot, recorder, events, status.gpus), Page()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """All of the balancer's own routes; a wrong method on one of them is 405, whatever comes after."""
        for path, methods in self._table().items():
            resource = router.add_resource(path)
            for method, handler in methods.items():
                resource.add_route(method, handler if method == "GET" else _json_only(handler))
                if method == "GET":
                    resource.add_route("HEAD", handler)
            resource.add_route("*", _not_allowed(sorted(methods)))
        router.add_route("*", "/", self._ui.root)

    def _table(self) -> dict[str, dict[str, _Handler]]:
        """Longer than a function should be: it is a table, a line a route."""
        change = self._supervisor.change
        return {
            "/health": {"GET": self.status.health},
            "/metrics": {"GET": self.metrics.render},
            "/v1/models": {"GET": self.status.models},
            "/v1/models/load": {"POST": change},
            "/v1/models/{name}/pin": {"POST": change},
            "/v1/models/{name}/unpin": {"POST": change},
            "/v1/models/{name}/sleep": {"POST": change},
            "/v1/models/{name}/wake": {"POST": change},
            "/v1/models/{name:.+}": {"GET": self.status.model, "DELETE": change},  # a hub's id has a slash
            "/v1/cluster/models": {"GET": self._supervisor.question},
            "/v1/cluster/status": {"GET": self.status.answer},
            "/v1/cluster/openapi.json": {"GET": _openapi},
            "/v1/cluster/events": {"GET": self.events.answer},
            "/v1/cluster/live": {"GET": self._live.stream},
            "/v1/cluster/history": {"GET": self._live.history},
            "/v1/cluster/why": {"GET": self._why.answer},
            "/v1/cluster/usage": {"GET": self._usage.answer},
            "/v1/cluster/placement": {"GET": self._placement.answer},
            "/v1/cluster/scale": {"POST": change},
            "/v1/cluster/strategy": {"POST": change},
            "/v1/cluster/restart": {"POST": change},
            "/v1/cluster/apply": {"POST": change},
            "/v1/cluster/shutdown": {"POST": change},
            "/v1/cluster/audit": {"GET": self._supervisor.question},
            "/v1/cluster/aliases": {"GET": self._supervisor.question},
            "/v1/cluster/aliases/{name}": {"PUT": change, "DELETE": change},
            "/v1/cluster/aliases/{name}/undo": {"POST": change},
            "/v1/cluster/routes": {"GET": self._supervisor.question},
            "/v1/cluster/routes/{name}": {"PUT": change, "DELETE": change},
            "/v1/cluster/routes/{name}/undo": {"POST": change},
            "/v1/cluster/routes/{name}/test": {"POST": self._routes.answer},
            "/v1/cluster/jobs": {"GET": self._supervisor.question, "POST": change},
            "/v1/cluster/jobs/{name}": {"GET": self._supervisor.question, "DELETE": change},
            "/v1/cluster/jobs/{name}/events": {"GET": self._supervisor.question},
            "/v1/cluster/balancers": {"GET": self._supervisor.question},
            "/v1/cluster/balancers/{name}": {"DELETE": change},
            "/v1/cluster/join_tokens": {"POST": change},
            "/v1/cluster/join_tokens/{name}": {"DELETE": change},
            "/v1/cluster/keys": {"GET": self._supervisor.question, "POST": change},
            "/v1/cluster/keys/{name}": {"GET": self._supervisor.question, "PATCH": change, "DELETE": change},
            "/v1/cluster/keys/{name}/rotate": {"POST": change},
            "/v1/cluster/ui/link": {"POST": self._sessions.link},
            "/v1/cluster/ui/session": {"POST": self._sessions.session},
            "/v1/cluster/instances/{name}": {"PATCH": change},
            "/v1/cluster/instances/{name}/drain": {"POST": change, "DELETE": change},
            "/v1/cluster/instances/{name}/logs": {"GET": self._logs},
            "/v1/lora_adapters": {"GET": self._supervisor.adapters},
            "/v1/lora_adapters/{name}": {"GET": self._supervisor.adapters},
            "/v1/lora_adapters/{name}/rollback": {"POST": change},
            "/v1/load_lora_adapter": {"POST": change},
            "/v1/unload_lora_adapter": {"POST": change},
            "/v1/system/health": {"GET": self.status.system_health},
            "/v1/system/metrics": {"GET": self.metrics.system},
            "/ui": {"GET": self._ui.folder},
            "/ui/": {"GET": self._ui.file},
            "/ui/{file}": {"GET": self._ui.file},
        }

    async def close(self) -> None:
        await self._live.close()
        await self.recorder.close()
        await self._supervisor.close()

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        return await worker_logs.answer(request, self._log, lambda: self.events.closed)

    def _log(self, name: str) -> Path | None:
        seen = self._link.snapshot.get("instances", {}).get(name)
        if seen:
            return Path(seen["log"]) if seen.get("log") else None
        if _BALANCER.fullmatch(name):
            return self._state.log("balancer" if name == "lb" else name)
        return self._state.jobs / name / LOG if _JOB.fullmatch(name) else None


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


def served(admin: Admin, refused: Callable[[str, int], None], grace: float) -> web.AppRunner:
    """Its routes as an application, whose answers have ``grace`` s once it is to end. ``refused`` is told of errors:
    whose fault each was, and its status."""
    app = web.Application(middlewares=[_errors(refused)], client_max_size=CHANGE_BYTES)
    admin.add_routes(app.router)
    return web.AppRunner(
        app, access_log=None, handler_cancellation=True, auto_decompress=False, shutdown_timeout=grace
    )


def _errors(refused: Callable[[str, int], None]) -> Middleware:
    """What goes wrong in the management API becomes an answer in OpenAI's shape."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ProxyError as error:
            refused(str(error.source), error.status)
            headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
            return web.json_response(error.body(), status=error.status, headers={**headers, **error.headers})
        except web.HTTPException as error:
            refused("client", error.status)
            message = error.reason or error.text or ""
            return web.json_response(error_body(error.status, message), status=error.status)
        except ConnectionError:
            raise  # the client went away
        except Exception:
            log.exception("%s %s", request.method, request.path)
            refused("internal", 500)
            return web.json_response(internal_error().body(), status=500)

    return middleware
