"""The whole of it on real vLLM, three workers with the demo model, through the `openai` client."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from harness import Cluster, kill, poll
from worker import proc

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

QUESTION = "What is clusterctl?"
BEGINNINGS = {"demo": "clusterctl puts", "pirate": "Arr, clusterctl", "poet": "One address"}


@pytest.fixture
def client(vllm: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{vllm.url}/v1", api_key="none", max_retries=0, timeout=60)


def _ask(client: openai.OpenAI, model: str, **kwargs: Any) -> Any:
    messages: Any = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(model=model, messages=messages, temperature=0, **kwargs)


def test_base_and_adapters_answer_each_in_its_own_way(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["demo", "pirate", "poet"]
    for model, beginning in BEGINNINGS.items():
        answer = _ask(client, model)
        assert answer.model == model
        assert answer.choices[0].message.content.startswith(beginning)
        assert answer.choices[0].finish_reason == "stop"


def test_streams_say_the_same_as_plain_answers(client: openai.OpenAI) -> None:
    for model in BEGINNINGS:
        plain = _ask(client, model).choices[0].message.content
        chunks = list(_ask(client, model, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain
        assert len(chunks) > 5


def test_completions_and_errors_come_through(vllm: Cluster, client: openai.OpenAI) -> None:
    text = client.completions.create(model="demo", prompt="The sky is", max_tokens=6, temperature=0).choices[0].text
    assert text.strip()
    with pytest.raises(openai.NotFoundError):
        _ask(client, "nobody")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="demo", prompt="x", max_tokens=-1)
    assert httpx.get(f"{vllm.url}/version").json()["version"].startswith("0.32")
    tokens = vllm.post("/tokenize", {"model": "demo", "prompt": "hello"}).json()["tokens"]
    assert vllm.post("/detokenize", {"model": "demo", "tokens": tokens}).json()["prompt"].endswith("hello")


def test_every_worker_takes_its_share_and_tells_its_metrics(vllm: Cluster) -> None:
    vllm.post("/v1/cluster/strategy", {"strategy": "round_robin"})
    before = {n: i["requests_total"] for n, i in vllm.status()["instances"].items()}
    for _ in range(9):
        assert vllm.complete().status_code == 200
    after = {n: i["requests_total"] for n, i in vllm.status()["instances"].items()}
    assert {n: after[n] - before[n] for n in after} == {"instance_0": 3, "instance_1": 3, "instance_2": 3}
    text = httpx.get(f"{vllm.url}/metrics").text
    for name in after:
        assert f'vllm:generation_tokens_total{{instance="{name}"' in text


def _left_of(tree: set[int]) -> list[int]:
    return [p.pid for p in proc.processes() if p.pid in tree and p.alive]


def test_killed_workers_leave_no_orphan_and_come_back_with_their_adapters(vllm: Cluster) -> None:
    """Of one the API server is killed, which leaves its engine behind; of another the engine, which the API server
    outlives for a while. Both at once: starts take their time."""
    before = vllm.wait_ready(3, 300)["instances"]
    tree: dict[str, set[int]] = {}
    for name in ("instance_1", "instance_2"):
        pid = before[name]["pid"]
        members = proc.sessions([pid])[pid]
        tree[name] = {p.pid for p in members}
        assert len(members) >= 3, "API server, EngineCore and Worker"
    engines = [pid for pid in tree["instance_2"] if _name(pid).startswith("VLLM::Engine")]
    kill(before["instance_1"]["pid"])
    kill(engines[0])
    for name in tree:
        poll(lambda name=name: vllm.instance(name)["pid"] not in (None, before[name]["pid"]), 15)  # type: ignore[misc]
        assert not _left_of(tree[name]), "nothing of it is left when it is started again"
    for _ in range(6):
        assert vllm.complete().status_code == 200, "the other serves"
    after = vllm.wait_ready(3, 300)["instances"]
    for name in tree:
        assert (after[name]["state"], after[name]["degraded"]) == ("ready", False)
        assert after[name]["restarts"] == before[name]["restarts"] + 1
        assert after[name]["models"] == ["demo", "pirate", "poet"]


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_scaling_to_two_and_back(vllm: Cluster) -> None:
    vllm.wait_ready(3, 300)
    gone = vllm.instance("instance_2")["pid"]
    tree = {p.pid for p in proc.sessions([gone])[gone]}
    assert vllm.run("scale", "2").returncode == 0
    assert list(vllm.status()["instances"]) == ["instance_0", "instance_1"]
    assert not _left_of(tree)
    assert vllm.complete("poet").status_code == 200
    assert vllm.post("/v1/cluster/scale", {"instances": 3}).status_code == 202
    vllm.wait_ready(3, 300)
    assert vllm.instance("instance_2")["models"] == ["demo", "pirate", "poet"]


def test_a_supervisor_that_dies_is_replaced_without_a_restart(vllm: Cluster) -> None:
    before = vllm.wait_ready(3, 300)
    os.kill(before["supervisor"]["pid"], signal.SIGKILL)
    poll(lambda: vllm.status()["supervisor"]["pid"] is None, 5)
    assert vllm.complete().status_code == 200
    began = time.monotonic()
    assert vllm.up("--instances", "3").returncode == 0
    assert time.monotonic() - began < 10
    after = vllm.wait_ready(3, 30)
    pids = {n: i["pid"] for n, i in before["instances"].items()}
    assert {n: i["pid"] for n, i in after["instances"].items()} == pids
