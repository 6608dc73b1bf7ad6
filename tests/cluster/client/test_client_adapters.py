"""The client's methods for adapters and models: what each asks, and what it makes of the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.client import SLOW, ClusterClient, ClusterError

Handler = Callable[[httpx.Request], httpx.Response]


def _client(handler: Handler) -> ClusterClient:
    cluster = ClusterClient("http://cluster:1/")
    cluster._http.close()
    cluster._http = httpx.Client(transport=httpx.MockTransport(handler), base_url="http://cluster:1")
    return cluster


def _answers(status: int = 200, **content: Any) -> Handler:
    return lambda request: httpx.Response(status, **content)


@pytest.mark.parametrize(
    ("ask", "method", "path", "body"),
    [
        (lambda c: c.adapter("sql.v2"), "GET", "/v1/lora_adapters/sql.v2", None),
        (lambda c: c.adapter("a/b?c"), "GET", "/v1/lora_adapters/a%2Fb%3Fc", None),
        (
            lambda c: c.load_adapter("sql", Path("/a")), "POST", "/v1/load_lora_adapter",
            {"lora_name": "sql", "lora_path": "/a"},
        ),
        (
            lambda c: c.load_adapter("sql", "/a", replace=True, description=""), "POST", "/v1/load_lora_adapter",
            {"lora_name": "sql", "lora_path": "/a", "load_inplace": True, "description": ""},
        ),
        (
            lambda c: c.load_adapter("sql", "/a", allow_no_effect=True), "POST", "/v1/load_lora_adapter",
            {"lora_name": "sql", "lora_path": "/a", "allow_no_effect": True},
        ),
        (lambda c: c.unload_adapter("sql"), "POST", "/v1/unload_lora_adapter", {"lora_name": "sql"}),
        (lambda c: c.rollback_adapter("sql"), "POST", "/v1/lora_adapters/sql/rollback", {}),
        (lambda c: c.rollback_adapter("sql", 2), "POST", "/v1/lora_adapters/sql/rollback", {"version": 2}),
    ],
)  # fmt: skip
def test_each_method_is_one_request(
    ask: Callable[[ClusterClient], Any], method: str, path: str, body: dict[str, Any] | None
) -> None:
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"answer": 1})

    with _client(handler) as cluster:
        assert ask(cluster) == {"answer": 1}
    (request,) = asked
    assert (request.method, request.url.raw_path.decode()) == (method, path)
    assert (json.loads(request.content) if request.content else None) == body
    patience = request.extensions["timeout"]["read"]
    assert patience == SLOW if method == "POST" else patience < SLOW


@pytest.mark.parametrize(
    ("ask", "path", "key"),
    [(lambda c: c.adapters(), "/v1/lora_adapters", "adapters"), (lambda c: c.models(), "/v1/models", "data")],
)
def test_lists_come_without_their_wrapping(ask: Callable[[ClusterClient], Any], path: str, key: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.url.path == path
        return httpx.Response(200, json={key: [{"n": 1}]})

    with _client(handler) as cluster:
        assert ask(cluster) == [{"n": 1}]


@pytest.mark.parametrize("answer", [{}, [], None, {"adapters": None, "data": {}}])
def test_an_answer_without_the_list_is_somebody_elses(answer: Any) -> None:
    with _client(_answers(json=answer)) as cluster:
        for ask in (cluster.adapters, cluster.models):
            with pytest.raises(ClusterError, match="no clusterctl answers there"):
                ask()


def test_a_refusal_is_told_in_the_clusters_words() -> None:
    body = {"error": {"message": "instance_1 refused 'sql': rank 64 is above 16"}}
    with _client(_answers(409, json=body)) as cluster, pytest.raises(ClusterError, match="instance_1 refused") as error:
        cluster.load_adapter("sql", "/a")
    assert error.value.status == 409


def _chat(content: str | None) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


@pytest.mark.parametrize(("content", "expected"), [("Ahoy", "Ahoy"), (None, "")])
def test_a_model_is_asked_in_a_chat_and_always_answers_alike(content: str | None, expected: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/chat/completions"
        assert json.loads(request.content) == {
            "model": "sql", "max_tokens": 7, "temperature": 0, "messages": [{"role": "user", "content": "hi"}],
        }
        return httpx.Response(200, json=_chat(content))

    with _client(handler) as cluster:
        assert cluster.ask("sql", "hi", 7) == expected


def test_a_model_without_chat_template_completes() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if "chat" in request.url.path:
            return httpx.Response(400, json={"error": {"message": "no chat template"}})
        assert json.loads(request.content)["prompt"] == "hi"
        return httpx.Response(200, json={"choices": [{"text": " there"}]})

    with _client(handler) as cluster:
        assert cluster.ask("sql", "hi", 7) == " there"


@pytest.mark.parametrize("status", [404, 500, 503])
def test_any_other_failure_of_the_chat_is_the_answer(status: int) -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(status, json={"error": {"message": "words"}})

    with _client(handler) as cluster, pytest.raises(ClusterError, match="words") as error:
        cluster.ask("sql", "hi", 7)
    assert error.value.status == status and asked == ["/v1/chat/completions"]


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": None}, [], {"choices": [{"message": None}]}])
def test_an_answer_without_text_is_a_cluster_error(answer: Any) -> None:
    with _client(_answers(json=answer)) as cluster, pytest.raises(ClusterError, match="without text"):
        cluster.ask("sql", "hi", 7)


def _streams(*lines: str) -> Handler:
    return _answers(content=iter(f"{line}\n\n".encode() for line in lines))


def test_the_first_token_ends_the_measurement() -> None:
    with _client(_streams(": comment", 'data: {"choices": [{"text": "a"}]}', "data: [DONE]")) as cluster:
        assert 0 < cluster.first_token("sql", "hi") < 60


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (_streams('data: {"error": {"message": "worker lost"}}'), "worker lost"),
        (_streams('data: {"error": "lost"}'), "lost"),
        (_streams("data: {half"), "without a token"),
        (_streams("data: [DONE]"), "without a token"),
        (_streams(), "without a token"),
        (_answers(404, json={"error": {"message": "no model 'sql'"}}), "no model 'sql'"),
        (_answers(502, text="<html>"), "no clusterctl answers there"),
    ],
)
def test_an_answer_without_a_token_says_why(handler: Handler, expected: str) -> None:
    with _client(handler) as cluster, pytest.raises(ClusterError, match=expected):
        cluster.first_token("sql", "hi")


def test_a_stream_that_breaks_is_a_cluster_error() -> None:
    class Broken(httpx.SyncByteStream):
        def __iter__(self) -> Any:
            yield b": comment\n"
            raise httpx.ReadError("")

    with _client(_answers(stream=Broken())) as cluster, pytest.raises(ClusterError, match=r"^http://cluster:1/: .+"):
        cluster.first_token("sql", "hi")
