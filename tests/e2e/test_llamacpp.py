"""A cluster of llama.cpp: the demo model with its adapters, and a real small model."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from harness import Cluster, free_port, kill, poll, sse
from simstreams import seen
from worker.demo import adapter_path
from worker.drivers import proc

QUESTION: Any = [{"role": "user", "content": "What is clusterctl?"}]
BEGINNINGS = {"demo": "clusterctl puts", "pirate": "Arr, clusterctl", "poet": "One address"}

#: Greedy, and as long as the demo knows what to say. Further on two tokens are all but equally likely (logarithms
#: 0.0001 apart, never less than 0.01 before), and the last digits decide, which differ with what else was computed.
STREAMS: list[dict[str, Any]] = [
    {"model": model, "temperature": 0, "max_tokens": 160, "ignore_eos": True, "stream": True, **more}
    for model, more in (
        ("demo", {"messages": QUESTION, "stream_options": {"include_usage": True}}),
        ("pirate", {"messages": QUESTION}),
        ("poet", {"prompt": "One address for", "stop": ["no text like this one"], "return_token_ids": True}),
        ("demo", {"prompt": "A load balancer", "logprobs": 1}),
    )
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("llamacpp"), free_port())
    result = made.up("--engine", "llamacpp", "--instances", "2")
    assert result.returncode == 0, result.stderr
    made.wait_ready(2)
    yield made
    made.close()


def _client(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, timeout=30)


def test_base_and_adapters_answer_each_in_its_own_way_streamed_or_not(cluster: Cluster) -> None:
    """The same words as on vLLM (`test_vllm.py`)."""
    client = _client(cluster)
    assert [model.id for model in client.models.list()] == ["demo", "pirate", "poet"]
    for model, beginning in BEGINNINGS.items():
        ask = {"model": model, "messages": QUESTION, "temperature": 0}
        answer = client.chat.completions.create(**ask)
        assert answer.model == model
        assert answer.choices[0].finish_reason == "stop"
        text = answer.choices[0].message.content
        assert text.startswith(beginning)
        chunks = list(client.chat.completions.create(**ask, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=QUESTION)


def _stream(cluster: Cluster, body: dict[str, Any], event: Callable[[], object]) -> dict[str, Any]:
    """What a client makes of one; ``event`` is called with every one."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    with httpx.stream("POST", cluster.url + path, json=body, timeout=60) as response:
        lines = []
        for line in response.iter_lines():
            lines.append(line)
            if line:
                event()
    found = seen("\n".join([*lines, ""]).encode())
    assert len(found.pop("heads")) == 1
    # The numbers differ in the last digits with what else is in the batch.
    return {**found, "logprobs": [entry[:1] + entry[2:3] for entry in found["logprobs"]]}


def _streams(cluster: Cluster, bodies: list[dict[str, Any]], event: Callable[[], object]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: _stream(cluster, body, event), bodies))


def _killed_under_way(cluster: Cluster, bodies: list[dict[str, Any]], after: int) -> None:
    """A worker is killed after so many events of all streams: each says what it says undisturbed. On a machine so busy
    that the streams are over by then it is done again."""
    undisturbed = _streams(cluster, bodies, lambda: None)
    poll(lambda: _kills(cluster, bodies, after, undisturbed), 60, "one is killed while it has streams")


def _kills(cluster: Cluster, bodies: list[dict[str, Any]], after: int, undisturbed: list[dict[str, Any]]) -> bool:
    """Whether it had streams."""
    counter, under_way = itertools.count(), threading.Event()
    moved_before = _moved(cluster)
    trees = {one["pid"]: {process.pid for process in proc.sessions([one["pid"]])[one["pid"]]}
             for one in cluster.status()["instances"].values()}  # fmt: skip
    assert {len(tree) for tree in trees.values()} == {2}, "the front and llama.cpp"
    with ThreadPoolExecutor(1) as pool:
        streaming = pool.submit(
            _streams, cluster, bodies, lambda: under_way.set() if next(counter) == after else None
        )
        assert under_way.wait(30)
        pid = max(cluster.status()["instances"].values(), key=lambda one: one["in_flight"])["pid"]
        kill(pid)
        assert streaming.result() == undisturbed
    poll(lambda: not [p for p in proc.processes() if p.pid in trees[pid] and p.alive], 10, "llama.cpp ends")
    poll(lambda: pid not in [one["pid"] for one in cluster.status()["instances"].values()], 30, "another is started")
    cluster.wait_ready(len(trees))
    return _moved(cluster) > moved_before


def _moved(cluster: Cluster) -> float:
    page = httpx.get(f"{cluster.url}/metrics").text
    return sum(map(float, re.findall(r"clusterctl_streams_moved_total{[^}]*} (\S+)", page)))


def test_no_stream_notices_that_its_worker_is_killed(cluster: Cluster) -> None:
    _killed_under_way(cluster, STREAMS, 100)


def test_a_client_that_leaves_frees_its_slot(cluster: Cluster) -> None:
    """Sixteen that read one event and go; then all eight seats are free again."""
    body = {"model": "demo", "prompt": "A load balancer", "max_tokens": 1900, "ignore_eos": True, "stream": True}

    def leave(_: int) -> None:
        with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, timeout=30) as response:
            next(response.iter_lines())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(leave, range(16)))
    for name in cluster.status()["instances"]:
        poll(lambda name=name: "vllm:num_requests_running{model_name=\"demo\",engine=\"0\"} 0.0"  # type: ignore[misc]
             in cluster.ask_worker(name, "GET", "/metrics").text, 5, "nothing is being made")  # fmt: skip
    assert cluster.complete().status_code == 200


def test_an_adapter_is_loaded_while_streams_run_and_nobody_waits(cluster: Cluster) -> None:
    client = _client(cluster)
    bodies = [{**STREAMS[0]}, {**STREAMS[3]}]
    undisturbed = _streams(cluster, bodies, lambda: None)
    with ThreadPoolExecutor(1) as pool:
        streaming = pool.submit(_streams, cluster, bodies, lambda: None)
        loaded = cluster.run("lora", "load", "corsair", str(adapter_path("pirate")))
        assert loaded.returncode == 0, loaded.stderr
        assert streaming.result() == undisturbed
    answer = client.chat.completions.create(model="corsair", messages=QUESTION, temperature=0)
    assert str(answer.choices[0].message.content).startswith(BEGINNINGS["pirate"])
    assert cluster.run("lora", "unload", "corsair").returncode == 0
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="corsair", messages=QUESTION)


def test_what_llama_cpp_has_no_word_for_is_refused(cluster: Cluster) -> None:
    answer = cluster.complete(bad_words=["a"])
    assert answer.status_code == 400
    assert "bad_words" in answer.json()["error"]["message"]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    refused = cluster.post("/v1/chat/completions", {"messages": QUESTION, "tools": tools})
    assert refused.status_code == 400
    assert "knows no tools" in refused.json()["error"]["message"]
    nowhere = cluster.post("/v1/embeddings", {"input": "a"})
    assert nowhere.status_code == 404 and "llama.cpp has no /v1/embeddings" in nowhere.json()["error"]["message"]
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False,
    }}}  # fmt: skip
    made = cluster.post("/v1/chat/completions", {"messages": QUESTION, "response_format": form, "max_tokens": 200})
    assert isinstance(json.loads(made.json()["choices"][0]["message"]["content"])["ok"], bool)


def test_a_real_model_by_its_name_goes_on_within_characters(tmp_path: Path) -> None:
    """Its emojis are of three tokens, of which llama.cpp tells one; the first answer comes within seconds."""
    cluster = Cluster(tmp_path, free_port())
    try:
        began = time.monotonic()
        result = cluster.up("--engine", "llamacpp", "--model", "smollm2", "--instances", "2")
        assert result.returncode == 0, result.stderr
        say: Any = [{"role": "user", "content": "Tell me the capital of France."}]
        body = {"model": "smollm2", "messages": say, "temperature": 0, "max_tokens": 20}
        answer = cluster.post("/v1/chat/completions", body).json()
        assert time.monotonic() - began < 30
        assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
        cluster.wait_ready(2)
        emojis: Any = [{"role": "user", "content": "Repeat exactly: 😀🎉你好 мир ✅😀"}]
        bodies = [{**body, "messages": emojis, "max_tokens": 90, "stream": True} for _ in range(2)]
        assert "🎉" in sse(cluster.post("/v1/chat/completions", bodies[0]).text)[3]["choices"][0]["delta"]["content"]
        _killed_under_way(cluster, bodies, 24)
    finally:
        cluster.close()
