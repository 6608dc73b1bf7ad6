"""Traces: what comes of a client's ``traceparent``, and what a collector gets."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from fakes import soon
from lb.records import observers
from lbfakes import Balanced, Worker, closed_port, listening, running_balancer, running_worker, spec

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
USAGE = {"usage": {"prompt_tokens": 3, "total_tokens": 8, "completion_tokens": 5}}


async def _answer(request: web.Request) -> web.Response:
    return web.json_response({"choices": [{"text": "x"}], **USAGE})


@dataclass
class Collector:
    """An OTLP/HTTP receiver that keeps what it is sent."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    async def take(self, request: web.Request) -> web.Response:
        assert (request.path, request.content_type) == ("/v1/traces", "application/x-protobuf")
        message = ExportTraceServiceRequest.FromString(await request.read())
        for resource in message.resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response()

    def named(self, beginning: str) -> Span:
        (span,) = [span for span in self.spans if span.name.startswith(beginning)]
        return span


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector, application = Collector(), web.Application()
    application.router.add_route("POST", "/{path:.*}", collector.take)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    listener = listening()
    collector.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    await web.SockSite(runner, listener).start()
    try:
        yield collector
    finally:
        await runner.cleanup()


@asynccontextmanager
async def traced(tmp_path: Path) -> AsyncIterator[tuple[Balanced, Worker, Collector]]:
    """On leaving the balancer its last spans have been sent."""
    async with collecting() as collector, running_worker("instance_0", _answer) as worker:
        async with running_balancer(tmp_path, otlp_endpoint=collector.url, access_log="off") as balanced:
            balanced.push(worker.spec())
            yield balanced, worker, collector
        await soon(lambda: collector.spans, "spans")


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


async def _ask(balanced: Balanced, path: str = "/v1/completions", **headers: str) -> int:
    async with balanced.request("POST", path, json={"model": "base", "prompt": "x"}, headers=headers) as response:
        await response.read()
        return int(response.status)


async def test_without_tracing_what_a_client_sends_is_passed_on_and_nothing_is_invented(tmp_path: Path) -> None:
    async with running_worker("instance_0", _answer) as worker, running_balancer(tmp_path) as balanced:
        balanced.push(worker.spec())
        assert await _ask(balanced, traceparent=PARENT, tracestate="a=b") == 200
        assert await _ask(balanced) == 200
    told, silent = worker.seen
    assert (told.headers["traceparent"], told.headers["tracestate"]) == (PARENT, "a=b")
    assert "traceparent" not in silent.headers and "tracestate" not in silent.headers


async def test_a_span_of_the_request_and_one_of_the_attempt(tmp_path: Path) -> None:
    async with traced(tmp_path) as (balanced, worker, collector):
        assert await _ask(balanced, TraceParent=PARENT, tracestate="a=b", **{"X-Request-Id": "mine"}) == 200
        headers = worker.seen[0].headers
    root, attempt = collector.named("text_completion base"), collector.named("attempt instance_0")
    trace, parent = bytes.fromhex(PARENT[3:35]), bytes.fromhex(PARENT[36:52])
    assert (root.trace_id, root.parent_span_id, root.kind) == (trace, parent, Span.SPAN_KIND_SERVER)
    assert (attempt.trace_id, attempt.parent_span_id, attempt.kind) == (trace, root.span_id, Span.SPAN_KIND_CLIENT)
    assert headers.getall("traceparent") == [f"00-{trace.hex()}-{attempt.span_id.hex()}-01"]
    assert headers["tracestate"] == "a=b"
    told = attributes(root)
    assert told.pop("gen_ai.response.time_to_first_chunk") > 0
    assert told == {
        "http.request.method": "POST", "url.path": "/v1/completions", "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion", "gen_ai.request.model": "base", "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 5, "clusterctl.instance": "instance_0", "clusterctl.request_id": "mine",
        "clusterctl.attempts": 1,
    }  # fmt: skip
    assert attributes(attempt)["clusterctl.instance"] == "instance_0"
    times = (
        root.start_time_unix_nano, attempt.start_time_unix_nano, attempt.end_time_unix_nano, root.end_time_unix_nano
    )  # fmt: skip
    assert times[0] <= times[1] + 1_000_000 and times[1] < times[2] <= times[3] + 1_000_000
    assert collector.services == {"clusterctl"}


async def test_without_a_clients_context_a_trace_begins_here_each_time_another(tmp_path: Path) -> None:
    async with traced(tmp_path) as (balanced, worker, collector):
        assert await _ask(balanced) == 200
        assert await _ask(balanced, traceparent="00-nonsense-01") == 200
    sent = [re.fullmatch(r"00-([0-9a-f]{32})-[0-9a-f]{16}-0[13]", seen.headers["traceparent"]) for seen in worker.seen]
    assert len({match[1] for match in sent if match}) == 2
    roots = [span for span in collector.spans if span.name == "text_completion base"]
    assert [bytes(span.parent_span_id) for span in roots] == [b"", b""]


async def test_what_a_client_does_not_want_traced_is_not(tmp_path: Path) -> None:
    async with traced(tmp_path) as (balanced, worker, collector):
        assert await _ask(balanced, traceparent=PARENT[:-1] + "0") == 200
        assert await _ask(balanced) == 200
    assert worker.seen[0].headers["traceparent"].startswith(PARENT[:36])
    assert worker.seen[0].headers["traceparent"].endswith("-00")
    assert len(collector.spans) == 2  # of the other one


async def test_attempts_that_failed_and_requests_that_did(tmp_path: Path) -> None:
    async with traced(tmp_path) as (balanced, worker, collector):
        balanced.push(spec("instance_1", closed_port()), worker.spec(), strategy="round_robin")
        for _ in range(2):
            assert await _ask(balanced) == 200
        failed = [span for span in collector.spans if span.name == "attempt instance_1"]
        balanced.push(worker.spec(), shutting_down=True)
        assert await _ask(balanced, "/v1/chat/completions") == 503
    failed = [span for span in collector.spans if span.name == "attempt instance_1"]
    assert len(failed) == 1
    assert (failed[0].status.code, attributes(failed[0])["error.type"]) == (2, "connect")
    retried = next(span for span in collector.spans if span.span_id == failed[0].parent_span_id)
    assert (attributes(retried)["clusterctl.attempts"], attributes(retried)["http.response.status_code"]) == (2, 200)
    refused = collector.named("chat")
    assert (refused.status.code, refused.status.message) == (2, "the cluster is shutting down")
    assert all(row[0].notes is None for row in balanced.parts.shared.decision_log.ring)


async def test_without_the_extra_it_serves_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lb.records.tracing", None)
    async with running_worker("instance_0", _answer) as worker:
        async with running_balancer(tmp_path, otlp_endpoint="http://127.0.0.1:1") as balanced:
            balanced.push(worker.spec())
            assert await _ask(balanced) == 200
    assert "clusterctl[otel]" in caplog.text
    assert observers.log.name == "lb.records.observers"


async def test_a_collector_that_is_away_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.records.tracing._LAST_S", 0.1)
    async with running_worker("instance_0", _answer) as worker:
        async with running_balancer(tmp_path, otlp_endpoint=f"http://127.0.0.1:{closed_port()}") as balanced:
            balanced.push(worker.spec())
            for _ in range(3):
                assert await _ask(balanced) == 200
    assert json.loads(worker.seen[0].body)["model"] == "base"
