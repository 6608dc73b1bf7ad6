"""Adapters over a whole cluster: on all workers or on none, for good, whatever dies. Real processes, simulated
engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness import Cluster, free_port, kill, poll
from worker.demo import adapter_path, model_path

pytestmark = pytest.mark.drivers("local", "ray")

#: On Ray it would be the same again.
NO_WORKER = pytest.mark.drivers("local", reason="no worker is started, or asked anything but for its answer")


def make_adapter(folder: Path, seed: int = 0, source: str = "pirate") -> Path:
    """A valid adapter for the demo model; each ``seed`` makes other content."""
    shutil.copytree(adapter_path(source), folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 16 + seed}))
    return folder


def load(cluster: Cluster, name: str, path: Path, **more: Any) -> httpx.Response:
    return cluster.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path), **more})


def unload(cluster: Cluster, name: str) -> httpx.Response:
    return cluster.post("/v1/unload_lora_adapter", {"lora_name": name})


def adapters(cluster: Cluster) -> dict[str, dict[str, Any]]:
    answer = httpx.get(f"{cluster.url}/v1/lora_adapters", timeout=30)
    assert answer.status_code == 200, answer.text
    return {a["lora_name"]: a for a in answer.json()["adapters"]}


def held(cluster: Cluster) -> dict[str, dict[str, str]]:
    """What each worker itself says it holds: name and path."""
    result = {}
    for name in cluster.status()["instances"]:
        cards = cluster.ask_worker(name, "GET", "/v1/models").json()["data"]
        result[name] = {card["id"]: card["root"] for card in cards if card["parent"]}
    return result


def behind_our_back(cluster: Cluster, instance: str, path: str, body: dict[str, str]) -> httpx.Response:
    return cluster.ask_worker(instance, "POST", path, body)


def agreed(cluster: Cluster) -> bool:
    """Every worker holds exactly what the registry says, in the registry's version."""
    wanted = {name: a["version"] for name, a in adapters(cluster).items()}
    for a in adapters(cluster).values():
        if any(i["state"] != "loaded" or i["version"] != a["version"] for i in a["instances"].values()):
            return False
    return all(set(names) == set(wanted) for names in held(cluster).values())


def test_a_loaded_adapter_is_everywhere_and_outlives_everything(sim: Cluster, tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "mine")
    answer = load(sim, "mine", source, description="a test")
    assert answer.status_code == 200, answer.text
    assert answer.json()["instances"] == {f"instance_{n}": "loaded" for n in range(3)}
    assert (answer.json()["version"], answer.json()["unchecked"]) == (1, [])
    shutil.rmtree(source)
    text = sim.complete("mine").json()["choices"][0]["text"]

    kill(sim.instance("instance_1")["pid"])
    poll(lambda: sim.instance("instance_1")["restarts"] == 1, 10)
    sim.wait_ready(3)
    assert agreed(sim)
    assert sim.run("scale", "4").returncode == 0
    assert "mine" in sim.instance("instance_3")["models"]
    kill(sim.status()["supervisor"]["pid"])
    assert sim.complete("mine").json()["choices"][0]["text"] == text
    assert sim.up("--engine", "sim").returncode == 0
    poll(lambda: agreed(sim), 10)
    assert sim.run("down").returncode == 0
    assert sim.up("--engine", "sim", "--instances", "2").returncode == 0
    sim.wait_ready(2)
    shown = adapters(sim)["mine"]
    assert (shown["version"], shown["description"], shown["requests_total"]) == (1, "a test", 2)
    assert shown["last_used"] > 0
    assert sim.complete("mine").json()["choices"][0]["text"] == text


async def _keep_asking(cluster: Cluster, model: str, stop: asyncio.Event, outcomes: Counter[Any]) -> None:
    body = {"model": model, "prompt": "hello", "max_tokens": 6, "ignore_eos": True, "stream": True, "itl_ms": 2}
    async with httpx.AsyncClient(timeout=40) as client:
        while not stop.is_set():
            text = ""
            async with client.stream("POST", f"{cluster.url}/v1/completions", json=body) as answer:
                async for piece in answer.aiter_text():
                    text += piece
            outcomes[answer.status_code if text.endswith("data: [DONE]\n\n") else text] += 1


@pytest.mark.parametrize("instances", [1, 3])
async def test_updates_and_rollbacks_under_load_fail_no_request(three: Cluster, tmp_path: Path, instances: int) -> None:
    assert three.run("scale", str(instances)).returncode == 0
    three.wait_ready(instances)
    versions = [make_adapter(tmp_path / f"v{n}", n) for n in range(4)]
    assert load(three, "mine", versions[0]).status_code == 200
    for name in three.status()["instances"]:
        three.fault(name, kind="slow_lora", delay_s=0.1)
    stop, outcomes = asyncio.Event(), Counter[Any]()
    asking = [asyncio.ensure_future(_keep_asking(three, "mine", stop, outcomes)) for _ in range(8)]
    try:
        for version in versions[1:]:
            answer = await asyncio.to_thread(load, three, "mine", version, load_inplace=True)
            assert answer.status_code == 200, answer.text
        back = await asyncio.to_thread(three.post, "/v1/lora_adapters/mine/rollback", {})
        assert (back.status_code, back.json()["version"]) == (200, 3)
    finally:
        stop.set()
        await asyncio.gather(*asking)
    assert set(outcomes) == {200}
    assert outcomes[200] > 20
    assert agreed(three)
    for name in three.status()["instances"]:
        three.ask_worker(name, "DELETE", "/sim/fault")
    assert unload(three, "mine").status_code == 200
    assert three.post("/v1/cluster/scale", {"instances": 3}).is_success
    three.wait_ready(3)


@NO_WORKER
@pytest.mark.parametrize(
    ("break_it", "status", "words"),
    [
        (lambda p: shutil.rmtree(p), 404, "no"),
        (lambda p: (p / "adapter_config.json").unlink(), 404, "adapter_config.json"),
        (lambda p: (p / "adapter_config.json").write_text("{"), 400, "adapter_config.json"),
        (lambda p: (p / "adapter_model.safetensors").write_bytes(b"\xff" * 64), 400, "adapter_model.safetensors"),
        (lambda p: (p / "adapter_model.safetensors").rename(p / "adapter_model.bin"), 400, "more than hold tensors"),
        (lambda p: _config(p, r=64), 400, "rank"),
        (lambda p: _config(p, peft_type="IA3"), 400, "LORA"),
    ],
)
def test_what_is_no_adapter_is_refused_before_a_worker_sees_it(
    shared_sim: Cluster, tmp_path: Path, break_it: Any, status: int, words: str
) -> None:
    path = make_adapter(tmp_path / "broken")
    break_it(path)
    answer = load(shared_sim, "broken", path)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert "broken" not in adapters(shared_sim)
    assert shared_sim.status()["running_instances"] == 2


def _config(path: Path, **changes: Any) -> None:
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@NO_WORKER
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400), ({"lora_name": "x"}, 400), ({"lora_name": "a/b", "lora_path": "/x"}, 400),
        ({"lora_name": "demo", "lora_path": "/x"}, 409), ({"lora_name": "..", "lora_path": "/x"}, 400),
        ({"lora_name": "x", "lora_path": "relative"}, 400), ({"lora_name": "x", "lora_path": "/x", "n": 1}, 400),
    ],
)  # fmt: skip
def test_bad_requests_are_400_saying_what(shared_sim: Cluster, body: dict[str, Any], status: int) -> None:
    answer = shared_sim.post("/v1/load_lora_adapter", body)
    assert answer.status_code == status, answer.text


@NO_WORKER
def test_adapter_routes_are_protected_like_the_cluster(shared_sim: Cluster) -> None:
    evil = {"Origin": "http://evil.example"}
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/lora_adapters/pirate/rollback"):
        assert shared_sim.post(path, {"lora_name": "pirate"}, headers=evil).status_code == 403
    assert httpx.get(f"{shared_sim.url}/v1/lora_adapters", headers=evil).status_code == 403


@NO_WORKER
def test_names_as_some_clients_write_them(shared_sim: Cluster) -> None:
    plain = shared_sim.complete("pirate").json()
    for name in ("demo:pirate", "base_model:pirate"):
        answer = shared_sim.complete(name).json()
        assert answer["choices"][0]["text"] == plain["choices"][0]["text"]
    unknown = shared_sim.complete("other:pirate")
    assert unknown.status_code == 404
    assert "'pirate'" in shared_sim.complete("pirat").json()["error"]["message"]


@pytest.mark.soak
def test_many_more_adapters_than_eight_places_all_answer(cluster: Cluster, tmp_path: Path) -> None:
    count = 200
    listed = [{"name": f"a{n}", "path": str(make_adapter(tmp_path / f"a{n}", n))} for n in range(count)]
    file = tmp_path / "adapters.yaml"
    file.write_text(json.dumps({"lora_adapters": listed, "auto_load": ["a0"], "lora_settings": {"cache_size": 8}}))
    result = cluster.up(
        "--engine", "sim", "--instances", "1", "--model", str(model_path()), "--lora-config", str(file),
        "--", "--max-loras", "8", "--served-model-name", "demo",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(1)
    assert all(set(names) == {"a0"} for names in held(cluster).values())
    assert len(adapters(cluster)) == count
    for n in range(count):
        answer = cluster.complete(f"a{n}")
        assert answer.status_code == 200, answer.text
        if n % 20 == 19:
            assert all(len(names) <= 8 for names in held(cluster).values())
            assert all("a0" in names for names in held(cluster).values()), "what is to be loaded always stays"
    status = cluster.status()
    assert [i["degraded"] for i in status["instances"].values()] == [False]
    states = Counter(i["state"] for a in adapters(cluster).values() for i in a["instances"].values())
    assert states["lazy"] == count - 8


def test_a_cold_start_with_one_copy_gone_serves_the_other_seven(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.up("--engine", "sim", "--instances", "2").returncode == 0
    cluster.wait_ready(2)
    for n in range(8):
        assert load(cluster, f"a{n}", make_adapter(tmp_path / f"a{n}", n)).status_code == 200
    lost = httpx.get(f"{cluster.url}/v1/lora_adapters/a3").json()["versions"][0]["hash"]
    assert cluster.run("down").returncode == 0
    shutil.rmtree(cluster.state_dir / "adapters" / lost)
    assert cluster.up("--engine", "sim", "--instances", "2").returncode == 0
    status = cluster.wait_ready(2)
    assert [i["degraded"] for i in status["instances"].values()] == [True, True]
    assert "a3" in status["instances"]["instance_0"]["reason"]
    for n in (0, 1, 2, 4, 5, 6, 7):
        assert cluster.complete(f"a{n}").status_code == 200


def _killed_while_loading(cluster: Cluster, path: Path, delay: float) -> None:
    """SIGKILL to the supervisor ``delay`` seconds into a load; then another one takes over."""
    pid = cluster.status()["supervisor"]["pid"]
    timer = threading.Timer(delay, kill, (pid,))
    timer.start()
    try:
        load(cluster, "mine", path, load_inplace=True)
    except httpx.HTTPError:
        pass
    timer.join()
    assert cluster.up("--engine", "sim").returncode == 0


def _supervisor_kills(cluster: Cluster, tmp_path: Path, times: int) -> None:
    before = {n: i["pid"] for n, i in cluster.wait_ready(3)["instances"].items()}
    folders = [make_adapter(tmp_path / f"v{n}", n) for n in range(2)]
    chooser = random.Random(11)
    for n in range(times):
        was = adapters(cluster).get("mine", {}).get("version", 0)
        _killed_while_loading(cluster, folders[n % 2], chooser.random() * 0.08)
        now = adapters(cluster).get("mine", {}).get("version", 0)
        assert now in (was, was + 1)
        poll(lambda: agreed(cluster), 10, "the workers agree with the registry")
    assert {n: i["pid"] for n, i in cluster.status()["instances"].items()} == before, "no worker was restarted"


@pytest.mark.timeout(240)
def test_a_supervisor_killed_in_a_load_leaves_the_old_or_the_new_state(three: Cluster, tmp_path: Path) -> None:
    _supervisor_kills(three, tmp_path, 8)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_two_hundred_supervisors_killed_in_a_load(sim: Cluster, tmp_path: Path) -> None:
    _supervisor_kills(sim, tmp_path, 200)


def _random_operations(cluster: Cluster, tmp_path: Path, count: int) -> None:
    assert cluster.up("--engine", "sim", "--instances", "3").returncode == 0
    cluster.wait_ready(3)
    folders = [make_adapter(tmp_path / f"v{n}", n) for n in range(5)]
    chooser = random.Random(3)
    for _ in range(count):
        name, dice = f"n{chooser.randrange(6)}", chooser.random()
        if dice < 0.55:
            answer = load(cluster, name, chooser.choice(folders), load_inplace=True)
        elif dice < 0.75:
            answer = cluster.post(f"/v1/lora_adapters/{name}/rollback", {})
        elif dice < 0.93:
            answer = unload(cluster, name)
        else:
            # One that has served for a while: five kills within 3 s each are a crash loop, and rightly given up.
            served = [i["pid"] for i in cluster.status()["instances"].values() if (i["ready_for_s"] or 0) > 3.2]
            if served:
                with contextlib.suppress(ProcessLookupError):  # of an end on a node a status may not know yet
                    kill(chooser.choice(served))
            continue
        assert answer.status_code in (200, 202, 404, 409), answer.text
    poll(lambda: cluster.status()["supervisor"]["settled"], 90, "all workers are back")
    assert cluster.status()["running_instances"] == 3
    poll(lambda: agreed(cluster), 20)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_a_thousand_random_operations_with_random_kills_end_in_agreement(cluster: Cluster, tmp_path: Path) -> None:
    _random_operations(cluster, tmp_path, 1000)


@NO_WORKER
@pytest.mark.parametrize("managed", [False, True])
def test_a_foreign_server_gets_our_adapters_only_if_that_is_asked_for(
    cluster: Cluster, tmp_path: Path, managed: bool
) -> None:
    port = free_port()
    environment = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    argv = [sys.executable, "-m", "worker.sim", "--port", str(port), "--enable-lora", "--max-lora-rank", "16"]
    with subprocess.Popen(argv, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            flags = ["--manage-backend-adapters"] if managed else []
            result = cluster.up("--instances", "0", "--backend", url, *flags)
            assert result.returncode == 0, result.stderr
            answer = load(cluster, "mine", make_adapter(tmp_path / "mine"))
            on_it = [card["id"] for card in httpx.get(f"{url}/v1/models").json()["data"]]
            assert ("mine" in on_it) is managed
            assert answer.status_code == (200 if managed else 202)
            if managed:
                assert answer.json()["instances"] == {"backend_0": "loaded"}
                assert cluster.complete("mine").status_code == 200
                assert unload(cluster, "mine").status_code == 200
                assert "mine" not in [card["id"] for card in httpx.get(f"{url}/v1/models").json()["data"]]
        finally:
            server.terminate()
