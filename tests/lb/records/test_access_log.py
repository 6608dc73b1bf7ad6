"""The access log: which requests get a line, what is in it, and that nobody waits for it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web

from fakes import soon
from lb.protocol.http1.request import parse
from lb.protocol.messages import Request
from lb.records import access_log as access
from lb.records.access_log import PROMPT_CHARACTERS, WAITING, AccessLog, facts, shown_prompt
from lb.records.decision_log import Entry, Step
from lb.routing.strategies.base import RequestInfo
from lbfakes import backend, closed_port, running_balancer, running_worker, spec

HEAD = parse(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer SECRET\r\nContent-Length: 3\r\n\r\n")


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_LOOK_S", 0.02)


def request(body: bytes = b'{"prompt": "PROMPT"}') -> Request:
    made = Request(HEAD, "10.0.0.9")
    made.id, made.body = "r1", body
    return made


def entry(status: int = 200, **changes: Any) -> Entry:
    usual = {
        "info": RequestInfo("base", "/v1/completions", "r1"), "backend": backend("instance_3"), "began": 10.1,
        "came": 10.0, "first": 10.5, "ended": 12.0, "status": status, "made": 20,
    }  # fmt: skip
    return Entry(**{**usual, **changes})


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def log_all(path: Path, entries: list[Entry], share: float = 1.0, **options: Any) -> AccessLog:
    """What a process that serves these writes until it has ended."""
    log = AccessLog(path, share, **{"style": "json", **options})
    log.start()
    for one in entries:
        log.over(one, request(), b"", 7)
    log.close(10)
    return log


def test_what_is_told() -> None:
    failed = Step(backend("instance_1"), 10.0, None, 10.1, "it broke", "broken", True)
    info = RequestInfo("base", "/v1/completions", "r1")
    info.steps = (failed,)
    assert facts(entry(info=info), "POST", "10.0.0.9", 7) == {
        "request_id": "r1", "client": "10.0.0.9", "method": "POST", "route": "/v1/completions", "status": 200,
        "model": "base", "instance": "instance_3", "attempts": 2, "moves": 1, "prompt_tokens": 7,
        "completion_tokens": 20, "time_to_first_token_s": 0.5, "duration_s": 2.0, "tokens_per_second": 10.0,
    }  # fmt: skip
    told = facts(entry(502, info=info, backend=None, first=0.0, made=0, reason="no"), "", "", None)
    assert (told["instance"], told["attempts"], told["error"]) == ("instance_1", 1, "no")
    assert told["tokens_per_second"] is told["time_to_first_token_s"] is told["prompt_tokens"] is None


def test_a_line_in_json(tmp_path: Path) -> None:
    log_all(tmp_path / "a", [entry(), entry(503, reason="none")])
    good, bad = written(tmp_path / "a")
    assert good["timestamp"].endswith("Z")
    assert (good["level"], good["module"], good["event"]) == ("info", "access", "request")
    assert (good["data"]["status"], bad["level"], bad["data"]["error"]) == (200, "error", "none")
    text = (tmp_path / "a").read_text()
    assert "PROMPT" not in text and "SECRET" not in text
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_line_in_text_is_one_line_whatever_is_in_it(tmp_path: Path) -> None:
    info = RequestInfo("mo\ndel\x1b[1m", "/v1/x", "r1")
    log_all(tmp_path / "a", [entry(404, info=info, reason='say "no"')], style="text")
    (line,) = (tmp_path / "a").read_text().splitlines()
    assert " WARNING access: request_id=r1 client=10.0.0.9 method=POST route=/v1/x status=404 " in line
    assert 'model="mo\\ndel\\u001b[1m"' in line and line.endswith(' error="say \\"no\\""')
    assert "duration_s=2.0" in line


def test_a_share_of_those_that_went_well_and_all_that_did_not(tmp_path: Path) -> None:
    many = [entry() for _ in range(2000)] + [entry(status) for status in (400, 404, 500, 502, 503)]
    log_all(tmp_path / "a", many, 0.1, random=Random(1))
    lines = written(tmp_path / "a")
    assert 150 < sum(line["data"]["status"] == 200 for line in lines) < 250
    others = [line["data"]["status"] for line in lines if line["data"]["status"] != 200]
    assert sorted(others) == [400, 404, 500, 502, 503]
    log_all(tmp_path / "b", [*many, entry(499)], 0.0)
    assert [line["data"]["status"] for line in written(tmp_path / "b")] == [400, 404, 500, 502, 503]


def test_prompts_are_shown_only_where_that_is_wished_and_cut_off(tmp_path: Path) -> None:
    log_all(tmp_path / "a", [entry()], prompts=True)
    assert written(tmp_path / "a")[0]["data"]["prompt"] == "PROMPT"
    long = shown_prompt(json.dumps({"messages": [{"role": "user", "content": "é" * 5000}]}).encode())
    assert len(long) == PROMPT_CHARACTERS + 1 and long.startswith('[{"role": "user", "content": "éé')
    assert shown_prompt(b"\xff no json") == "� no json"
    assert shown_prompt(b'{"model": "x", "api_key": "SECRET"}') == ""


def test_bodies_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_HELD", 50)
    log = AccessLog(tmp_path / "a", 1.0, style="json", prompts=True)
    for _ in range(5):
        log.over(entry(), request(), b"", None)
    log.start()
    log.close(10)
    shown = ["prompt" in line["data"] for line in written(tmp_path / "a")]
    assert shown == [True, True, True, False, False]  # 20 bytes each
    assert log._taken == log._given == 60


def test_what_cannot_be_written_is_counted(tmp_path: Path) -> None:
    assert log_all(tmp_path / "none" / "a", [entry()] * 3).dropped == 3
    assert log_all(Path("/dev/full"), [entry()] * 3).dropped == 3
    assert log_all(tmp_path / "a", [entry()] * 3).dropped == 0


def test_no_more_lines_wait_than_there_may_be(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "a", 1.0, style="json")
    for _ in range(WAITING + 3):
        log.over(entry(), request(), b"", None)
    assert log.dropped == 3


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    log_all(tmp_path / "a", [entry()])
    (tmp_path / "a").rename(tmp_path / "a.1")
    log_all(tmp_path / "a", [entry()])
    assert len(written(tmp_path / "a")) == len(written(tmp_path / "a.1")) == 1


def test_one_that_was_not_understood(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "a", 1.0, style="json")
    info = RequestInfo(None, "", "r9")
    log.over(Entry(info, None, 0.0, 5.0, 0.0, 5.0, 400, 0, "no HTTP"), None, b"", None)
    log.start()
    log.close(10)
    data = written(tmp_path / "a")[0]["data"]
    assert (data["request_id"], data["status"], data["error"], data["client"]) == ("r9", 400, "no HTTP", None)


# through a balancer

USAGE = {"usage": {"prompt_tokens": 3, "total_tokens": 8, "completion_tokens": 5}}


async def _stream(request: web.Request) -> web.StreamResponse:
    asked = await request.json()
    if asked.get("stream"):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        choice = {"index": 0, "text": "a", "token_ids": [5]}
        first: dict[str, Any] = {"prompt_token_ids": [1, 2, 3, 4], "choices": [choice]}
        last: dict[str, Any] = {"choices": [{"index": 0, "text": "b", "token_ids": [6, 7], "finish_reason": "stop"}]}
        if not asked.get("return_token_ids"):
            del first["prompt_token_ids"]
            for event in (first, last):
                del event["choices"][0]["token_ids"]
        for event in (first, last):
            await response.write(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response
    return web.json_response({"choices": [{"text": "x"}], **USAGE})


@pytest.mark.parametrize("resume", [True, False])
async def test_tokens_of_whole_answers_and_of_streams(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "access.log"
    settings = {"access_log": "on", "log_format": "json", "resume": resume}
    async with running_worker("instance_0", _stream) as worker, running_balancer(tmp_path, **settings) as balanced:
        balanced.push(worker.spec())
        assert (await balanced.ask())[0] == 200
        async with balanced.generate(stream=True) as response:
            assert b"[DONE]" in await response.read()
        assert (await balanced.ask(model="other"))[0] == 404
        async with balanced.request("GET", "/v1/cluster/status") as response:
            assert response.status == 200
        await soon(lambda: len(written(log)) == 3)
        whole, streamed, unknown = (line["data"] for line in written(log))
    assert (whole["prompt_tokens"], whole["completion_tokens"], whole["status"]) == (3, 5, 200)
    assert (whole["instance"], whole["attempts"], whole["model"]) == ("instance_0", 1, "base")
    if resume:
        assert (streamed["prompt_tokens"], streamed["completion_tokens"]) == (4, 3)
    else:
        assert (streamed["prompt_tokens"], streamed["completion_tokens"]) == (None, 2)  # events: nobody told
    assert streamed["time_to_first_token_s"] <= streamed["duration_s"]
    assert (unknown["status"], unknown["attempts"]) == (404, 0)
    assert len(written(log)) == 3  # nothing of the management API, and all of it once


@pytest.mark.parametrize(("word", "lines"), [("errors", [502]), ("off", []), ("on", [200, 502])])
async def test_which_requests_get_a_line(tmp_path: Path, word: str, lines: list[int]) -> None:
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "access.log"
    async with running_worker("instance_0", _stream) as worker:
        async with running_balancer(
            tmp_path, access_log=word, log_format="json", migration_limit=0, queue_timeout=0.2
        ) as balanced:
            balanced.push(worker.spec())
            assert (await balanced.ask())[0] == 200

            async def broken(request: web.Request) -> web.Response:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()

            worker.answer = broken
            assert (await balanced.ask())[0] == 502
    assert [line["data"]["status"] for line in written(log)] == lines  # its end has written everything


async def test_lines_that_were_not_written_are_a_series(tmp_path: Path) -> None:
    async with running_balancer(tmp_path, access_log="on", queue_timeout=0.1) as balanced:  # there is no folder for it
        balanced.push(spec("instance_0", closed_port()))
        await balanced.ask()
        await soon(lambda: balanced.metric("clusterctl_access_log_dropped_total") == 1)
