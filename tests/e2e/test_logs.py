"""Logs, the access log, traces and why, of a real cluster of simulated workers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from harness import Cluster, free_port, kill, poll


class Collector(HTTPServer):
    """An OTLP/HTTP receiver."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.spans: list[Span] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Take(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        message = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.spans += [s for r in message.resource_spans for scope in r.scope_spans for s in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Cluster]:
    """Two balancers, everything in JSON, everything told."""
    made = Cluster(tmp_path_factory.mktemp("logs"), free_port())
    result = made.up(
        "--engine", "sim", "--instances", "2", "--lb-processes", "2", "--log-format", "json", "--access-log", "on",
        "--otlp-endpoint", f"http://127.0.0.1:{collector.server_port}", "--", "--ttft-ms", "1", "--itl-ms", "20",
        OTEL_BSP_SCHEDULE_DELAY="100",
    )
    assert result.returncode == 0, result.stderr
    made.wait_ready(2)
    yield made
    made.close()


def _lines(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cluster.log(name).splitlines()]


def _access(cluster: Cluster, id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        path = cluster.state_dir / "logs" / "access.log"
        lines = _lines(cluster, "access") if path.exists() else []
        return next((line for line in lines if line["data"]["request_id"] == id), None)

    return poll(look, 5, f"a line of {id}")


def test_a_request_is_told_of_everywhere(cluster: Cluster, collector: Collector) -> None:
    answer = cluster.complete(max_tokens=5)
    id, tokens = answer.headers["x-request-id"], answer.json()["usage"]
    line = _access(cluster, id)
    data = line["data"]
    assert (line["level"], line["module"], line["event"]) == ("info", "access", "request")
    assert (data["status"], data["model"], data["attempts"], data["moves"]) == (200, "demo", 1, 0)
    assert (data["prompt_tokens"], data["completion_tokens"]) == (tokens["prompt_tokens"], 5)
    assert 0 < data["time_to_first_token_s"] <= data["duration_s"]
    assert data["tokens_per_second"] == pytest.approx(5 / data["duration_s"], rel=0.01)
    assert "hello" not in json.dumps(line)
    shown = cluster.run("why", id, "--json")
    decision = json.loads(shown.stdout)
    assert decision["attempts"][0]["instance"] == data["instance"]
    assert [c["instance"] for c in decision["attempts"][0]["candidates"]] == ["instance_0", "instance_1"]
    said = cluster.run("why", id)
    assert f"{id}  /v1/completions demo  {data['instance']}: 200 after" in said.stdout
    assert id in cluster.run("why").stdout
    assert id in cluster.run("logs", "access").stdout

    def spans() -> list[Span]:
        found = [s for s in collector.spans if any(a.value.string_value == id for a in s.attributes)]
        return [s for root in found for s in collector.spans if s.trace_id == root.trace_id]

    traced = poll(lambda: spans() if len(spans()) == 2 else None, 10, "two spans")
    assert {span.name for span in traced} == {"text_completion demo", f"attempt {data['instance']}"}


def test_each_balancer_knows_what_the_other_did(cluster: Cluster) -> None:
    ids = [cluster.complete(max_tokens=1).headers["x-request-id"] for _ in range(12)]
    found = [httpx.get(f"{cluster.url}/v1/cluster/why", params={"request_id": id}, timeout=10) for id in ids]
    assert [answer.status_code for answer in found] == [200] * len(ids)
    missing = cluster.run("why", "nobody")
    assert (missing.returncode, missing.stderr.count("\n"), "nobody" in missing.stderr) == (1, 1, True)


def test_a_stream_that_was_moved(cluster: Cluster) -> None:
    body = {"model": "demo", "prompt": "hello", "max_tokens": 200, "stream": True, "temperature": 0}
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, timeout=30) as answer:
        id, lines = answer.headers["x-request-id"], answer.iter_lines()
        next(lines)
        (under_way,) = httpx.get(f"{cluster.url}/v1/cluster/why?request_id={id}", timeout=10).json()["decisions"]
        assert under_way["outcome"] is None
        instance = under_way["attempts"][-1]["instance"]
        kill(cluster.instance(instance)["pid"])
        assert [line for line in lines if line][-1] == "data: [DONE]"
    data = _access(cluster, id)["data"]
    assert (data["status"], data["moves"], data["attempts"], data["completion_tokens"]) == (200, 1, 2, 200)
    assert data["instance"] != instance
    moved = json.loads(cluster.run("why", id, "--json").stdout)
    assert [attempt["instance"] for attempt in moved["attempts"]] == [instance, data["instance"]]
    assert moved["attempts"][0]["failed"] and "failed" not in moved["attempts"][1]
    # the supervisor's log and the balancers' are JSON throughout, with the kinds of events
    def exited() -> list[dict[str, Any]]:
        return [line for line in _lines(cluster, "supervisor") if line["event"] == "worker.exited"]

    told = poll(exited, 5, "the event in the log")[0]
    assert (told["level"], told["module"], told["data"]["signal"]) == ("warning", "cluster.events", 9)
    assert told["data"]["subject"] == instance and instance in told["message"]
    events = [line["event"] for name in ("balancer", "balancer-1") for line in _lines(cluster, name)]
    assert {"attempt.failed", "stream.moved"} <= set(events)
    cluster.wait_ready(2)


def test_who_may_not_manage_the_cluster_may_not_ask_why(cluster: Cluster) -> None:
    answer = httpx.get(f"{cluster.url}/v1/cluster/why", headers={"Host": "evil.example"}, timeout=10)
    assert answer.status_code == 403
    data = _access(cluster, answer.headers["x-request-id"])["data"]
    assert (data["status"], data["route"], data["instance"]) == (403, "/v1/cluster/why", None)
