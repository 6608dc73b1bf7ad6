from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from cluster.cli.running.why import headline, told
from cluster.client import ClusterClient, ClusterError

BROKEN = {
    "instance": "instance_1", "incarnation": 2, "began_s": 0.0001, "strategy": "least_connections",
    "reason": "the fewest requests in flight", "scored_by": "requests in flight", "ended_s": 1.5, "failed": "it broke",
    "cause": "broken",
    "candidates": [{"instance": "instance_0", "score": 3}, {"instance": "instance_1", "score": 0}],
}  # fmt: skip
LAST = {
    "instance": "instance_0", "incarnation": 1, "began_s": 1.5, "strategy": "round_robin", "reason": "its turn",
    "candidates": [{"instance": "instance_0"}, {"instance": "instance_2"}],
}  # fmt: skip
OUTCOME = {
    "status": 502, "error": "it is gone", "time_to_first_token_s": 0.5, "duration_s": 2.0, "completion_tokens": 7
}  # fmt: skip
DECISION: dict[str, Any] = {
    "request_id": "abc", "at": "2026-01-02T03:04:05.678Z", "model": "base", "route": "/v1/completions", "balancer": 1,
    "attempts": [BROKEN, LAST], "outcome": OUTCOME,
}  # fmt: skip


def test_all_of_it_in_words() -> None:
    assert told(DECISION) == [
        "2026-01-02T03:04:05.678Z  abc  /v1/completions base  instance_1 -> instance_0: "
        "502 after 2.000 s, 7 tokens: it is gone",
        "  1. instance_1 after 0.000 s, least_connections: the fewest requests in flight",
        "     requests in flight: instance_0 3, instance_1 0",
        "     failed after 1.500 s: it broke",
        "  2. instance_0 after 1.500 s, round_robin: its turn",
        "     candidates: instance_0, instance_2",
    ]


def test_what_a_score_is_made_of_is_told_where_it_is_known() -> None:
    scored = [
        {"instance": "instance_0", "score": 0.25, "terms": {"prompts": 0.2, "slot": 0.05}},
        {"instance": "instance_1", "score": 1.5, "terms": {"prompts": 1.5, "slot": 0.0}},
        {"instance": "instance_2", "score": 9},
    ]
    attempt = {**LAST, "strategy": "adaptive", "scored_by": "seconds", "candidates": scored}
    assert told({**DECISION, "attempts": [attempt]})[-3:] == [
        "     seconds: instance_0 0.25, instance_1 1.5, instance_2 9",
        "       instance_0: prompts 0.2, slot 0.05",
        "       instance_1: prompts 1.5, slot 0",
    ]


def test_a_wait_for_a_model_and_an_answer_without_a_worker() -> None:
    stay = {"began_s": 0.0, "waited_s": 1.5, "ahead": 2, "behind": None}
    waits = told({**DECISION, "queued": [{**stay, "model": "small"}, stay]})[1:3]
    assert waits == [
        "  waited 1.500 s for model small, which was not up, 2 waiting already",
        "  waited 1.500 s for a worker, 2 waiting already",
    ]
    line = headline({**DECISION, "attempts": [], "cached": True, "outcome": {**OUTCOME, "status": 200, "error": None}})
    assert line.endswith("the response cache: 200 after 2.000 s, 7 tokens")


def test_one_that_waits() -> None:
    line = headline({**DECISION, "attempts": [], "outcome": None, "model": None})
    assert line == "2026-01-02T03:04:05.678Z  abc  /v1/completions  no instance: under way"


def _client(answer: httpx.Response, seen: list[httpx.Request]) -> ClusterClient:
    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer

    client = ClusterClient("http://cluster")
    client._http = httpx.Client(transport=httpx.MockTransport(handle), base_url="http://cluster")
    return client


def test_the_client_asks_for_one_or_for_the_latest() -> None:
    seen: list[httpx.Request] = []
    with _client(httpx.Response(200, json={"decisions": [DECISION]}), seen) as client:
        assert client.why("a&b/ü") == [DECISION]
        assert client.why(limit=3) == [DECISION]
    assert dict(seen[0].url.params) == {"limit": "20", "request_id": "a&b/ü"}
    assert dict(seen[1].url.params) == {"limit": "3"}


def test_one_that_nobody_knows_is_an_error() -> None:
    answer = httpx.Response(404, text=json.dumps({"error": {"message": "nothing is known"}}))
    with _client(answer, []) as client, pytest.raises(ClusterError, match="nothing is known") as raised:
        client.why("x")
    assert raised.value.status == 404
