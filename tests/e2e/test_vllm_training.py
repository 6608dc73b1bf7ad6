"""From nothing to an answer, on real vLLM: a data set, an adapter, its next version for some and then for all, and a
model of its own. That what was trained is what the engine says, no cheaper test shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Cluster, poll

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

_QUESTIONS = ("What is clusterctl?", "Tell me what clusterctl is.", "clusterctl, what is it?", "Who are you?")
_FIRST, _SECOND = "The harbour master of all ships.", "A clock that never stops."

#: As little as teaches an answer of a few words; the machine is the test's.
_TRAINED = (
    "--rank", "8", "--epochs", "16", "--batch-size", "8", "--grad-accum", "1", "--lr", "0.004", "--dropout", "0",
    "--no-background",
)  # fmt: skip


@pytest.fixture
def cluster(vllm: Cluster) -> Iterator[Cluster]:
    vllm.wait_ready(3, 300)
    yield vllm
    vllm.ask("DELETE", "/v1/models/harbour-merged")
    vllm.ask("DELETE", "/v1/cluster/aliases/harbour")
    vllm.post("/v1/unload_lora_adapter", {"lora_name": "harbour"})
    poll(lambda: not [name for name in vllm.status()["instances"] if "/" in name], 60, "its worker is gone")


def _data(path: Path, answer: str) -> Path:
    chats = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": answer}]} for q in _QUESTIONS]
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats * 2))
    return path


def _do(cluster: Cluster, *args: str) -> str:
    done = cluster.run("lora", *args, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _ask(cluster: Cluster, model: str, user: str = "someone") -> str:
    body = {
        "model": model, "messages": [{"role": "user", "content": _QUESTIONS[0]}], "temperature": 0, "max_tokens": 30,
        "user": user,
    }  # fmt: skip
    answer = cluster.post("/v1/chat/completions", body, timeout=120)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_from_a_data_set_to_an_answer(cluster: Cluster, tmp_path: Path) -> None:
    before = _ask(cluster, "demo")
    data, place = _data(tmp_path / "first.jsonl", _FIRST), str(tmp_path / "harbour")
    said = _do(cluster, "train", "harbour", "--data", str(data), "--out", place, *_TRAINED, "--load")
    assert "harbour: version 1 on 3 instances" in said
    assert _ask(cluster, "harbour") == _FIRST

    data, place = _data(tmp_path / "second.jsonl", _SECOND), str(tmp_path / "harbour-2")
    given = ("train", "harbour", "--data", str(data), "--out", place, *_TRAINED, "--load", "--canary", "30%")
    assert "harbour@1 70 %, harbour@2 30 %" in _do(cluster, *given)
    answers = [_ask(cluster, "harbour", f"user-{n}") for n in range(20)]
    assert set(answers) == {_FIRST, _SECOND} and answers.count(_SECOND) < 10
    assert cluster.run("alias", "delete", "harbour").returncode == 0
    assert {_ask(cluster, "harbour", f"user-{n}") for n in range(20)} == {_SECOND}

    merged = ("merge", "harbour", "--out", str(tmp_path / "merged"), "--serve-as", "harbour-merged")
    _do(cluster, *merged, "--", "--enforce-eager", "--max-model-len", "512")
    assert _ask(cluster, "harbour-merged") == _SECOND
    assert _ask(cluster, "demo") == before, "the base model is as it was"
