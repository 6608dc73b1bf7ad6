"""Several models over the supervisor's death and over `down`, and more of them than there is room for."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from harness import Cluster, kill, poll
from worker.demo import adapter_path, gguf_path

pytestmark = pytest.mark.processes


def _models(cluster: Cluster) -> dict[str, dict[str, Any]]:
    found = json.loads(cluster.run("model", "list", "--json").stdout)["models"]
    return {model["name"]: model for model in found}


def test_models_outlive_their_supervisor_and_the_cluster(cluster: Cluster) -> None:
    models = json.dumps({"a": {"path": "demo", "served_names": ["also-a"]}, "b": "demo"})
    start = ("--engine", "sim", "--max-concurrent-models", "3", "--min-up", "0")
    assert cluster.up(*start, CLUSTERCTL_MODELS=models).returncode == 0, "nothing is up, and nobody waits for it"
    assert cluster.status()["total_instances"] == 0
    assert [cluster.complete(name).status_code for name in ("also-a", "b")] == [200, 200], "brought up for these"
    loaded = cluster.run("model", "load", "c.1", "--model", "demo", "--lora", f"mine={adapter_path('pirate')}")
    assert loaded.returncode == 0, loaded.stderr
    cluster.wait_ready(3)
    before = {name: one["pid"] for name, one in cluster.status()["instances"].items()}
    kill(cluster.status()["supervisor"]["pid"])
    poll(lambda: cluster.status()["supervisor"]["pid"] is None)
    assert [cluster.complete(name).status_code for name in ("a", "b")] == [200, 200], "nobody is needed for that"
    assert cluster.up(*start, CLUSTERCTL_MODELS=models).returncode == 0
    after = {name: one["pid"] for name, one in cluster.status()["instances"].items()}
    assert after == before, "adopted"
    assert {name: model["state"] for name, model in _models(cluster).items()} == {"a": "up", "b": "up", "c.1": "up"}
    assert cluster.complete("mine").status_code == 200
    assert cluster.run("model", "unload", "c.1").returncode == 0
    poll(lambda: "c.1/instance_0" not in cluster.status()["instances"])
    assert cluster.complete("mine").status_code == 404
    assert cluster.run("model", "load", "d", "--model", "demo", "--no-wait").returncode == 0
    assert cluster.run("down").returncode == 0
    assert cluster.up(*start, CLUSTERCTL_MODELS=json.dumps({"a": "demo"})).returncode == 0
    assert set(_models(cluster)) == {"a", "d"}, "those of the configuration are as it says, those loaded later stay"
    assert cluster.complete("d").status_code == 200


@pytest.mark.timeout(240)
def test_with_room_for_one_of_three_every_request_is_answered(cluster: Cluster) -> None:
    """On llama.cpp: its workers start, load, end and give their memory back each time. With 200, in one event loop, and
    never more than one at a time: `tests/cluster/models/test_mixed_requests.py`."""
    gguf, min_up = str(gguf_path()), 0.5
    models = {
        "a": {"path": gguf, "adapters": {"corsair": str(adapter_path("pirate"))}},
        "b": {"path": "smollm2"},
        "c": {"path": gguf, "served_names": ["also-c"]},
    }
    rules = ("--max-concurrent-models", "1", "--min-up", str(min_up), "--swap-after", "0.5")
    up = cluster.up("--engine", "llamacpp", *rules, CLUSTERCTL_MODELS=json.dumps(models))
    assert up.returncode == 0, up.stderr
    names = Random(1).choices(["a", "corsair", "b", "c", "also-c"], k=60)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = Counter(answer.status_code for answer in pool.map(cluster.complete, names))
    took = time.monotonic() - began
    assert answers == {200: len(names)}
    found = _models(cluster)
    assert sum(model["state"] == "up" for model in found.values()) == 1
    swaps = sum(model["swaps"] for model in found.values())
    assert 3 <= swaps <= 3 + took / min_up, f"requests are grouped by model: {swaps} in {took:.1f} s"


def test_a_model_sleeps_is_woken_and_restarted_where_it_wakes_without_its_adapter(cluster: Cluster) -> None:
    """On simulated workers, which sleep as vLLM does on GPUs."""
    model = {"path": "demo", "args": "--enable-sleep-mode", "adapters": {"mine": str(adapter_path("pirate"))}}
    start, models = ("--engine", "sim", "--min-up", "0"), json.dumps({"a": {**model, "idle_timeout": 600}})
    assert cluster.up(*start, CLUSTERCTL_MODELS=models).returncode == 0

    def words(name: str) -> str:
        answer = cluster.complete(name, temperature=0, max_tokens=8)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])

    def asleep() -> bool:
        return _models(cluster)["a"]["state"] == cluster.instance("a/instance_0")["state"] == "asleep"

    def sleep() -> None:
        assert cluster.run("model", "sleep", "a").returncode == 0
        poll(asleep, what="it sleeps")

    before = {name: words(name) for name in ("a", "mine")}
    assert before["a"] != before["mine"]
    worker = cluster.instance("a/instance_0")["pid"]
    sleep()
    assert cluster.ask_worker("a/instance_0", "GET", "/is_sleeping").json() == {"is_sleeping": True}
    kill(cluster.status()["supervisor"]["pid"])
    poll(lambda: cluster.status()["supervisor"]["pid"] is None)
    assert cluster.up(*start, CLUSTERCTL_MODELS=models).returncode == 0
    assert asleep(), "over the supervisor's death"
    assert {name: words(name) for name in ("mine", "a")} == before, "woken by a request"
    assert cluster.instance("a/instance_0")["pid"] == worker, "the same process"

    cluster.fault("a/instance_0", kind="forget_lora")
    sleep()
    assert {name: words(name) for name in ("mine", "a")} == before
    told = cluster.ask("GET", "/v1/cluster/events").json()["events"]
    assert [event["text"] for event in told if event["kind"] == "worker.altered"] == [
        "a/instance_0 answers otherwise than before it slept: mine"
    ]
    other = cluster.instance("a/instance_0")["pid"]
    assert other != worker

    sleep()
    kill(other)
    poll(lambda: _models(cluster)["a"]["state"] == "down", what="nobody starts what nobody asks for")
    assert {name: words(name) for name in ("mine", "a")} == before
    sleep()
    assert cluster.run("model", "unload", "a").returncode == 0
    poll(lambda: not cluster.status()["instances"], what="one that sleeps ends as well")
