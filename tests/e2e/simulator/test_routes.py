"""The simulated worker and vLLM: which routes there are, who may ask them, and what they count."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings

import routed
from conformance import COMPLETIONS, MARKS, same, send
from harness import AS_CLUSTER, WORKER_KEY
from worker.spec import SEATS

pytestmark = MARKS

_METHODS = ("GET", "POST", "DELETE", "OPTIONS", "HEAD")


def test_no_route_of_either_answers_without_the_key(urls: tuple[str, str]) -> None:
    """All that the real one says it has, what its description leaves out, and what nobody has."""
    described = json.loads(send(urls[0], "GET", "/openapi.json")[2])["paths"]
    routes = [(method.upper(), path) for path, methods in described.items() for method in methods]
    assert {("POST", "/invocations"), ("DELETE", "/adapters/{adapter_name}"), ("GET", "/health")} <= set(routes)
    paths = (SEATS, "/metrics", "/docs", "/openapi.json", "/nope", "/")
    routes += [(method, path) for path in paths for method in _METHODS]
    wrong = [{"Authorization": text} for text in ("", "Bearer wrong", WORKER_KEY, f"Basic {WORKER_KEY}")]
    for method, path in routes:
        for headers in wrong:
            found = [send(url, method, path, headers=headers) for url in urls]
            for status, fields, text in found:
                assert (status, fields["WWW-Authenticate"]) == (401, "Bearer"), (method, path, headers)
                assert method == "HEAD" or json.loads(text)["error"]["type"] == "AuthenticationError"
    for path in ("/health", "/metrics", "/v1/models", "/version", SEATS):
        assert [send(url, "GET", path)[0] for url in urls] == [200, 200]
    for url in urls:
        assert json.loads(send(url, "GET", SEATS)[2])["seats"] > 0, "how many requests it computes at a time"


@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"Authorization": "Bearer x"}, 401), (AS_CLUSTER, 403)])
def test_a_websocket_needs_the_key_too(vllm_worker_url: str, headers: dict[str, str], status: int) -> None:
    """With it, vLLM refuses a route that this model does not have."""
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    answer = httpx.get(f"{vllm_worker_url}/v1/realtime", headers={**upgrade, **headers}, timeout=10)
    assert answer.status_code == status


GETS = ["/health", "/ping", "/load", "/version", "/v1/models", "/nope", "/", "/v1/completions", "/tokenize"]


@pytest.mark.parametrize("path", GETS)
def test_get(urls: tuple[str, str], path: str) -> None:
    same(urls, "GET", path)


@pytest.mark.parametrize(
    "path", ["/ping", "/v1/models", "/health", "/v1/embeddings", "/pooling", "/score", "/rerank", "/classify"]
)
def test_post_elsewhere(urls: tuple[str, str], path: str) -> None:
    same(urls, "POST", path, {"model": "demo", "input": "x"})


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "PUT", "DELETE"])
def test_other_methods(urls: tuple[str, str], method: str) -> None:
    same(urls, method, COMPLETIONS)


def _metric_names(text: str) -> set[tuple[str, str, tuple[str, ...]]]:
    """Name, type and label names of all of vLLM's own samples."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    made = set()
    for name, labels in re.findall(r"^(vllm:\w+)(?:\{([^}]*)\})? ", text, re.M):
        stems = [name.removesuffix(suffix) for suffix in ("_bucket", "_sum", "_count")]
        family = next((stem for stem in stems if stem in types), name)
        made.add((name, types.get(family, "?"), tuple(sorted(re.findall(r"(\w+)=", labels)))))
    return made


def test_metrics(urls: tuple[str, str]) -> None:
    answers = [send(url, "GET", "/metrics") for url in urls]
    assert answers[1][1]["Content-Type"] == answers[0][1]["Content-Type"]
    real, simulated = (_metric_names(answer[2]) for answer in answers)
    # Static facts about a cache the simulator does not have.
    assert real - simulated <= {item for item in real if item[0] == "vllm:cache_config_info"}
    assert simulated <= real


@pytest.mark.parametrize("worker", [0, 1], ids=["vllm", "sim"])
def test_what_is_routed_is_what_answers_and_what_is_counted_or_it_is_refused(
    urls: tuple[str, str], demo_adapters: dict[str, str], tmp_path: Path, worker: int
) -> None:
    """However a request names its model: in keys that come twice, in escapes, in a header, in other encodings."""
    seen: list[int] = []
    names = tuple(model["id"] for model in json.loads(send(urls[worker], "GET", "/v1/models")[2])["data"])
    assert {names[0], *demo_adapters} <= set(names)
    with routed.routing_to(urls[worker], WORKER_KEY, names, tmp_path) as balancer:

        @settings(max_examples=150, deadline=None, derandomize=True)
        @given(routed.requests(names[:2]))
        def check(asked: routed.Asked) -> None:
            status, answered, counted = balancer.ask(asked)
            seen.append(status)
            if status == 200:
                assert counted in ({answered: 1}, {"none": 1} if answered == names[0] else None)
            else:
                assert status in (400, 404, 415, 422)

        check()
    assert seen.count(200) > 20 and seen.count(400) > 20
