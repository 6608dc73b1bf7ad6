"""Asks a real vLLM worker and a simulated one the same, and compares what they answer.

Status code, content type, keys (in order) and value types of every JSON object and of every event must be
equal; ids, times, texts, counts and log probabilities are masked. Where they differ, the simulator is wrong.
"""

from __future__ import annotations

import http.client
import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from harness import AS_CLUSTER

MARKS = [pytest.mark.vllm, pytest.mark.timeout(300)]
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


def send(url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[Any, ...]:
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


def same(urls: tuple[str, str], *request: Any) -> dict[str, Any]:
    """Send one request to both; the shape they share."""
    for _ in range(3):
        real, simulated = (_shape(send(url, *request)) for url in urls)
        if simulated == real or "events" not in real:
            break
        # A busy vLLM joins the tokens of several steps in one event, and then an event may be missing.
    assert simulated == real
    return real


def data_of(text: str, stream: bool) -> list[dict[str, Any]]:
    if not stream:
        return [json.loads(text)]
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def name_of(case: object) -> str:
    return json.dumps(case)[:70]
