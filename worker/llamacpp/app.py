"""The routes that a worker has, each behind the key of its start."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from worker.engines import key_guard
from worker.llamacpp import generation, metrics
from worker.llamacpp.engine import LlamaEngine
from worker.llamacpp.generation import ENGINE, FINGERPRINT, body_of
from worker.sim.api import messages
from worker.sim.api.fields import Check, boolean, checked, integer, list_of, string
from worker.sim.api.sse import dumps
from worker.sim.errors import ApiError
from worker.spec import SEATS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MOST_BODY = 1 << 30  # bytes; the balancer has a smaller limit of its own


def build(engine: LlamaEngine, version: str) -> web.Application:
    """The application around ``engine``; ``version`` of the wheel."""
    app = web.Application(middlewares=[_middleware(engine.settings.key.encode())], client_max_size=_MOST_BODY)
    app[ENGINE], app[FINGERPRINT] = engine, f"llamacpp-{version}"
    for path, handler in (
        ("/health", health), ("/ping", health), ("/version", version_of), ("/metrics", series), ("/v1/models", models),
        (SEATS, seats),
    ):  # fmt: skip
        app.router.add_get(path, handler, allow_head=False)
    for path, post in (
        ("/v1/completions", generation.completions), ("/v1/chat/completions", generation.chat_completions),
        ("/tokenize", tokenize), ("/detokenize", detokenize),
    ):  # fmt: skip
        app.router.add_post(path, post)
    if engine.settings.lora:
        app.router.add_post("/v1/load_lora_adapter", load_lora_adapter)
        app.router.add_post("/v1/unload_lora_adapter", unload_lora_adapter)
    return app


def _middleware(key: bytes) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not key_guard.admits(given, key):
            refused = web.Response(body=key_guard.REFUSAL, status=401, content_type="application/json")
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        try:
            return await handler(request)
        except ApiError as error:
            return _json(error.body(), error.status)
        except web.HTTPNotFound:
            message = f"llama.cpp has no {request.path[:100]} here: it completes texts and chats"
            return _json({"error": {"message": message, "type": "NotFoundError", "param": None, "code": 404}}, 404)

    return middleware


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=dumps(value).encode(), status=status, content_type="application/json")


async def health(request: web.Request) -> web.Response:
    """GET /health: 503 once llama.cpp is gone."""
    return web.Response(status=503 if request.app[ENGINE].failed.is_set() else 200)


async def version_of(request: web.Request) -> web.Response:
    """GET /version."""
    return _json({"version": request.app[FINGERPRINT]})


async def series(request: web.Request) -> web.Response:
    """GET /metrics."""
    page = await request.app[ENGINE].metrics()
    return web.Response(body=page.encode(), headers={"Content-Type": metrics.CONTENT_TYPE})


async def seats(request: web.Request) -> web.Response:
    """How many requests are computed at a time, as the guard of a vLLM worker answers."""
    return _json({"seats": request.app[ENGINE].settings.slots})


async def models(request: web.Request) -> web.Response:
    """GET /v1/models: the served names, then the adapters."""
    engine = request.app[ENGINE]
    settings = engine.settings
    cards = [_card(name, str(settings.model), None, settings.context) for name in settings.names]
    cards += [_card(name, path, settings.names[0], None) for name, path in engine.adapters.items()]
    return _json({"object": "list", "data": cards})


def _card(name: str, root: str, parent: str | None, context: int | None) -> dict[str, Any]:
    return {
        "id": name, "object": "model", "created": int(time.time()), "owned_by": "llamacpp", "root": root,
        "parent": parent, "max_model_len": context,
    }  # fmt: skip


_TOKENIZE: dict[str, tuple[Check, bool]] = {
    "model": (string, True), "prompt": (string, False), "messages": (messages.check_messages, False),
    "add_special_tokens": (boolean, False), "return_token_strs": (boolean, True),
}  # fmt: skip


async def tokenize(request: web.Request) -> web.Response:
    """POST /tokenize: a prompt or messages."""
    engine, body = request.app[ENGINE], await body_of(request)
    made = checked(body, _TOKENIZE, () if "messages" in body else ("prompt",))
    engine.resolve(made.get("model"))
    if "prompt" in body:
        ids = await engine.native.ids_of(made["prompt"], made.get("add_special_tokens", True))
    else:
        generation.text_only(made["messages"])
        ids = await engine.prompt_of(body)
    names = [await engine.native.text_of([token]) for token in ids] if made.get("return_token_strs") else None
    limit = engine.settings.context
    return _json({"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": names})


async def detokenize(request: web.Request) -> web.Response:
    """POST /detokenize: special tokens are shown."""
    engine = request.app[ENGINE]
    table: dict[str, tuple[Check, bool]] = {"model": (string, True), "tokens": (list_of(integer, least=0), False)}
    made = checked(await body_of(request), table, ("tokens",))
    engine.resolve(made.get("model"))
    return _json({"prompt": await engine.native.text_of(made["tokens"])})


async def load_lora_adapter(request: web.Request) -> web.Response:
    """POST /v1/load_lora_adapter."""
    made = checked(await body_of(request), {"lora_name": (string, False), "lora_path": (string, False)},
                    ("lora_name", "lora_path"))  # fmt: skip
    await request.app[ENGINE].load(made["lora_name"], made["lora_path"])
    return web.Response(text=f"Success: LoRA adapter '{made['lora_name']}' added successfully.")


async def unload_lora_adapter(request: web.Request) -> web.Response:
    """POST /v1/unload_lora_adapter."""
    made = checked(await body_of(request), {"lora_name": (string, False)}, ("lora_name",))
    await request.app[ENGINE].unload(made["lora_name"])
    return web.Response(text=f"Success: LoRA adapter '{made['lora_name']}' removed successfully.")
