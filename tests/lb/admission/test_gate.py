"""Every route of the balancer, with every method, and keys that open nothing: the table of routes is walked, so that a
new one cannot be forgotten."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from config.identity import api_keys
from config.identity.api_keys import ApiKey, Digest
from config.identity.principal import Scope
from lb.protocol import routes
from lbfakes import DEADLINE_S, Balanced, Worker, card, listening, running_balancer, running_worker

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")

#: What whoever has no key may call: it says nothing of models, and changes nothing.
OPEN = frozenset({"/health", "/", "/ui", "/ui/", "/ui/app.js", "/metrics", routes.SESSION})

GOOD, BOUND, READ, OLD = "cck_good", "cck_bound", "cck_read", "cck_old"


def _key(secret: str, name: str, **fields: Any) -> dict[str, Any]:
    return ApiKey(name, digests=(Digest(api_keys.digest(secret)),), **fields).to_json()


KEYS = [
    _key(GOOD, "good"), _key(BOUND, "bound", models=("lora-a",)), _key(READ, "read", scope=Scope.READ),
    _key("cck_base", "base", models=("base", "lora-a")),
    _key(OLD, "old", expires=1.0), _key("cck_admin", "admin", scope=Scope.ADMIN),
]  # fmt: skip

#: The header lines of who is not let in, and how that is answered at most.
BAD: dict[str, tuple[bytes, ...]] = {
    "none": (),
    "wrong": (b"Authorization: Bearer cck_wrong",),
    "wrong, Anthropic's": (b"x-api-key: cck_wrong",),
    "expired": (b"x-api-key: cck_old",),
    "quotes": (b'Authorization: Bearer "cck_good"',),
    "not UTF-8": (b"x-api-key: cck_good\xff\xfe",),
    "both": (b"Authorization: Bearer cck_good", b"x-api-key: cck_good"),
    "twice": (b"x-api-key: cck_good", b"x-api-key: cck_good"),
    "twice, OpenAI's": (b"Authorization: Bearer cck_good", b"Authorization: Bearer cck_good"),
    "another scheme": (b"Authorization: Basic cck_good",),
    "NUL": (b"x-api-key: cck_good\0",),
    "1 MB": (b"x-api-key: " + b"a" * 2**20,),
    "with an underscore": (b"x_api_key: cck_good",),
}


def _paths(balancer: Balanced) -> list[str]:
    """Every route that there is, the engine's and ours."""
    app = web.Application()
    balancer.parts.admin.add_routes(app.router)
    ours = {route.resource.canonical for route in app.router.routes() if route.resource is not None}
    found = {path.replace("{name}", "x").replace("{file}", "app.js") for path in ours} | routes.WORKERS
    return sorted(found | {"/v1/responses/resp_1", "/v1/responses/resp_1/cancel", "/extra", "/nowhere"})


def _asks(method: str, path: str, lines: tuple[bytes, ...], body: bytes = b"") -> bytes:
    fields = b"\r\n".join((
        b"Host: localhost", b"Connection: close", b"Content-Type: application/json",
        b"Content-Length: %d" % len(body), *lines,
    ))  # fmt: skip
    return f"{method} {path} HTTP/1.1\r\n".encode() + fields + b"\r\n\r\n" + body


def _by_clients(worker: Worker) -> list[str]:
    """What it was asked, but for what the balancer asks itself."""
    return [seen.target for seen in worker.seen if seen.target != "/metrics"]


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def _methods(pool: Any, services: tuple[str, ...]) -> list[str]:
    """Every method over gRPC that needs a key, by the descriptors of what is served: all but those of the health."""
    needing = [pool.FindServiceByName(name) for name in services if name != "grpc.health.v1.Health"]
    return [f"/{service.full_name}/{method.name}" for service in needing for method in service.methods]


@asynccontextmanager
async def _house(folder: Path, **config: Any) -> AsyncIterator[tuple[Balanced, Worker]]:
    async with running_worker("instance_0") as worker, running_balancer(
        folder, extra_routes=("/extra",), **config
    ) as balancer:
        adapters = card("lora-a", "base"), card("lora-b", "base")
        balancer.push(replace(worker.spec(), models=(card("base"), *adapters)), registered=adapters)
        balancer.parts.keys.apply({"version": [1, 1], "keyed": True, "keys": KEYS})
        yield balancer, worker


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[tuple[Balanced, Worker]]:
    async with _house(tmp_path) as made:
        yield made


@pytest.mark.parametrize("lines", BAD.values(), ids=BAD)
async def test_none_gets_through_on_any_route_with_any_method(
    house: tuple[Balanced, Worker], lines: tuple[bytes, ...]
) -> None:
    balancer, worker = house
    body = json.dumps({"model": "base", "prompt": "x", "input": "x"}).encode()
    limit = asyncio.Semaphore(50)

    async def ask(method: str, path: str) -> tuple[str, str, int, bytes]:
        async with limit:
            try:
                answer = await balancer.raw(_asks(method, path, lines, body))
            except ConnectionError:  # a head of a megabyte is not read to its end
                answer = b""
        return method, path, _status(answer), answer

    paths = _paths(balancer)
    assert len(paths) > 45
    calls = [(method, path) for path in paths for method in METHODS]
    if not lines:  # the connection shows its owner, who needs no key to manage the cluster
        calls = [(method, path) for method, path in calls if _is_for_models(method, path)]
    asked = await asyncio.gather(*(ask(method, path) for method, path in calls))
    for method, path, status, answer in asked:
        if path in OPEN:
            continue
        assert status in (0, 400, 401, 403, 404, 405, 431), (method, path, status)
        assert status != 404 or path == "/nowhere" or not routes.of(path, frozenset({"/extra"})).methods
        for secret in (b"cck_good", b"cck_wrong", b"cck_old", b"aaaa"):
            assert secret not in answer, (method, path)
    assert _by_clients(worker) == []


@pytest.mark.parametrize("lines", BAD.values(), ids=BAD)
async def test_none_gets_through_over_grpc(tmp_path: Path, lines: tuple[bytes, ...]) -> None:
    """The services that the server says it has are walked, so that a new one cannot be forgotten."""
    import grpc

    from lb.rpc.services import CHAT, SERVED

    listener = listening()
    async with (
        _house(tmp_path, rpc_listener=listener) as (balancer, worker),
        grpc.aio.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel,
    ):  # fmt: skip
        assert balancer.parts.rpc is not None
        messages = balancer.parts.rpc.messages
        body = messages.request(prompt="x", expert_id="base").SerializeToString()
        split = (line.split(b": ", 1) for line in lines)
        metadata = [(name.decode().lower(), value.decode("latin-1")) for name, value in split]
        methods = _methods(messages.pool, SERVED)
        assert len(methods) == 2
        for method in methods:
            with pytest.raises((grpc.aio.AioRpcError, ValueError, UnicodeError)) as refused:  # some cannot be sent
                call = channel.stream_stream(method)(iter([body]), metadata=metadata, timeout=DEADLINE_S)
                await call.read()
            said = str(refused.value)
            if isinstance(refused.value, grpc.aio.AioRpcError):
                codes = grpc.StatusCode
                allowed = (codes.UNAUTHENTICATED, codes.INVALID_ARGUMENT, codes.RESOURCE_EXHAUSTED, codes.INTERNAL)
                assert refused.value.code() in allowed, method
                assert "cck_good" not in said and "cck_wrong" not in said and "aaaa" not in said
        good = channel.stream_stream(CHAT)(
            iter([body]), metadata=[("x-api-key", GOOD)], timeout=DEADLINE_S
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await good.read()  # the worker here answers no stream
        assert _by_clients(worker) == ["/v1/chat/completions"], "that one, and none before it"
        assert GOOD not in str(worker.seen[-1].headers)
    listener.close()


def _is_for_models(method: str, path: str) -> bool:
    route = routes.of(path)
    return not route.ours or route.is_for_models(method) or path == routes.MODELS


@pytest.mark.parametrize("line", [b"Authorization: Bearer cck_good", b"x-api-key: cck_good"])
async def test_a_key_for_models_manages_nothing(house: tuple[Balanced, Worker], line: bytes) -> None:
    balancer, _ = house
    for path in _paths(balancer):
        if path in OPEN - {"/metrics"}:
            continue
        for method in METHODS:
            if _is_for_models(method, path):
                continue
            answer = await balancer.raw(_asks(method, path, (line,)))
            assert _status(answer) == 403, (method, path, answer)
            assert b"good" in answer or method == "HEAD", "it says whose scope is too small"


async def test_a_key_to_look_changes_nothing_and_asks_no_model(house: tuple[Balanced, Worker]) -> None:
    balancer, worker = house
    line = (b"x-api-key: cck_read",)
    for path in ("/v1/cluster/status", "/v1/system/health", "/v1/system/metrics", "/v1/cluster/history", "/metrics"):
        assert _status(await balancer.raw(_asks("GET", path, line))) == 200, path
    for path in ("/v1/cluster/keys", "/v1/cluster/keys/x", "/v1/cluster/instances/x/logs"):
        assert _status(await balancer.raw(_asks("GET", path, line))) == 403, path
    for path in _paths(balancer):
        if path in OPEN:
            continue
        for method in ("POST", "PATCH", "DELETE"):
            assert _status(await balancer.raw(_asks(method, path, line))) in (403, 404, 405), (method, path)
    assert _by_clients(worker) == []


@pytest.mark.parametrize("header", [{"Authorization": f"Bearer {GOOD}"}, {"x-api-key": GOOD}])
async def test_a_good_key_opens_and_goes_no_further(house: tuple[Balanced, Worker], header: dict[str, str]) -> None:
    balancer, worker = house
    assert (await balancer.answer("POST", "/v1/completions", json={"model": "base"}, headers=header))[0] == 200
    assert (await balancer.answer("GET", "/version", headers=header))[0] == 200
    for seen in worker.seen:
        assert GOOD not in str(seen) and "x-api-key" not in seen.headers
    status, models = await balancer.answer("GET", "/v1/models", headers=header)
    assert status == 200 and {one["id"] for one in models["data"]} == {"base", "lora-a", "lora-b"}


async def test_401_has_the_shape_of_the_api_that_was_asked(house: tuple[Balanced, Worker]) -> None:
    balancer, _ = house
    status, said = await balancer.answer("POST", "/v1/chat/completions", json={"model": "base"})
    assert status == 401 and said["error"]["type"] == "AuthenticationError"
    assert said["error"]["code"] == "invalid_api_key"
    status, said = await balancer.answer("POST", "/v1/messages", json={"model": "base"})
    assert status == 401 and said["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("model", "as_said"),
    [("lora-b", "lora-b"), ("base", "base"), (None, None), ("base:lora-b", "base:lora-b"), ("nothing", "nothing"),
     ("lora-aa", "lora-aa")],
)  # fmt: skip
async def test_of_a_key_that_is_bound_other_models_do_not_exist(
    house: tuple[Balanced, Worker], model: str | None, as_said: str | None
) -> None:
    """The words are those for a model that nobody has: they tell nothing of others."""
    balancer, worker = house
    body = {"prompt": "x", **({} if model is None else {"model": model})}
    paths = sorted(routes.WORKERS - routes.NEUTRAL - routes.WEBSOCKET)
    assert len(paths) > 15
    for path in paths:
        status, said = await balancer.answer("POST", path, json=body, headers={"x-api-key": BOUND})
        assert status == 404 and worker.seen == [], path
        words = re.sub(r" \(did you mean 'lora-a'\?\)", "", said["error"]["message"])
        assert words == f"The model `{as_said}` does not exist.", path
        assert (await balancer.answer("POST", path, json=body, headers={"x-api-key": GOOD}))[0] in (200, 404, 503), path
        worker.seen.clear()


@pytest.mark.parametrize("headers", [{"X-Amzn-SageMaker-Adapter-Identifier": "lora-b"}])
async def test_of_a_key_that_is_bound_no_other_way_to_name_a_model_leads_further(
    house: tuple[Balanced, Worker], headers: dict[str, str]
) -> None:
    balancer, worker = house
    given = {**headers, "x-api-key": BOUND}
    assert (await balancer.answer("POST", "/invocations", json={"prompt": "x"}, headers=given))[0] == 404
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nlora-b\r\n--b--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b", "x-api-key": BOUND}
    assert (await balancer.answer("POST", "/v1/audio/transcriptions", data=form, headers=kind))[0] == 404
    assert (await balancer.answer("GET", "/v1/realtime", headers={"x-api-key": BOUND}))[0] == 403
    assert (await balancer.answer("POST", "/extra", json={}, headers={"x-api-key": BOUND}))[0] == 404
    assert worker.seen == []
    assert (await balancer.answer("GET", "/version", headers={"x-api-key": BOUND}))[0] == 200


async def test_a_key_that_is_bound_sees_its_models_only(house: tuple[Balanced, Worker]) -> None:
    balancer, _ = house
    status, models = await balancer.answer("GET", "/v1/models", headers={"x-api-key": BOUND})
    assert (status, [one["id"] for one in models["data"]]) == (200, ["lora-a"])


async def test_one_model_is_looked_up_like_all(house: tuple[Balanced, Worker]) -> None:
    balancer, _ = house
    bound, good = {"x-api-key": BOUND}, {"x-api-key": GOOD}
    status, found = await balancer.answer("GET", "/v1/models/lora-a", headers=bound)
    assert (status, found["id"], found["parent"]) == (200, "lora-a", "base")
    status, found = await balancer.answer("GET", "/v1/models/base", headers=bound)
    assert (status, found["error"]["code"]) == (404, 404) and "`base` does not exist" in found["error"]["message"]
    assert (await balancer.answer("GET", "/v1/models/base", headers=good))[0] == 200
    for name in ("of/a/hub", "of%2Fa%2Fhub", "load", "<b>", "x" * 2000):
        assert (await balancer.answer("GET", f"/v1/models/{name}", headers=good))[0] in (404, 405)
    assert (await balancer.answer("DELETE", "/v1/models/base", headers=good))[0] == 403


async def test_some_models_may_be_open(tmp_path: Path) -> None:
    async with _house(tmp_path, anonymous_models=("base",)) as (balancer, worker):
        assert (await balancer.answer("POST", "/v1/completions", json={"model": "base"}))[0] == 200
        assert (await balancer.answer("POST", "/v1/completions", json={"model": "lora-a"}))[0] == 404
        assert [one["id"] for one in (await balancer.answer("GET", "/v1/models"))[1]["data"]] == ["base"]
        wrong = {"x-api-key": "cck_wrong"}
        assert (await balancer.answer("POST", "/v1/completions", json={"model": "base"}, headers=wrong))[0] == 401
        assert len(worker.seen) == 1


async def test_a_key_is_good_until_the_supervisor_says_otherwise(house: tuple[Balanced, Worker]) -> None:
    """Also on a connection that has been let in."""
    balancer, _ = house
    header = {"x-api-key": GOOD}
    assert (await balancer.answer("GET", "/version", headers=header))[0] == 200
    balancer.parts.keys.apply({"version": [1, 2], "keyed": True, "keys": KEYS[1:]})
    assert (await balancer.answer("GET", "/version", headers=header))[0] == 401
    balancer.parts.keys.apply({"version": [1, 3], "keyed": True, "keys": []})
    assert (await balancer.answer("GET", "/version"))[0] == 200, "there is none any more, and this is loopback"


async def test_a_response_is_read_with_the_key_that_it_was_made_with(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response({"id": request.path.rpartition("/")[2], "object": "response"})
        asked.append(await request.json())
        return web.json_response({"id": asked[-1].get("request_id", "resp_own"), "object": "response"})

    async with _house(tmp_path) as (balancer, worker):
        worker.answer = answer
        made = {"model": "base", "input": "x", "request_id": "resp_mine"}
        status, said = await balancer.answer("POST", "/v1/responses", json=made, headers={"x-api-key": GOOD})
        response = said["id"]
        assert status == 200 and response != "resp_mine", "no client chooses an id that others may have"
        path = f"/v1/responses/{response}"
        assert (await balancer.answer("GET", path, headers={"x-api-key": GOOD}))[0] == 200
        before = len(worker.seen)
        other = {"x-api-key": "cck_admin"}
        for method, where in (("GET", path), ("POST", f"{path}/cancel")):
            status, said = await balancer.answer(method, where, headers=other)
            assert status == 404 and said["error"]["message"] == f"Response with id '{response}' not found."
        follow = {"model": "base", "input": "y", "previous_response_id": response}
        assert (await balancer.answer("POST", "/v1/responses", json=follow, headers=other))[0] == 404
        assert len(worker.seen) == before
        assert (await balancer.answer("POST", "/v1/responses", json=follow, headers={"x-api-key": GOOD}))[0] == 200
        for body in (b"{}", b' { "model" : "base" } \n', b'{"model": "base", "input": "' + b"x" * 2**21 + b'"}'):
            kind = {"x-api-key": GOOD, "Content-Type": "application/json"}
            assert (await balancer.answer("POST", "/v1/responses", data=body, headers=kind))[0] == 200
            assert asked[-1]["request_id"].startswith("resp_")


async def test_nothing_of_a_key_is_written_down(
    house: tuple[Balanced, Worker], caplog: pytest.LogCaptureFixture
) -> None:
    balancer, _ = house
    for secret in (GOOD, "cck_wrong", OLD):
        await balancer.answer("POST", "/v1/completions", json={"model": "base"}, headers={"x-api-key": secret})
    _, why = await balancer.answer("GET", "/v1/cluster/why", headers={"x-api-key": READ})
    _, metrics = 0, await (await balancer.request("GET", "/metrics")).text()
    files = b"".join(file.read_bytes() for file in balancer.state_dir.rglob("*") if file.is_file())
    for secret in (GOOD, "cck_wrong", OLD, READ):
        assert secret not in json.dumps(why) + metrics + caplog.text and secret.encode() not in files


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 200), ("?model=base", 200), ("?model=lora-a", 403), ("?model=lora-b", 404), ("?model=base&model=lora-b", 404),
     ("?model=%62ase", 200), ("?model=", 200), ("?x=%ff", 200)],
)  # fmt: skip
async def test_over_a_websocket_a_key_for_the_base_model_asks_that(
    house: tuple[Balanced, Worker], query: str, status: int
) -> None:
    """The engine answers with it, whatever is named there (`test_realtime_is_the_base_models`). Our worker here takes
    no WebSocket, and answers a plain GET."""
    balancer, worker = house
    key = {"x-api-key": "cck_base"}
    assert (await balancer.answer("GET", f"/v1/realtime{query}", headers=key))[0] == status
    assert len(_by_clients(worker)) == (status == 200)
    # A server that nobody here started may be asked for anything once a socket is open.
    balancer.push(replace(worker.spec(), managed=False))
    assert (await balancer.answer("GET", f"/v1/realtime{query}", headers=key))[0] == 403
    assert (await balancer.answer("GET", f"/v1/realtime{query}", headers={"x-api-key": GOOD}))[0] == 200


def test_realtime_is_the_base_models() -> None:
    """What the rule above rests on: vLLM's handler hands no adapter to its engine."""
    package = importlib.util.find_spec("vllm")
    if package is None or package.origin is None:
        pytest.skip("vLLM is not installed")
    source = (Path(package.origin).parent / "entrypoints/speech_to_text/realtime/connection.py").read_text()
    assert "engine_client.generate(" in source and "lora" not in source
