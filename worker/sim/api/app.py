"""The aiohttp application: routes, and the one middleware with authentication, request ids and errors."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from aiohttp.typedefs import Middleware

from worker.engines import key_guard
from worker.sim.api import control, generation, routes
from worker.sim.errors import ApiError
from worker.sim.settings import SimSettings
from worker.sim.worker import Worker
from worker.spec import SEATS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build(worker: Worker) -> web.Application:
    """The application around ``worker``."""
    app = web.Application(middlewares=[_middleware(worker.settings)], client_max_size=1 << 30)
    app["worker"] = worker
    router = app.router
    for path, handler in (
        ("/health", routes.health),
        ("/ping", routes.health),
        ("/load", routes.load),
        ("/version", routes.version),
        ("/metrics", routes.metrics),
        ("/v1/models", routes.models),
        ("/sim/state", control.state),
        (SEATS, control.seats),
    ):
        router.add_get(path, handler, allow_head=False)
    router.add_post("/ping", routes.health)
    router.add_post("/v1/completions", generation.completions)
    router.add_post("/v1/chat/completions", generation.chat_completions)
    router.add_post("/v1/messages", generation.messages)
    router.add_post("/v1/responses", generation.responses)
    router.add_post("/invocations", generation.invocations)
    router.add_post("/tokenize", routes.tokenize)
    router.add_post("/detokenize", routes.detokenize)
    if worker.settings.runtime_lora:
        router.add_post("/v1/load_lora_adapter", routes.load_lora_adapter)
        router.add_post("/v1/unload_lora_adapter", routes.unload_lora_adapter)
    if worker.settings.dev_mode:
        router.add_post("/sleep", control.sleep)
        router.add_post("/wake_up", control.wake_up)
        router.add_get("/is_sleeping", control.is_sleeping, allow_head=False)
    router.add_post("/sim/fault", control.set_fault)
    router.add_delete("/sim/fault", control.clear_faults)
    app.on_response_prepare.append(_server_header)
    return app


async def _server_header(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "uvicorn"
    if response.get(routes.BARE):
        response.headers.popall("Content-Type", None)
    request_id = request.get("echoed_request_id")
    if request_id:
        response.headers["X-Request-Id"] = request_id


def _middleware(settings: SimSettings) -> Middleware:
    keys = [key.encode() for key in settings.api_keys]

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if settings.request_id_headers:
            request["echoed_request_id"] = request.headers.get("X-Request-Id", uuid.uuid4().hex)
        if keys and not _admitted(request, keys):
            refused = web.Response(body=key_guard.REFUSAL, status=401, content_type="application/json")
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        return await _answer(request, handler)

    return middleware


def _admitted(request: web.Request, keys: Iterable[bytes]) -> bool:
    """As our middleware has it in vLLM."""
    given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
    return any(key_guard.admits(given, key) for key in keys)


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run the handler and turn what it raises into vLLM's answers."""
    try:
        return await handler(request)
    except ApiError as exc:
        return routes.error_response(exc)
    except generation.Reset:
        return web.Response()  # goes nowhere: the connection is gone
    except web.HTTPMethodNotAllowed as exc:
        response = routes.json_response({"detail": "Method Not Allowed"}, 405)
        response.headers["Allow"] = ", ".join(sorted(exc.allowed_methods))
        return response
    except web.HTTPNotFound:
        return routes.json_response({"detail": "Not Found"}, 404)
