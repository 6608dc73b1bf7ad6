"""The life of an adapter on real vLLM: three workers, under load, and what outlives a kill."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

import rayhead
import trainers
from config.paths import StateDir
from harness import Cluster, free_port, kill, poll
from worker.adapters.tensors import read_header
from worker.demo import adapter_path

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

QUESTION: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is clusterctl?"}], "temperature": 0, "max_tokens": 40,
}  # fmt: skip


def _ask(cluster: Cluster, model: str) -> str:
    answer = cluster.post("/v1/chat/completions", {"model": model, **QUESTION})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def _load(cluster: Cluster, name: str, path: Path, **more: Any) -> httpx.Response:
    return cluster.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path), **more})


def _shown(cluster: Cluster) -> dict[str, Any]:
    found = httpx.get(f"{cluster.url}/v1/lora_adapters", timeout=30).json()["adapters"]
    return {a["lora_name"]: (a["version"], a["state"]) for a in found}


async def _stream(client: httpx.AsyncClient, cluster: Cluster, stop: asyncio.Event, seen: Counter[str]) -> None:
    body = {"model": "voice", "stream": True, **QUESTION}
    while not stop.is_set():
        text = ""
        async with client.stream("POST", f"{cluster.url}/v1/chat/completions", json=body) as answer:
            async for piece in answer.aiter_text():
                text += piece
        seen["ok" if answer.status_code == 200 and text.endswith("data: [DONE]\n\n") else text] += 1


async def test_load_update_rollback_and_unload_under_eight_streams(vllm: Cluster, tmp_path: Path) -> None:
    await asyncio.to_thread(vllm.wait_ready, 3, 300)
    pirate = shutil.copytree(adapter_path("pirate"), tmp_path / "pirate")
    assert vllm.complete("voice").status_code == 404
    loaded = await asyncio.to_thread(_load, vllm, "voice", pirate)
    assert loaded.status_code == 200, loaded.text
    assert set(loaded.json()["instances"].values()) == {"loaded"}
    shutil.rmtree(pirate)
    first = await asyncio.to_thread(_ask, vllm, "voice")
    assert first.startswith("Arr")

    stop, seen = asyncio.Event(), Counter[str]()
    async with httpx.AsyncClient(timeout=120) as client:
        streams = [asyncio.ensure_future(_stream(client, vllm, stop, seen)) for _ in range(8)]
        try:
            updated = await asyncio.to_thread(_load, vllm, "voice", adapter_path("poet"), load_inplace=True)
            assert updated.status_code == 200, updated.text
            assert updated.json()["version"] == 2
            second = await asyncio.to_thread(_ask, vllm, "voice")
            assert second.startswith("One address")
            back = await asyncio.to_thread(vllm.post, "/v1/lora_adapters/voice/rollback", {})
            assert (back.status_code, back.json()["version"]) == (200, 1), back.text
            assert await asyncio.to_thread(_ask, vllm, "voice") == first
            assert set(seen) <= {"ok"}
            gone = await asyncio.to_thread(vllm.post, "/v1/unload_lora_adapter", {"lora_name": "voice"})
            assert gone.status_code == 200
        finally:
            stop.set()
            await asyncio.gather(*streams)
    # What was in flight when it was unloaded has finished; who came later was told that there is no such model.
    assert not [text for text in seen if text != "ok" and "does not exist" not in text]
    assert seen["ok"] >= 8
    again = await asyncio.to_thread(_load, vllm, "voice", adapter_path("pirate"))
    assert (again.status_code, again.json()["version"]) == (200, 1)


def _spoiled(folder: Path, names: str, value: bytes) -> Path:
    """The demo's poet with ``value`` over the tensors named like ``names``, or in the middle of each."""
    shutil.copytree(adapter_path("poet"), folder)
    file = folder / "adapter_model.safetensors"
    with file.open("rb") as stream:
        tensors = read_header(stream, file.name)
    raw = bytearray(file.read_bytes())
    for name, tensor in tensors.items():
        if names in name and len(value) == 1:
            raw[tensor.begin : tensor.end] = value * (tensor.end - tensor.begin)
        elif names in name:
            raw[tensor.begin + 64 : tensor.begin + 64 + len(value)] = value
    file.write_bytes(raw)
    return folder


def test_what_would_be_wrong_reaches_no_worker(vllm: Cluster, tmp_path: Path) -> None:
    """One NaN in one matrix made the answers of the base model and of other adapters empty for rounds."""
    before = vllm.wait_ready(3, 300)
    base, poet = _ask(vllm, "demo"), _ask(vllm, "poet")
    wrong = {
        "model.layers.1.mlp.up_proj.lora_B.weight' holds a value that is NaN": _spoiled(
            tmp_path / "nan", "layers.1.mlp.up_proj.lora_B", b"\xc0\x7f"
        ),
        "has no effect": _spoiled(tmp_path / "zeros", "lora_B", b"\0"),
    }
    for words, path in wrong.items():
        answer = _load(vllm, "wrong", path)
        assert answer.status_code == 400 and words in answer.json()["error"]["message"], answer.text
    for flags in (["--no-enable-lora"], ["--lora-target-modules", "q_proj"], ["--max-lora-rank", "1"]):
        answer = vllm.post("/v1/cluster/apply", {"settings": {"engine_args": flags}})
        assert answer.status_code == 409 and "poet" in answer.json()["error"]["message"], answer.text
    # Untrained, and asked for as such: it answers as the base model does.
    assert _load(vllm, "wrong", tmp_path / "zeros", allow_no_effect=True).status_code == 200
    assert [_ask(vllm, model) for model in ("wrong", "demo", "poet")] == [base, base, poet]
    assert vllm.post("/v1/unload_lora_adapter", {"lora_name": "wrong"}).status_code == 200
    after = vllm.status()
    assert [i["pid"] for i in after["instances"].values()] == [i["pid"] for i in before["instances"].values()]


@pytest.mark.processes
def test_answers_on_a_node_of_ray_are_those_of_this_machine(
    vllm: Cluster, ray_head: rayhead.Head, tmp_path: Path
) -> None:
    """Token by token, of adapters given at the start and at run time: the engine there reads what its node's agent was
    brought, and by another path."""
    vllm.wait_ready(3, 300)
    on_ray = Cluster(tmp_path / "cluster", free_port(), driver=ray_head.driver)
    on_ray.root.mkdir()
    try:
        result = on_ray.up("--instances", "1", timeout=400)
        assert result.returncode == 0, result.stderr
        on_ray.wait_ready(1, 300)
        loaded = _load(on_ray, "late", adapter_path("pirate"))
        assert loaded.status_code == 200, loaded.text
        here = {model: _tokens(vllm, model) for model in ("demo", "pirate", "poet")}
        there = {model: _tokens(on_ray, model) for model in (*here, "late")}
        assert there == {**here, "late": here["pirate"]}
        assert len({json.dumps(tokens) for tokens in here.values()}) == 3, "each has an answer of its own"
        [home] = ray_head.driver.homes(StateDir(on_ray.state_dir))
        cards = on_ray.ask_worker("instance_0", "GET", "/v1/models").json()["data"]
        assert {Path(card["root"]).parent for card in cards if card["id"] != "demo"} == {home / "adapters"}
    finally:
        on_ray.close()


def _tokens(cluster: Cluster, model: str) -> list[int]:
    body = {"model": model, "return_token_ids": True, **QUESTION}
    answer = cluster.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return found


def test_adapters_outlive_a_worker_a_supervisor_and_are_refused_once_unloaded(vllm: Cluster) -> None:
    before = vllm.wait_ready(3, 300)
    shown, answer = _shown(vllm), _ask(vllm, "voice")
    kill(before["instances"]["instance_0"]["pid"])
    poll(lambda: vllm.instance("instance_0")["restarts"] > before["instances"]["instance_0"]["restarts"], 15)
    kill(vllm.status()["supervisor"]["pid"])
    assert vllm.up("--instances", "3", timeout=300).returncode == 0
    after = vllm.wait_ready(3, 300)
    assert "voice" in after["instances"]["instance_0"]["models"]
    assert after["instances"]["instance_1"]["pid"] == before["instances"]["instance_1"]["pid"]
    assert _shown(vllm) == shown
    vllm.post("/v1/cluster/strategy", {"strategy": "round_robin"})
    assert {_ask(vllm, "voice") for _ in range(3)} == {answer}
    assert vllm.post("/v1/unload_lora_adapter", {"lora_name": "voice"}).status_code == 200
    assert vllm.complete("voice").status_code == 404
    assert "voice" not in [card["id"] for card in httpx.get(f"{vllm.url}/v1/models").json()["data"]]
    assert _ask(vllm, "pirate").startswith("Arr")


def _kill_who_answers(vllm: Cluster, workers: list[int]) -> bool:
    """Nobody says more until it is known who speaks: the answer is short, and over within the time of a question.
    False: all of it had been said."""
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        speaking = [i["pid"] for i in vllm.status()["instances"].values() if i["in_flight"]]
        assert len(speaking) <= 1
        for pid in speaking:
            kill(pid)
        return bool(speaking)
    finally:
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _chat(vllm: Cluster, prompt: str, killed: list[bool] | None = None) -> tuple[str, str]:
    """Which side the route takes and what that says; where ``killed`` is to be told, the worker that says it is killed
    after the first line, if it has not said all by then."""
    text, lines, end = "", 0, {}
    workers = [i["pid"] for i in vllm.wait_ready(3, 300)["instances"].values()]
    body = {"prompt": prompt, "max_tokens": 100, "temperature": 0}
    with httpx.stream("POST", f"{vllm.url}/v1/chat/finance", json=body, timeout=120) as response:
        assert response.status_code == 200
        for line in filter(None, response.iter_lines()):
            end, lines = json.loads(line.removeprefix("data: ")), lines + 1
            text += end["text_delta"]
            if lines == 1 and killed is not None:
                killed.append(_kill_who_answers(vllm, workers))
    assert end["finished"]
    return response.headers["x-routed-model"], text


def test_a_route_in_chinese_and_the_side_of_an_alias_go_on_after_a_kill(vllm: Cluster) -> None:
    """A stream that has lost its worker says what it would have said, on the side that its conversation was given."""
    try:
        sides = {"sides": {"pirate": 1, "poet": 1}}
        assert vllm.ask("PUT", "/v1/cluster/aliases/expert-a", sides).status_code == 200
        route = {"rules": [{"keywords": ["账单", "支出"], "model": "expert-a"}], "default": "demo"}
        assert vllm.ask("PUT", "/v1/cluster/routes/finance", route).status_code == 200
        whole = {prompt: _chat(vllm, prompt) for prompt in (f"我的账单 {i}" for i in range(12))}
        assert {side for side, _ in whole.values()} == {"pirate", "poet"}
        prompt = max(whole, key=lambda asked: len(whole[asked][1]))
        killed: list[bool] = []
        while True not in killed:
            assert len(killed) < 10, "it is over before anybody can be killed"
            assert _chat(vllm, prompt, killed) == whole[prompt]
    finally:  # other tests use the cluster
        for path in ("/v1/cluster/routes/finance", "/v1/cluster/aliases/expert-a"):
            assert vllm.ask("DELETE", path).status_code == 200
    vllm.wait_ready(3, 300)


async def test_what_trainers_leave_answers_as_what_it_was_made_of_does(vllm: Cluster, tmp_path: Path) -> None:
    """Five trainers' folders, on their way through the real engine; and what nobody can load is told in a sentence."""
    await asyncio.to_thread(vllm.wait_ready, 3, 300)
    wanted, base = [await asyncio.to_thread(_ask, vllm, model) for model in ("pirate", "demo")]
    for number, (name, (make, told)) in enumerate(trainers.LOADED.items()):
        loaded = await asyncio.to_thread(_load, vllm, f"trained-{number}", make(tmp_path / str(number)))
        assert loaded.status_code == 200, (name, loaded.text)
        assert any(told in line for line in loaded.json()["converted"]), name
        answer = await asyncio.to_thread(_ask, vllm, f"trained-{number}")
        assert answer == wanted or (name == "fused projections" and answer != base), name
        gone = await asyncio.to_thread(vllm.post, "/v1/unload_lora_adapter", {"lora_name": f"trained-{number}"})
        assert gone.status_code == 200
    for number, (name, (make, told)) in enumerate({**trainers.REFUSED, **trainers.UNSERVED}.items()):
        refused = await asyncio.to_thread(_load, vllm, "refused", make(tmp_path / f"refused-{number}"))
        assert refused.status_code in (400, 404) and told in refused.json()["error"]["message"], (name, refused.text)
    events = await asyncio.to_thread(httpx.get, f"{vllm.url}/v1/cluster/events?limit=1000", timeout=30)
    kinds = Counter(event["kind"] for event in events.json()["events"])
    assert kinds["adapter.converted"] >= len(trainers.LOADED)
