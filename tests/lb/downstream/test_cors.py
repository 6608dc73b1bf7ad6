"""What browsers of other origins are told: what starlette's CORSMiddleware, which vLLM uses, tells them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.topology import BalancerConfig, CorsConfig
from lb.downstream.cors import Cors
from lb.protocol.messages import Grant
from lbfakes import Balanced, Worker

StartWorker = Callable[..., Awaitable[Worker]]
StartBalancer = Callable[..., Awaitable[Balanced]]

A, B = "https://a.example", "https://b.example"


def finder(fields: dict[str, str]) -> Callable[[bytes], str | None]:
    return lambda name: fields.get(name.decode())


# against the original

some = {
    "origins": st.lists(st.sampled_from(["*", A, B, "null"]), max_size=2),
    "methods": st.lists(st.sampled_from(["*", "GET", "POST", "PATCH"]), min_size=1, max_size=2),
    "headers": st.lists(st.sampled_from(["*", "X-A", "Authorization"]), min_size=1, max_size=2),
    "credentials": st.booleans(),
}
asked = st.fixed_dictionaries(
    {"origin": st.sampled_from([A, B, "https://c.example", "null"])},
    optional={
        "access-control-request-method": st.sampled_from(["GET", "POST", "DELETE", "TRACE"]),
        "access-control-request-headers": st.sampled_from(["x-a", "X-A, Authorization", "content-type", "x-b", ""]),
        "access-control-request-private-network": st.just("true"),
    },
)


async def starlettes(
    method: str, fields: dict[str, str], vary: str | None, **config: Any
) -> tuple[int, dict[str, str], bytes]:
    """Status, the fields that matter, and body of its answer."""
    cors = pytest.importorskip("starlette.middleware.cors")
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [] if vary is None else [(b"vary", vary.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"the app"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    made = cors.CORSMiddleware(
        app, allow_origins=config["origins"], allow_methods=config["methods"], allow_headers=config["headers"],
        allow_credentials=config["credentials"],
    )  # fmt: skip
    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    await made({"type": "http", "method": method, "headers": headers, "path": "/"}, receive, send)
    kept = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    kept = {name: value for name, value in kept.items() if name == "vary" or name.startswith("access-")}
    return sent[0]["status"], kept, sent[1]["body"]


@settings(max_examples=3 * settings.default.max_examples)
@given(fields=asked, **some)
def test_a_preflight_is_answered_as_starlette_answers_it(fields: dict[str, str], **config: Any) -> None:
    ours = Cors(**config).preflight(finder(fields))
    theirs = asyncio.run(starlettes("OPTIONS", fields, None, **config))
    if ours is None:
        assert theirs[2] == b"the app"
        return
    status, text, given_fields = ours
    assert (status, {k.lower(): v for k, v in given_fields.items()}, text.encode()) == theirs


@settings(max_examples=3 * settings.default.max_examples)
@given(
    origin=st.sampled_from([None, A, B, "https://c.example"]),
    vary=st.sampled_from([None, "Accept-Encoding", "Accept, Cookie"]), **some,
)
def test_another_answer_says_what_starlette_adds(origin: str | None, vary: str | None, **config: Any) -> None:
    fields = {} if origin is None else {"origin": origin}
    _, theirs, _ = asyncio.run(starlettes("GET", fields, vary, **config))
    lines = Cors(**config).grant(origin).applied([] if vary is None else [f"Vary: {vary}".encode()])
    ours = dict(line.decode().split(": ", 1) for line in lines)
    assert {name.lower(): value for name, value in ours.items()} == theirs


# one of each


def test_a_backends_own_words_are_replaced_not_doubled() -> None:
    kept = [b"Content-Type: text/plain", b"access-control-allow-origin: *", b"Vary: Origin", b"vary: Accept"]
    grant = Cors([A], ["*"], ["*"], False).grant(A)
    assert grant.applied(kept) == [
        b"Content-Type: text/plain", b"Vary: Origin, Accept", b"Access-Control-Allow-Origin: " + A.encode(),
    ]  # fmt: skip


def test_what_is_no_text_of_an_origin_is_granted_nothing() -> None:
    cors = Cors(["*"], ["*"], ["*"], True)
    assert cors.grant("https://\xe9") == Grant()
    assert cors.preflight(finder({"origin": "\xe9", "access-control-request-method": "GET"})) is None


def test_it_goes_with_the_settings_of_a_balancer() -> None:
    config = BalancerConfig(-1, "", "", 0, 0, cors=CorsConfig((A,), ("GET",), ("X-A",), True))
    assert BalancerConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    plain = BalancerConfig(-1, "", "", 0, 0)
    assert BalancerConfig.from_json(json.loads(json.dumps(plain.to_json()))) == plain


# through the balancer


@pytest.fixture
async def open_to_a(start_balancer: StartBalancer, start_worker: StartWorker) -> tuple[Balanced, Worker]:
    balancer, worker = await start_balancer(cors=CorsConfig((A,)), admin_key="k"), await start_worker()
    balancer.push(worker.spec())
    return balancer, worker


PREFLIGHT = {"Origin": A, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/health", "/v1/responses/resp_1", "/nowhere"])
async def test_a_preflight_needs_no_key_and_no_worker(open_to_a: tuple[Balanced, Worker], path: str) -> None:
    balancer, worker = open_to_a
    async with balancer.request("OPTIONS", path, headers=PREFLIGHT) as response:
        assert (response.status, await response.text()) == (200, "OK")
        assert response.headers.getall("Access-Control-Allow-Origin") == [A]
        assert response.headers["Access-Control-Allow-Headers"] == "authorization"
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
    async with balancer.request("OPTIONS", path, headers={**PREFLIGHT, "Origin": B}) as response:
        assert (response.status, await response.text()) == (400, "Disallowed CORS origin")
        assert "Access-Control-Allow-Origin" not in response.headers
    assert worker.seen == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/completions", {"model": "base"}, 200), ("POST", "/v1/completions", {"model": "none"}, 404),
        ("GET", "/v1/models", None, 200), ("GET", "/health", None, 200), ("GET", "/v1/completions", None, 405),
        ("OPTIONS", "/v1/completions", None, 405), ("GET", "/nowhere", None, 404),
    ],
)  # fmt: skip
async def test_answers_and_errors_carry_the_origin_once(
    open_to_a: tuple[Balanced, Worker], method: str, path: str, body: Any, status: int
) -> None:
    balancer, _ = open_to_a
    for _ in range(2):  # what is remembered of it says the same
        async with balancer.request(method, path, json=body, headers={"Origin": A}) as response:
            assert response.status == status
            assert response.headers.getall("Access-Control-Allow-Origin") == [A]
            assert response.headers.getall("Vary") == ["Origin"]
        async with balancer.request(method, path, json=body, headers={"Origin": B}) as response:
            assert response.status == status
            assert "Access-Control-Allow-Origin" not in response.headers
            assert response.headers.getall("Vary") == ["Origin"]


@pytest.mark.parametrize(
    "path", ["/v1/cluster/status", "/v1/system", "/v1/lora_adapters", "/v1/load_lora_adapter", "/metrics", "/ui/", "/"]
)
async def test_what_manages_the_cluster_is_for_no_other_origin(
    start_balancer: StartBalancer, path: str
) -> None:
    balancer = await start_balancer(cors=CorsConfig(("*",), credentials=True))
    for method in ("OPTIONS", "GET", "POST"):
        async with balancer.request(method, path, headers=PREFLIGHT, allow_redirects=False) as response:
            assert not [name for name in response.headers if name.lower().startswith("access-control-")]


async def test_pages_may_read_what_clients_read(start_balancer: StartBalancer, start_worker: StartWorker) -> None:
    """Also of an error, and nothing of what manages the cluster."""
    balancer = await start_balancer(cors=CorsConfig((A,), expose=("X-Request-Id", "Retry-After")))
    balancer.push((await start_worker()).spec())
    for path, body in (("/v1/completions", {"model": "base"}), ("/v1/completions", {"model": "none"})):
        async with balancer.request("POST", path, json=body, headers={"Origin": A}) as response:
            assert response.headers["Access-Control-Expose-Headers"] == "X-Request-Id, Retry-After"
            assert "X-Request-Id" in response.headers
        async with balancer.request("POST", path, json=body, headers={"Origin": B}) as response:
            assert "Access-Control-Expose-Headers" not in response.headers
    async with balancer.request("OPTIONS", "/v1/completions", headers=PREFLIGHT) as response:
        assert "Access-Control-Expose-Headers" not in response.headers, "an answer to nothing that could be read"
    async with balancer.request("GET", "/v1/cluster/status", headers={"Origin": A}) as response:
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]


async def test_without_the_flags_nothing_is_said(balancer: Balanced, start_worker: StartWorker) -> None:
    balancer.push((await start_worker()).spec())
    async with balancer.request("OPTIONS", "/v1/models", headers=PREFLIGHT) as response:
        assert response.status == 405
    async with balancer.request("GET", "/v1/models", headers={"Origin": A}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers
