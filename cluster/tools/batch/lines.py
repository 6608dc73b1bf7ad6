"""A line of a batch: what it asks, and the line that its answer becomes. Pure.

Each line of the output carries a hash of what was asked: with it a later run sees whether the answer is to this very
request, without anything beside the output that could be lost or left behind.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.tools.chat.openai_stream import error_of
from config import bounded

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
#: The key of that hash in a line of the output.
HASH = "request_hash"
#: Bytes of a line, as many as a cluster takes of a body by default; and values in it, such as token ids of a prompt.
LONGEST, _VALUES = 64 * 1024 * 1024, 4_000_000
_LABELS = ("id", "custom_id")
#: Bytes of a line that is no JSON in which its names are looked for.
_LOOKED_AT = 64 * 1024


class BadLine(Exception):
    """A line that asks nothing; the text says why."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a line that does not say otherwise is asked with. ``chat``: prompts are put as a question in a chat.
    ``plain``: each line is a prompt as it stands, no JSON."""

    model: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    chat: bool = False
    plain: bool = False


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """The request of line ``number`` (from 1). ``path`` is empty where ``wrong`` says why nothing can be asked.
    ``batch``: it came in OpenAI's batch form and is answered in it. ``labels``: its own names for itself."""

    number: int
    path: str
    body: bytes
    hash: str
    labels: Mapping[str, Any]
    batch: bool = False
    wrong: str = ""


def ask_of(number: int, line: bytes, defaults: Defaults) -> BatchRequest:
    """What a line asks; one that cannot be understood is an Ask with ``wrong``, answered in the line's own form and
    with its names, as far as they can be read."""
    given: Any = None
    try:
        if len(line) > LONGEST:
            raise BadLine(f"longer than {LONGEST} bytes")
        given = _text(line) if defaults.plain else _json(line)
        path, body, labels = _batch(given) if _is_batch(given) else _short(given, defaults)
        body.setdefault("model", defaults.model)
        if path in (CHAT, COMPLETIONS):
            body = {**defaults.sampling, **body}
            for name in ("stream", "stream_options"):  # a batch has nobody to stream to
                body.pop(name, None)
        data = json.dumps(body, sort_keys=True).encode()
    except BadLine as error:
        if given is None and not defaults.plain:
            given = _torn(line)
        return BatchRequest(number, "", b"", _hash(b"", line), _labels(given), _is_batch(given), wrong=str(error))
    return BatchRequest(number, path, data, _hash(path.encode(), data), labels, _is_batch(given))


def _is_batch(given: Any) -> bool:
    """OpenAI's form, also one that lacks something. In ours a ``url`` may say where a prompt is from."""
    if not isinstance(given, dict):
        return False
    found = {"url", "body", "method"} & given.keys()
    return found >= {"url", "body"} or (bool(found) and not {"prompt", "messages"} & given.keys())


def _labels(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        return {}
    if _is_batch(given):
        return {"custom_id": given.get("custom_id")}
    return {name: given[name] for name in _LABELS if name in given}


#: A member of an object whose value is a text or a number, wherever it stands in the line.
_MEMBER = re.compile(
    rb'"(id|custom_id|url|body|method|prompt|messages)"\s*:\s*'
    rb'("(?:[^"\\]|\\.)*"|-?[0-9]{1,18}(?=\s*[,}])|(?=[\[{]))'
)


def _torn(line: bytes) -> dict[str, Any]:
    """What a line that is no JSON calls itself: of its members those that matter here, the first of each name."""
    found: dict[str, Any] = {}
    for name, value in _MEMBER.findall(line[:_LOOKED_AT]):
        try:
            found.setdefault(name.decode(), json.loads(value or b"{}"))
        except ValueError:
            continue
    return found


def _hash(path: bytes, body: bytes) -> str:
    return hashlib.sha256(path + b"\0" + body).hexdigest()[:16]


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise BadLine("not UTF-8") from None


def _json(line: bytes) -> Any:
    try:
        bounded.measure(line, _VALUES)
        return json.loads(_text(line), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadLine(f"not JSON ({error})") from None


def _no_constant(name: str) -> Any:
    raise BadLine(f"{name} is not JSON")


def _short(given: Any, defaults: Defaults) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """``{"messages": …}``, ``{"prompt": …}`` or a string."""
    body = {"prompt": given} if isinstance(given, str) else given
    if not isinstance(body, dict):
        raise BadLine("neither an object nor a string")
    labels = _labels(body)
    body = {name: value for name, value in body.items() if name not in _LABELS}
    if ("messages" in body) == ("prompt" in body):
        raise BadLine('one of "messages" and "prompt" is needed')
    if "messages" in body:
        return CHAT, body, labels
    if not defaults.chat:
        return COMPLETIONS, body, labels
    prompt = body.pop("prompt")
    return CHAT, {**body, "messages": [{"role": "user", "content": prompt}]}, labels


def _batch(given: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """``{"custom_id": …, "method": "POST", "url": "/v1/…", "body": {…}}``."""
    url, body = given.get("url"), given.get("body")
    if str(given.get("method", "POST")).upper() != "POST":
        raise BadLine('"method" is not POST')
    if not isinstance(url, str) or not url.startswith("/v1/") or any(c in url for c in " ?#\\") or not url.isascii():
        raise BadLine('"url" is not a path such as /v1/chat/completions')
    if not isinstance(body, dict):
        raise BadLine('"body" is not an object')
    return url, dict(body), _labels(given)


def answered(ask: BatchRequest, data: Any, request_id: str | None) -> dict[str, Any]:
    """The line for an answer of 200. Raises BadLine for one that is none."""
    if ask.batch:
        return _record(ask, response={"status_code": 200, "request_id": request_id, "body": data}, error=None)
    try:
        choices = [(c.get("message") or c, c.get("finish_reason")) for c in data["choices"]]
        said = [m.get("content") if "content" in m else m.get("text") for m, _ in choices]
        found: dict[str, Any] = {"model": data.get("model"), "text": said[0], "finish_reason": choices[0][1]}
        if len(said) > 1:
            found["texts"] = said
        for name in ("reasoning", "tool_calls"):
            if value := choices[0][0].get(name):
                found[name] = value
    except (LookupError, TypeError, AttributeError):
        raise BadLine("an answer without text") from None
    if any(finish == "abort" for _, finish in choices):
        raise BadLine("the worker gave the answer up")
    return _record(ask, **found, usage=data.get("usage"))


def failed(ask: BatchRequest, message: str, status: int | None = None, data: Any = None) -> dict[str, Any]:
    """The line for a failure; ``data``: the body that told of it, where there was one."""
    if not ask.batch:
        return _record(ask, error={"message": message, "status": status})
    response = None if status is None else {"status_code": status, "request_id": None, "body": data}
    return _record(ask, response=response, error={"code": None if status is None else str(status), "message": message})


def refused(ask: BatchRequest, status: int, data: Any) -> dict[str, Any]:
    """The line for an answer that is an error."""
    return failed(ask, error_of(data, f"status {status}")[0], status, data)


def _record(ask: BatchRequest, **rest: Any) -> dict[str, Any]:
    head = {"id": f"line-{ask.number}"} if ask.batch else {"line": ask.number}
    return {**head, **ask.labels, **rest, HASH: ask.hash}


def line_of(record: Mapping[str, Any]) -> bytes:
    """As it stands in the file."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def tokens_of(record: Mapping[str, Any]) -> int:
    """What was generated for it."""
    body = (record.get("response") or {}).get("body") if "response" in record else record
    usage = body.get("usage") if isinstance(body, dict) else None
    made = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return made if isinstance(made, int) else 0


@dataclass(frozen=True, slots=True)
class OutputLine:
    """What a line of the output says of itself."""

    hash: str
    failed: bool


def written(line: bytes) -> OutputLine | None:
    """None for a line that no run of ours wrote."""
    try:
        data = json.loads(line)
        return OutputLine(str(data[HASH]), bool(data.get("error")))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
