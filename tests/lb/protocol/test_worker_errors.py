"""What a worker says of itself, in every spelling that vLLM 0.32 has."""

from __future__ import annotations

import json

import pytest

from lb.protocol.failures import Failure
from lb.protocol.worker_errors import is_engine_death, is_no_answer, opening_failure, says_engine_died
from worker.sim.errors import EngineDead, internal

WORDS = "EngineCore encountered an issue. See stack trace (above) for the root cause."
DEATHS = [
    EngineDead().body(),
    {"error": {"message": WORDS, "type": "InternalServerError", "param": None, "code": 500}},
    {"type": "error", "error": {"type": "InternalServerError", "message": WORDS}},  # /v1/messages
    {"error": {"message": "EngineDeadError: it is gone", "code": 500}},
    {"error": {"message": "", "type": "EngineDeadError"}},
]
OTHERS = [
    internal("a bug").body(), {"error": {"message": f"in the prompt: {WORDS}"}}, {"error": WORDS}, {"error": None},
    {"detail": WORDS}, [WORDS], {"error": {"message": [WORDS]}}, {},
    {"error": {"message": "", "type": "InternalServerError", "code": 500}},  # EngineGenerateError: of one request
]  # fmt: skip


@pytest.mark.parametrize("body", DEATHS)
def test_a_dead_engine_in_the_body_of_a_500(body: dict[str, object]) -> None:
    assert says_engine_died(json.dumps(body).encode())


@pytest.mark.parametrize("body", OTHERS)
def test_every_other_500_says_nothing_of_the_engine(body: object) -> None:
    assert not says_engine_died(json.dumps(body).encode())


def test_no_json_says_nothing() -> None:
    assert not says_engine_died(WORDS.encode())
    assert not says_engine_died(b'{"error": {"message": "' + WORDS.encode())
    assert not is_engine_death(WORDS)


@pytest.mark.vllm
@pytest.mark.processes
def test_vllm_spells_it_like_that() -> None:
    exceptions = pytest.importorskip("vllm.v1.engine.exceptions")
    assert is_engine_death({"message": str(exceptions.EngineDeadError())})
    assert not is_engine_death({"message": str(exceptions.EngineGenerateError())})


@pytest.mark.parametrize(("data", "failure"), [
    (EngineDead().event().encode(), Failure.ENGINE_DIED),
    (b'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"x"}}\n\n', Failure.BROKEN),
    (b'event: error\ndata: {"type":"error","error":{"type":"invalid_request_error","message":"x"}}\n\n', None),
    (b'data: {"error": {"message": "x", "code": 400}}\n\n', None),
    (b'data: {"error": {"message": "x", "code": 429}}\n\n', Failure.BROKEN),
    (b'data: {"error": {"message": "x", "type": "BadRequestError"}}\n\n', None),
    (b'data: {"error": "x"}\n\n', Failure.BROKEN),
    (b"event: error\ndata: what\n\n", Failure.BROKEN),
    (b"event: message_start\ndata: {}\n\n", None),
    (b'data: {"id":"x","choices":[]}\n\n', None),
    (b"", None),
])  # fmt: skip
def test_a_stream_that_opens_with_an_error(data: bytes, failure: Failure | None) -> None:
    assert opening_failure(data) is failure


@pytest.mark.parametrize(("media", "body", "bad"), [
    (b"text/html", b"<html>", True), (b"text/html", b"{}", True), (b"", b"", True), (b"application/json", b"", True),
    (b"application/json", b'{"a": ', True), (b"application/json", b"[" * 100_000, True),
    (b"application/json", b'{"a": 1}\n', False), (b"application/json", b"[]", False), (b"text/plain", b"", False),
    (b"", b"whatever", False), (b"application/octet-stream", b"\x00", False), (b"text/vtt", b"WEBVTT", False),
])  # fmt: skip
def test_what_cannot_be_an_answer(media: bytes, body: bytes, bad: bool) -> None:
    assert is_no_answer(media, body) is bad
