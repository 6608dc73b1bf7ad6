"""Nobody without the key gets past: of what kind the connection is, and how the key is spelled."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engines import key_guard
from worker.engines.key_guard import KeyGuard, admits
from worker.spec import SEATS

Message = dict[str, Any]


class App:
    """What is guarded: remembers whom it was asked by."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope)


async def _nothing() -> Message:
    raise AssertionError("nothing is read of what is refused")


async def _ask(monkeypatch: pytest.MonkeyPatch, scope: Message) -> tuple[bool, list[Message]]:
    """Whether it got through, and what was sent otherwise."""
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    app, sent = App(), []  # type: ignore[var-annotated]

    async def send(message: Any) -> None:
        sent.append(message)

    await KeyGuard(app)(scope, _nothing, send)
    return bool(app.asked), sent


RIGHT = [(b"host", b"x"), (b"authorization", b"Bearer s3cret")]


@pytest.mark.parametrize("kind", ["http", "websocket", "webtransport"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_the_key_opens_everything(monkeypatch: pytest.MonkeyPatch, kind: str, method: str) -> None:
    assert await _ask(monkeypatch, {"type": kind, "method": method, "path": "/x", "headers": RIGHT}) == (True, [])


class _Namespace:
    def __init__(self, **fields: Any) -> None:
        self.__dict__ |= fields


_CONFIG = _Namespace(scheduler_config=_Namespace(max_num_seqs=48))


@pytest.mark.parametrize(("state", "seats"), [(_Namespace(vllm_config=_CONFIG), 48), (_Namespace(), None)])
async def test_who_has_the_key_is_told_how_many_requests_are_computed_at_a_time(
    monkeypatch: pytest.MonkeyPatch, state: _Namespace, seats: int | None
) -> None:
    """Of an engine that keeps its configuration where vLLM 0.32 does, and of another."""
    scope = {"type": "http", "method": "GET", "path": SEATS, "headers": RIGHT, "app": _Namespace(state=state)}
    through, (start, body) = await _ask(monkeypatch, scope)
    assert (through, start["status"], json.loads(body["body"])) == (False, 200, {"seats": seats})


async def test_the_server_itself_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await _ask(monkeypatch, {"type": "lifespan"}))[0]


@pytest.mark.parametrize("headers", [
    [], [(b"authorization", b"Bearer wrong")], [(b"authorization", b"")], [(b"x-authorization", b"Bearer s3cret")],
    [(b"authorization", b"Bearer wrong"), *RIGHT],  # as the engine takes it: the first
])  # fmt: skip
async def test_everybody_else_gets_401(monkeypatch: pytest.MonkeyPatch, headers: list[Any]) -> None:
    paths = (SEATS, "/health", "/v1/models", "/adapters/x", "/invocations", "/metrics", "/", "//v1", "")
    methods = ("GET", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "NEW")
    for method, path in itertools.product(methods, paths):
        asked = {"type": "http", "method": method, "path": path, "root_path": path, "headers": headers}
        through, (start, body) = await _ask(monkeypatch, asked)
        assert not through, asked
        told = (start["type"], start["status"], body["type"])
        assert told == ("http.response.start", 401, "http.response.body"), asked
        assert (b"content-type", b"application/json") in start["headers"], asked
        error = json.loads(body["body"])["error"]
        assert (error["type"], error["code"], error["param"]) == ("AuthenticationError", 401, None), asked


async def test_a_websocket_is_refused_before_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scope: Message = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    through, sent = await _ask(monkeypatch, {**scope, "extensions": {"websocket.http.response": {}}})
    assert not through
    assert [m["type"] for m in sent] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert sent[0]["status"] == 401
    through, sent = await _ask(monkeypatch, scope)  # a server that cannot answer there
    assert (through, [m["type"] for m in sent]) == (False, ["websocket.close"])


async def test_what_is_not_known_how_to_refuse_does_not_get_through(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="webtransport"):
        await _ask(monkeypatch, {"type": "webtransport"})


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_no_worker_starts(monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("VLLM_API_KEY", key)
    with pytest.raises(ValueError, match="VLLM_API_KEY"):
        KeyGuard(App())


@given(st.binary(max_size=40))
def test_only_the_very_key_is_admitted(value: bytes) -> None:
    scheme, _, token = value.partition(b" ")
    assert admits(value, b"s3cret") == (scheme.lower() == b"bearer" and token == b"s3cret")


@pytest.mark.parametrize("value", [b"Bearer s3cret", b"bearer s3cret", b"BEARER s3cret"])
def test_the_scheme_is_spelled_as_one_likes(value: bytes) -> None:
    assert admits(value, b"s3cret")
    for wrong in (value + b" ", value[:-1], b"Basic s3cret", b"s3cret", value.replace(b" ", b"  ")):
        assert not admits(wrong, b"s3cret")


def test_an_answer_takes_no_frame_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it returns is what the application returned, not a coroutine round it."""
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    made: Awaitable[None] = asyncio.Future(loop=asyncio.new_event_loop())
    assert KeyGuard(lambda *_: made)({"type": "http", "headers": RIGHT}, _nothing, None) is made  # type: ignore[arg-type]


def test_a_worker_finds_it_wherever_it_runs_and_it_brings_nothing_along(tmp_path: Path) -> None:
    """As an engine imports it: by its name, from an empty folder, without that folder on the path."""
    module, _, name = key_guard.MIDDLEWARE.rpartition(".")
    program = (
        f"import importlib, inspect, sys; found = getattr(importlib.import_module({module!r}), {name!r})\n"
        "assert inspect.isclass(found)\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)))"
    )
    environ = {"PYTHONSAFEPATH": "1", "VLLM_API_KEY": "k"}
    (tmp_path / "worker.py").write_text("raise SystemExit('not this one')")
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    brought = [name for name in eval(run.stdout) if not name.startswith("_")]
    assert "worker" in brought and not {"aiohttp", "pydantic", "httpx", "yaml", "config", "click"} & set(brought)
