"""The simulated worker answers as a real vLLM worker does: the same requests, the same shapes.

Status code, content type, keys (in order) and value types of every JSON object and of every event must be
equal; ids, times, texts, counts and log probabilities are masked. Where they differ, the simulator is wrong.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx
import pytest
from hypothesis import given, settings

import routed
from config import replay
from harness import AS_CLUSTER, WORKER_KEY
from worker.adapters.tensors import read_header
from worker.probe import Target
from worker.spec import SEATS

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
USER = [{"role": "user", "content": "hello world"}]
# These say the same on both sides or the simulator lies.
EXACT = {
    "object",
    "finish_reason",
    "stop_reason",
    "type",
    "code",
    "param",
    "role",
    "owned_by",
    "index",
    "parent",
}


def _send(url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[Any, ...]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = AS_CLUSTER if raw is None else {**AS_CLUSTER, "Content-Type": "application/json"}
    try:
        connection.request(method, path, raw, {**sent, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def _message(text: str, kind: object) -> str:
    """Error texts are compared without numbers; pydantic's own wording only by its presence."""
    if kind == "Bad Request" or "ValidatorIterator" in text:
        return "<validation>"
    return re.sub(r"-?\d+", "#", text).replace("at least #", "#")


def _mask(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        if key in ("top_logprobs", "prompt_logprobs", "token") or any(name.isdigit() for name in value):
            return {"<token>": [_mask(item, "") for item in value.values()][:1]}
        made = {name: _mask(item, name) for name, item in value.items()}
        if "message" in value and "code" in value:
            made["message"] = _message(value["message"], value.get("type"))
        return list(made.items())
    if isinstance(value, list):
        if all(not isinstance(item, dict | list) for item in value):
            return "<list>"
        return _collapse([_mask(item, key) for item in value])
    if key in EXACT:
        return value
    if key == "id":
        return re.sub(r"-.*", "-…", str(value))
    return None if value is None else type(value).__name__


def _collapse(items: list[Any]) -> list[Any]:
    """Neighbours of the same shape count once: how many there are is the model's business."""
    return [item for index, item in enumerate(items) if index == 0 or item != items[index - 1]]


def _events(text: str) -> list[Any]:
    lines = [line for line in text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines), text
    made = [line.removeprefix("data: ") for line in lines]
    bodies = [json.loads(data) for data in made if data != "[DONE]"]
    if len({choice["index"] for body in bodies for choice in body.get("choices", ())}) > 1:
        # The engine's timing orders several choices and joins their tokens: compare what they have, not when.
        seen = {repr(pair) for body in bodies for pair in _mask(body) if pair[0] != "choices"}
        seen |= {repr(pair) for body in bodies for choice in body["choices"] for pair in _mask(choice)}
        return [*sorted(seen), made[-1]]
    return _collapse([*(_mask(body) for body in bodies), made[-1]])


def _shape(answer: tuple[Any, ...]) -> dict[str, Any]:
    status, headers, text = answer
    kind = headers.get("Content-Type")
    made = {
        "status": status,
        "content-type": kind,
        "allow": headers.get("Allow"),
        "server": headers.get("Server"),
    }
    if kind and kind.startswith("text/event-stream"):
        return {**made, "events": _events(text)}
    if kind == "application/json" and text:
        return {**made, "body": _mask(json.loads(text))}
    return {**made, "body": text if len(text) < 200 else "<text>"}


def _same(urls: tuple[str, str], *request: Any) -> dict[str, Any]:
    """Send one request to both; the shape they share."""
    for _ in range(3):
        real, simulated = (_shape(_send(url, *request)) for url in urls)
        if simulated == real or "events" not in real:
            break
        # A busy vLLM joins the tokens of several steps in one event, and then an event may be missing.
    assert simulated == real
    return real


@pytest.fixture(scope="module")
def sim_worker_url(vllm_worker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A simulated worker told what the real one was told."""
    models = json.loads(_send(vllm_worker_url, "GET", "/v1/models")[2])["data"]
    argv = [sys.executable, "-m", "worker.sim", "--host", "127.0.0.1", "--port", "0"]
    argv += ["--model", models[0]["root"], "--served-model-name", models[0]["id"], "--enable-lora"]
    argv += ["--max-loras", "2", "--max-model-len", str(models[0]["max_model_len"]), "--itl-ms", "1"]
    loaded = [f"{model['id']}={model['root']}" for model in models[1:]]
    argv += ["--lora-modules", *loaded] if loaded else []
    log = tmp_path_factory.mktemp("sim") / "log"
    env = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_API_KEY": WORKER_KEY}
    root = Path(__file__).resolve().parents[2]
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stderr=out, stdin=subprocess.DEVNULL, env=env, cwd=root, process_group=0)
    try:
        yield _wait_for_url(process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"(http://\S+)\n", log.read_text()):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"the simulated worker did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def urls(vllm_worker_url: str, sim_worker_url: str) -> tuple[str, str]:
    """Real, simulated."""
    return vllm_worker_url, sim_worker_url


@pytest.fixture(scope="module")
def context(vllm_worker_url: str) -> int:
    """The context length of both, in tokens."""
    return int(json.loads(_send(vllm_worker_url, "GET", "/v1/models")[2])["data"][0]["max_model_len"])


def test_no_route_of_either_answers_without_the_key(urls: tuple[str, str]) -> None:
    """All that the real one says it has, what its description leaves out, and what nobody has."""
    described = json.loads(_send(urls[0], "GET", "/openapi.json")[2])["paths"]
    routes = [(method.upper(), path) for path, methods in described.items() for method in methods]
    assert {("POST", "/invocations"), ("DELETE", "/adapters/{adapter_name}"), ("GET", "/health")} <= set(routes)
    paths = (SEATS, "/metrics", "/docs", "/openapi.json", "/nope", "/")
    routes += [(method, path) for path in paths for method in _METHODS]
    wrong = [{"Authorization": text} for text in ("", "Bearer wrong", WORKER_KEY, f"Basic {WORKER_KEY}")]
    for method, path in routes:
        for headers in wrong:
            found = [_send(url, method, path, headers=headers) for url in urls]
            for status, fields, text in found:
                assert (status, fields["WWW-Authenticate"]) == (401, "Bearer"), (method, path, headers)
                assert method == "HEAD" or json.loads(text)["error"]["type"] == "AuthenticationError"
    for path in ("/health", "/metrics", "/v1/models", "/version", SEATS):
        assert [_send(url, "GET", path)[0] for url in urls] == [200, 200]
    for url in urls:
        assert json.loads(_send(url, "GET", SEATS)[2])["seats"] > 0, "how many requests it computes at a time"


_METHODS = ("GET", "POST", "DELETE", "OPTIONS", "HEAD")


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
    _same(urls, "GET", path)


@pytest.mark.parametrize(
    "path", ["/ping", "/v1/models", "/health", "/v1/embeddings", "/pooling", "/score", "/rerank", "/classify"]
)
def test_post_elsewhere(urls: tuple[str, str], path: str) -> None:
    _same(urls, "POST", path, {"model": "demo", "input": "x"})


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "PUT", "DELETE"])
def test_other_methods(urls: tuple[str, str], method: str) -> None:
    _same(urls, method, COMPLETIONS)


ALL_USAGE = {"include_usage": True, "continuous_usage_stats": True}
SHARED: list[dict[str, Any]] = [
    {},
    {"return_token_ids": True},
    {"n": 2, "temperature": 1},
    {"echo": True},
    {"echo": True, "return_token_ids": True},
    {"stream": True},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"stream": True, "return_token_ids": True, "stream_options": {"include_usage": True}},
    {"stream": True, "stream_options": ALL_USAGE},
    {"stream": True, "return_token_ids": True, "stream_options": ALL_USAGE},
    {"stream": True, "stream_options": {}},
    {"stream": True, "stream_options": None},
    {"stream": True, "stream_options": {"continuous_usage_stats": True}},
    {"stream": True, "n": 2, "temperature": 1, "return_token_ids": True},
    {"stream": True, "echo": True},
    {"stream": True, "echo": True, "return_token_ids": True},
    {"stream": True, "stop": ["zzzzzzzz"]},
    {"stop": "zzzzzzzz", "include_stop_str_in_output": True},
    {"stop": None},
    {"stop": []},
    {"stop": ""},
    {"stop": 5},
    {"stop": ["a", 5]},
    {"stop": ["a"] * 5},
    {"stop_token_ids": [1.5]},
    {"stop_token_ids": "x"},
    {"stop_token_ids": [999999]},
    {"stop_token_ids": [999999], "stream": True},
    {"max_tokens": None},
    {"max_tokens": 2.0},
    {"max_tokens": "3"},
    {"max_tokens": 2.5},
    {"max_tokens": "x"},
    {"max_tokens": [1]},
    {"max_tokens": 0},
    {"max_tokens": -1},
    {"max_tokens": 10**20},
    {"max_tokens": 0, "stream": True},
    {"min_tokens": 3},
    {"min_tokens": 50},
    {"min_tokens": -1},
    {"min_tokens": "a"},
    {"temperature": "0.5"},
    {"temperature": "hot"},
    {"temperature": -1},
    {"temperature": 3},
    {"temperature": {}},
    {"temperature": -1, "stream": True},
    {"top_p": 0},
    {"top_p": 2},
    {"top_k": -5},
    {"min_p": 3},
    {"presence_penalty": 5},
    {"frequency_penalty": 5},
    {"repetition_penalty": 0},
    {"seed": 3},
    {"seed": 2**70},
    {"seed": "x"},
    {"n": 0},
    {"n": 100000},
    {"n": "q"},
    {"n": 2, "temperature": 0},
    {"n": 2, "temperature": 0, "stream": True},
    {"stream": "true"},
    {"stream": "maybe"},
    {"stream": []},
    {"stream_options": {"include_usage": True}},
    {"stream_options": 4},
    {"stream": True, "stream_options": 4},
    {"stream": True, "stream_options": {"include_usage": "x"}},
    {"model": "nope"},
    {"model": "nope", "stream": True},
    {"model": None},
    {"model": ""},
    {"model": 4},
    {"user": 3},
    {"ignore_eos": "b"},
    {"return_token_ids": "q"},
    {"add_special_tokens": "x"},
    {"add_special_tokens": True, "return_token_ids": True},
    {"add_special_tokens": False, "return_token_ids": True},
    {"logit_bias": {"a": 1}},
    {"logit_bias": {"3": 1}},
    {"logit_bias": {"99999": 1}},
    {"allowed_token_ids": []},
    {"bad_words": [""]},
    {"unknown_field": 1},
    {"request_id": "abc"},
    {"priority": 3},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "nope"}},
    {"cache_salt": ""},
    {"prompt_logprobs": 1},
    {"prompt_logprobs": 1, "stream": True},
    {"truncate_prompt_tokens": 2, "return_token_ids": True},
    {"max_tokens": "x", "temperature": "y"},
]
COMPLETION_ONLY: list[dict[str, Any]] = [
    {"prompt": ["a", "b"]},
    {"prompt": [5, 6, 7], "return_token_ids": True},
    {"prompt": [[5, 6], [7]], "return_token_ids": True},
    {
        "prompt": ["a", "b"],
        "stream": True,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
    },
    {"prompt": [5, 6, 7], "echo": True},
    {"prompt": 5},
    {"prompt": None},
    {"prompt": ""},
    {"prompt": []},
    {"prompt": [""]},
    {"prompt": [[]]},
    {"prompt": [[]], "stream": True},
    {"prompt": [-1]},
    {"prompt": [1.5]},
    {"prompt": ["a", 3]},
    {"prompt": [True, False]},
    {"prompt": ["x", ["y"]]},
    {"prompt": [999999]},
    {"prompt": [999999], "stream": True},
    {"logprobs": 2},
    {"logprobs": 0},
    {"logprobs": 1, "stream": True},
    {"logprobs": 1, "echo": True},
    {"logprobs": 1, "echo": True, "stream": True},
    {"logprobs": 1, "return_tokens_as_token_ids": True},
    {"logprobs": -2},
    {"logprobs": 100},
    {"logprobs": 100, "stream": True},
    {"logprobs": "x"},
    {"n": None},
    {"echo": True, "max_tokens": 0},
    {"echo": True, "max_tokens": 0, "stream": True},
    {"echo": "z"},
    {"suffix": "x"},
    {"n": 2, "prompt": ["a", "b"], "temperature": 1},
]
CHAT_ONLY: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
    {"messages": [{"role": "system", "content": "s"}, *USER, {"role": "assistant", "content": "a"}, *USER]},
    {"messages": [{"role": "user", "content": "x", "name": "bob"}]},
    {"messages": [{"role": "weird", "content": "x"}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": ""}]},
    {"messages": [{"role": "user", "content": []}]},
    {"messages": [{"role": "assistant", "content": None}]},
    {"messages": []},
    {"messages": None},
    {"messages": "x"},
    {"messages": ["x"]},
    {"messages": [{"content": "x"}]},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "user", "content": 5}]},
    {"messages": [{"role": "user", "content": ["plain"]}]},
    {"messages": [{"role": "user", "content": [{"type": "foo", "text": "x"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]},
    {"max_completion_tokens": 2},
    {"max_completion_tokens": 0},
    {"max_completion_tokens": 10**9},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": 2},
    {"logprobs": True, "top_logprobs": 1, "stream": True},
    {"logprobs": True, "top_logprobs": 50},
    {"logprobs": True, "top_logprobs": -2},
    {"logprobs": 2},
    {"logprobs": "x"},
    {"top_logprobs": 2},
    {"n": None},
    {"return_prompt_text": True},
    {"return_prompt_text": True, "stream": True},
    {"tools": []},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"tool_choice": "auto"},
    {"tool_choice": "none"},
    {"continue_final_message": True, "add_generation_prompt": True},
    {"continue_final_message": True, "add_generation_prompt": False},
    {"add_generation_prompt": False},
    {"chat_template": "x"},
    {"reasoning_effort": "low"},
    {"reasoning_effort": "bad"},
]


def _name(case: object) -> str:
    return json.dumps(case)[:70]


@pytest.mark.parametrize("case", [*SHARED, *COMPLETION_ONLY], ids=_name)
def test_completion(urls: tuple[str, str], case: dict[str, Any]) -> None:
    base = {"model": "demo", "prompt": "hello world", "max_tokens": 4, "ignore_eos": True}
    _same(urls, "POST", COMPLETIONS, {**base, **case})


# How a chat without a limit ends is the model's business, so that case is left to the completions.
CHAT_CASES = [case for case in (*SHARED, *CHAT_ONLY) if case.get("max_tokens", 0) is not None]


@pytest.mark.parametrize("case", CHAT_CASES, ids=_name)
def test_chat_completion(urls: tuple[str, str], case: dict[str, Any]) -> None:
    base: dict[str, Any] = {"model": "demo", "messages": USER, "max_tokens": 4, "ignore_eos": True}
    _same(urls, "POST", CHAT, {**base, **case})


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/tokenize", "/detokenize", LOAD, UNLOAD])
@pytest.mark.parametrize("body", [b"{bad", b"", b"[]", b"3", b'"x"', b"{}", b"\xff"], ids=repr)
def test_body_that_is_no_request(urls: tuple[str, str], path: str, body: bytes) -> None:
    _same(urls, "POST", path, body, {"Content-Type": "application/json"})


@pytest.mark.parametrize("kind", ["text/plain", "application/json; charset=utf-8", "application/jsonx"])
def test_content_type(urls: tuple[str, str], kind: str) -> None:
    _same(
        urls,
        "POST",
        COMPLETIONS,
        {"prompt": "x", "max_tokens": 1, "ignore_eos": True},
        {"Content-Type": kind},
    )


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("stream", [False, True])
def test_request_id(urls: tuple[str, str], path: str, stream: bool) -> None:
    body = {"prompt": "x", "messages": USER, "max_tokens": 2, "stream": stream, "ignore_eos": True}
    answers = [_send(url, "POST", path, body, {"X-Request-Id": "given"}) for url in urls]
    for _, headers, text in answers:
        assert '-given"' in text
        assert headers.get("X-Request-Id") is None


ENVELOPES = [
    b"[[5, 6]]\n{}", b"[[5], [6]]\n{}", b"[[5], [6], [7]]\n{}", b"[]\n{}", b"[[]]\n{}", b"[[-1]]\n{}",
    b"[[99999]]\n{}", b"[[1.5]]\n{}", b"[5]\n{}", b"{}\n{}", b"\n{}", b"{}", b"", b"[[5]]\n{bad", b"[[5]]\n",
    b"[[" + b"5," * 5000 + b"5]]\n{}",
]  # fmt: skip


@pytest.mark.parametrize("tell", [{}, {replay.TELL: "1"}])
@pytest.mark.parametrize("body", ENVELOPES, ids=lambda body: repr(body[:20]))
def test_an_answer_made_again(urls: tuple[str, str], body: bytes, tell: dict[str, str]) -> None:
    """Or refused in the same way."""
    asked = {"prompt": "x", "max_tokens": 4, "n": 2, "temperature": 1, "ignore_eos": True}
    sent = body.removesuffix(b"{}") + json.dumps(asked).encode() if body.endswith(b"\n{}") else body
    _same(urls, "POST", COMPLETIONS, sent, {"Content-Type": replay.CONTENT_TYPE, **tell})


def test_each_tells_of_the_tokens_of_a_stream(urls: tuple[str, str]) -> None:
    body = {"prompt": ["x", "y"], "messages": USER, "max_tokens": 9, "stream": True, "return_token_ids": True}
    for path in (COMPLETIONS, CHAT):
        for url in urls:
            status, headers, text = _send(url, "POST", path, {**body, "ignore_eos": True}, {replay.TELL: "1"})
            events, told = replay.take_comments(text.encode())
            assert (status, headers[replay.TELL]) == (200, "1")
            shown: dict[int, list[int]] = {}
            for data in _data(events.decode(), True):
                for choice in data["choices"]:
                    shown.setdefault(choice["index"], []).extend(choice.get("token_ids") or ())
            made: dict[int, list[int]] = {}
            for choice, ids in told:
                made.setdefault(choice, []).extend(map(int, ids.split(b",")))
            assert made == shown and all(len(ids) == 9 for ids in made.values())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("over", [-1, 0, 1, 50])
def test_prompt_near_the_context(urls: tuple[str, str], context: int, over: int, stream: bool) -> None:
    body = {"prompt": [40] * (context + over), "max_tokens": 9, "stream": stream, "ignore_eos": True}
    _same(urls, "POST", COMPLETIONS, body)


@pytest.mark.parametrize("times", [2, 40])
def test_long_text(urls: tuple[str, str], context: int, times: int) -> None:
    text = "~" * (context * times)
    _same(urls, "POST", COMPLETIONS, {"prompt": text, "max_tokens": 2})
    _same(urls, "POST", CHAT, {"messages": [{"role": "user", "content": text}], "max_tokens": 2})


def test_more_tokens_than_the_context(urls: tuple[str, str], context: int) -> None:
    _same(urls, "POST", COMPLETIONS, {"prompt": "x", "max_tokens": context + 1})
    _same(urls, "POST", CHAT, {"messages": USER, "max_tokens": context + 1})
    _same(urls, "POST", CHAT, {"messages": USER, "max_completion_tokens": context + 1})


def _forced(extra: dict[str, Any], token: int) -> dict[str, Any]:
    """A completion in which every token is ``a``, so that both write the same text."""
    body = {
        "prompt": "x",
        "max_tokens": 6,
        "allowed_token_ids": [token],
        "ignore_eos": True,
        "temperature": 0,
    }
    return {**body, **extra}


FORCED: list[dict[str, Any]] = [
    {},
    {"stop": "aa"},
    {"stop": ["aaa", "zz"]},
    {"stop": "aa", "include_stop_str_in_output": True},
    {"stop": "aa", "min_tokens": 4},
    {"stop": "aaaaaaaaa"},
    {"stop_token": True},
    {"stop_token": True, "min_tokens": 0, "include_stop_str_in_output": True},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", FORCED, ids=_name)
def test_forced_text_is_equal(urls: tuple[str, str], case: dict[str, Any], stream: bool) -> None:
    """Stop strings, hold-back and stop ids: here even the texts must agree, chunk by chunk."""
    made = []
    for url in urls:
        ids = json.loads(_send(url, "POST", "/tokenize", {"prompt": "a", "add_special_tokens": False})[2])["tokens"]
        extra = {key: value for key, value in case.items() if key != "stop_token"}
        if case.get("stop_token"):
            extra["stop_token_ids"] = ids
        body = {**_forced(extra, ids[0]), "stream": stream, "return_token_ids": True}
        status, _, text = _send(url, "POST", COMPLETIONS, body)
        assert status == 200, text
        made.append(_texts_by_length([data["choices"][0] for data in _data(text, stream)], ids[0]))
    real, simulated = made
    # A busy vLLM joins the tokens of several steps in one event: it may have shown fewer lengths.
    assert {length: simulated[length] for length in real} == real


def _data(text: str, stream: bool) -> list[dict[str, Any]]:
    if not stream:
        return [json.loads(text)]
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def _texts_by_length(choices: list[dict[str, Any]], token: int) -> dict[int, tuple[Any, ...]]:
    """What a client has after so many tokens: the text, and why it ended if it has."""
    made: dict[int, tuple[Any, ...]] = {}
    count, text = 0, ""
    for choice in choices:
        count, text = count + len(choice["token_ids"]), text + choice["text"]
        reason = choice["stop_reason"]
        made[count] = text, choice["finish_reason"], "<token>" if reason == token else reason
    return made


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "hello world"},
        {"prompt": "hello", "add_special_tokens": False, "return_token_strs": True},
        {"prompt": ""},
        {"prompt": "hello " * 400},
        {"messages": USER},
        {"messages": USER, "add_generation_prompt": False, "return_token_strs": True},
        {"messages": []},
        {"messages": "x"},
        {"prompt": 5},
        {"prompt": ["x"]},
        {"model": "nope", "prompt": "x"},
    ],
    ids=_name,
)
def test_tokenize(urls: tuple[str, str], body: dict[str, Any]) -> None:
    _same(urls, "POST", "/tokenize", body)


@pytest.mark.parametrize(
    "body",
    [
        {"tokens": [5, 6, 7]},
        {"tokens": []},
        {"tokens": [-1]},
        {"tokens": [99999]},
        {"tokens": "x"},
        {"model": "nope", "tokens": [5]},
    ],
    ids=_name,
)
def test_detokenize(urls: tuple[str, str], body: dict[str, Any]) -> None:
    _same(urls, "POST", "/detokenize", body)


@pytest.mark.parametrize("text", ["hello", "héllo wörld 🚀", "a  b\n\tc", "日本語"])
def test_text_survives_tokenization(urls: tuple[str, str], text: str) -> None:
    for url in urls:
        ids = json.loads(_send(url, "POST", "/tokenize", {"prompt": text, "add_special_tokens": False})[2])["tokens"]
        assert json.loads(_send(url, "POST", "/detokenize", {"tokens": ids})[2]) == {"prompt": text}


@pytest.mark.parametrize(
    "body",
    [
        {"lora_name": "x"},
        {"lora_path": "x"},
        {"lora_name": "", "lora_path": "x"},
        {"lora_name": "x", "lora_path": ""},
        {"lora_name": 5, "lora_path": "x"},
        {"lora_name": "demo", "lora_path": "/nonexistent"},
        {"lora_name": "x", "lora_path": "/nonexistent/p"},
        {"lora_name": "x", "lora_path": "/nonexistent/p", "load_inplace": "q"},
    ],
    ids=_name,
)
def test_bad_load(urls: tuple[str, str], body: dict[str, Any]) -> None:
    _same(urls, "POST", LOAD, body)


@pytest.mark.parametrize("body", [{"lora_name": ""}, {"lora_name": "nope"}, {"lora_name": 5}, {"lora_name": "demo"}])
def test_bad_unload(urls: tuple[str, str], body: dict[str, Any]) -> None:
    _same(urls, "POST", UNLOAD, body)


async def _changes(url: str, paths: dict[str, Path]) -> dict[str, bool]:
    """By name, whether a worker that has loaded the adapter answers otherwise than without."""
    found = {}
    async with aiohttp.ClientSession() as session:
        target = Target(session, url, WORKER_KEY)
        base = await target.numbers("demo", 60.0)
        assert base is not None and base == await target.numbers("demo", 60.0)
        for name, path in paths.items():
            assert await target.load_adapter(name, str(path), 60.0) is None
            found[name] = await target.numbers(name, 60.0) != base
            await target.call("POST", UNLOAD, {"lora_name": name})
    return found


def test_an_adapter_of_which_nothing_is_used_shows_in_one_token(
    urls: tuple[str, str], demo_adapters: dict[str, str], tmp_path: Path
) -> None:
    """vLLM loads both without a word: matrices of zeros, and modules that it knows by another name. The slightest
    change shows: one number in one matrix, of a thousandth."""
    paths = {name: Path(shutil.copytree(demo_adapters["poet"], tmp_path / name)) for name in ("zeros", "tiny", "names")}
    for name, path in paths.items():
        file = path / "adapter_model.safetensors"
        with file.open("rb") as stream:
            tensors = read_header(stream, file.name)
        raw = bytearray(file.read_bytes())
        if name == "names":
            start = 8 + int.from_bytes(raw[:8], "little")
            header = bytes(raw[8:start]).replace(b"base_model.model.", b"base_model.model._orig_mod.")
            raw[:start] = len(header).to_bytes(8, "little") + header
        else:
            for key, tensor in tensors.items():
                if "lora_B" in key:
                    raw[tensor.begin : tensor.end] = bytes(tensor.end - tensor.begin)
            if name == "tiny":
                last = tensors["base_model.model.model.layers.3.mlp.down_proj.lora_B.weight"]
                raw[last.begin : last.begin + 2] = b"\x83\x3a"
        file.write_bytes(raw)
    vllm, sim = (asyncio.run(_changes(url, paths)) for url in urls)
    assert vllm == {"zeros": False, "tiny": True, "names": False}
    assert (sim["zeros"], sim["tiny"]) == (False, True)


BROKEN: dict[str, Any] = {
    "no rank": {"r": None},
    "rank too high": {"r": 4096},
    "rank is text": {"r": "8"},
    "bias": {"bias": "all"},
    "dora": {"use_dora": True},
    "modules to save": {"modules_to_save": ["lm_head"]},
    "unsupported module": {"target_modules": ["xyz"]},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_broken_adapter(
    urls: tuple[str, str], demo_adapters: dict[str, str], tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(demo_adapters["pirate"], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    merged = {key: value for key, value in {**config, **change}.items() if value is not None or key not in change}
    (folder / "adapter_config.json").write_text(json.dumps(merged))
    shape = _same(urls, "POST", LOAD, {"lora_name": "conformance-broken", "lora_path": str(folder)})
    if shape["status"] == 200:
        _same(urls, "POST", UNLOAD, {"lora_name": "conformance-broken"})


@pytest.mark.parametrize("broken", ["empty folder", "bad json", "no weights", "junk weights", "a list"])
def test_broken_adapter_files(
    urls: tuple[str, str], demo_adapters: dict[str, str], tmp_path: Path, broken: str
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(demo_adapters["pirate"], folder)
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if broken == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()
    elif broken == "bad json":
        config.write_text("{nope")
    elif broken == "a list":
        config.write_text("[]")
    elif broken == "no weights":
        weights.unlink()
    else:
        weights.write_bytes(b"junk")
    _same(urls, "POST", LOAD, {"lora_name": "conformance-broken", "lora_path": str(folder)})


@pytest.fixture
def loaded(urls: tuple[str, str], demo_adapters: dict[str, str]) -> Iterator[str]:
    """The name of an adapter loaded by both, the same way."""
    name = "conformance-poet"
    load = {"lora_name": name, "lora_path": demo_adapters["poet"]}
    for url in urls:  # what an earlier, broken run may have left
        _send(url, "POST", UNLOAD, {"lora_name": name})
    assert _same(urls, "POST", LOAD, load)["status"] == 200
    assert _same(urls, "POST", LOAD, load)["status"] == 400
    yield name
    for url in urls:
        _send(url, "POST", UNLOAD, {"lora_name": name})


def test_life_of_an_adapter(urls: tuple[str, str], loaded: str) -> None:
    use = {"model": loaded, "prompt": "hello", "max_tokens": 3, "ignore_eos": True}
    chat = {"model": loaded, "messages": USER, "max_tokens": 9, "ignore_eos": True, "stream": True}
    _same(urls, "GET", "/v1/models")
    assert _same(urls, "POST", COMPLETIONS, use)["status"] == 200
    assert _same(urls, "POST", CHAT, chat)["status"] == 200
    _same(urls, "POST", "/tokenize", {"model": loaded, "prompt": "x"})
    assert _same(urls, "POST", UNLOAD, {"lora_name": loaded})["status"] == 200
    assert _same(urls, "POST", UNLOAD, {"lora_name": loaded})["status"] == 404
    assert _same(urls, "POST", COMPLETIONS, use)["status"] == 404
    _same(urls, "GET", "/v1/models")


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
    answers = [_send(url, "GET", "/metrics") for url in urls]
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
    names = tuple(model["id"] for model in json.loads(_send(urls[worker], "GET", "/v1/models")[2])["data"])
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
