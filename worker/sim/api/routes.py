"""All routes but generation."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from aiohttp import web

from worker.sim.api import fields, messages, sse
from worker.sim.api.fields import Problems, boolean, check_all, checked, integer, list_of, string
from worker.sim.engine import tokens
from worker.sim.engine.metrics import CONTENT_TYPE
from worker.sim.errors import ApiError, internal
from worker.sim.worker import Worker

# Marks an answer that goes out without a content type, as vLLM's empty and plain-text ones do.
BARE = "bare"


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(body=sse.dumps(value).encode(), status=status, content_type="application/json")


def worker_of(request: web.Request) -> Worker:
    worker: Worker = request.app["worker"]
    return worker


async def request_body(request: web.Request) -> dict[str, Any]:
    return fields.body_object(await request.read(), request.headers.get("Content-Type", ""))


async def health(request: web.Request) -> web.Response:
    """GET /health: a flag only, so a hanging engine is healthy; 503 once it is dead."""
    worker = worker_of(request)
    if fault := worker.faults.fire("slow_health", time.monotonic()):
        await asyncio.sleep(fault.delay_s)
    return _empty(503 if worker.engine.dead else 200)


def _empty(status: int) -> web.Response:
    response = web.Response(status=status)
    response[BARE] = True
    return response


async def load(request: web.Request) -> web.Response:
    """GET /load: always 0 without --enable-server-load-tracking."""
    return json_response({"server_load": 0})


async def version(request: web.Request) -> web.Response:
    """GET /version."""
    return json_response({"version": sse.VERSION})


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics; with ``name[]`` only the series of these names, as `prometheus_client` has it."""
    worker = worker_of(request)
    worker.engine.update_gauges()
    page = worker.metrics.render(request.query.getall("name[]", []))
    return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE})


async def models(request: web.Request) -> web.Response:
    """GET /v1/models: the served names, then the adapters."""
    worker = worker_of(request)
    settings = worker.settings
    cards = [_card(name, settings.model, None, settings.max_model_len) for name in settings.served_names]
    parent = settings.served_names[0]
    cards += [_card(a.name, a.path, parent, None) for a in worker.adapters.loaded.values()]
    return json_response({"object": "list", "data": cards})


def _card(name: str, root: str, parent: str | None, max_model_len: int | None) -> dict[str, Any]:
    created = int(time.time())
    permission = {
        "id": f"modelperm-{os.urandom(8).hex()}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": max_model_len,
        "permission": [permission],
    }


_TOKENIZE = {
    "model": (string, True),
    "prompt": (string, False),
    "messages": (messages.check_messages, False),
    "add_special_tokens": (boolean, False),
    "return_token_strs": (boolean, True),
    "add_generation_prompt": (boolean, False),
    "continue_final_message": (boolean, False),
}


async def tokenize(request: web.Request) -> web.Response:
    """POST /tokenize: a prompt or messages."""
    worker, body = worker_of(request), await request_body(request)
    problems = Problems()
    made = check_all(body, _TOKENIZE, problems)
    is_text = isinstance(made.get("prompt"), str)
    if not is_text and (problems or "messages" not in made):
        missing = Problems()
        for name in ("prompt", "messages"):
            if name not in body:
                missing.note("missing", f"body.{name}", "Field required", body)
        found = [*missing, *problems]
        raise Problems(sorted(found, key=lambda p: not p["loc"].startswith("body.prompt"))).error()
    worker.resolve(made.get("model"))
    worker.check_tokenizer()
    if is_text:
        ids = tokens.encode(made["prompt"], bos=made.get("add_special_tokens", True))
    else:
        text = messages.render(made, worker.settings.served_names[0]).text
        ids = [tokens.BOS] * made.get("add_special_tokens", False) + tokens.encode(text, bos=True)
    names = [tokens.decode([token], special=True) for token in ids] if made.get("return_token_strs") else None
    limit = worker.settings.max_model_len
    return json_response({"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": names})


async def detokenize(request: web.Request) -> web.Response:
    """POST /detokenize: special tokens are shown."""
    worker, body = worker_of(request), await request_body(request)
    problems = Problems()
    made = check_all(body, {"model": (string, True), "tokens": (list_of(integer, least=0), False)}, problems)
    if "tokens" not in body:
        problems.note("missing", "body.tokens", "Field required", body)
    if problems:
        raise problems.error()
    worker.resolve(made.get("model"))
    worker.check_tokenizer()
    return json_response({"prompt": tokens.decode(made["tokens"], special=True)})


async def load_lora_adapter(request: web.Request) -> web.Response:
    """POST /v1/load_lora_adapter."""
    worker = worker_of(request)
    now = time.monotonic()
    if worker.faults.fire("refuse_lora", now):
        raise internal("Call to add_lora method failed: refused by a fault of the simulator")
    slow, dropped = worker.faults.fire("slow_lora", now), worker.faults.fire("drop_lora", now) is not None
    made = _lora_fields(await request_body(request), ("lora_name", "lora_path"))
    worker.engine.preflight(0)
    if worker.draining:
        raise internal("Server shutting down")
    name, path = made["lora_name"], made["lora_path"]
    in_place = bool(made.get("load_inplace"))
    delay_s = slow.delay_s if slow else 0
    return _text(await worker.adapters.load(name, path, in_place=in_place, delay_s=delay_s, dropped=dropped))


async def unload_lora_adapter(request: web.Request) -> web.Response:
    """POST /v1/unload_lora_adapter."""
    made = _lora_fields(await request_body(request), ("lora_name",))
    return _text(worker_of(request).adapters.unload(made["lora_name"]))


def _lora_fields(body: dict[str, Any], needed: tuple[str, ...]) -> dict[str, Any]:
    return checked(body, {**dict.fromkeys(needed, (string, False)), "load_inplace": (boolean, False)}, needed)


def _text(text: str) -> web.Response:
    """Plain text without a content type, as vLLM answers here."""
    response = web.Response(body=text.encode())
    response[BARE] = True
    return response


def error_response(error: ApiError) -> web.Response:
    """An `ApiError` as an answer."""
    return json_response(error.body(), error.status)
