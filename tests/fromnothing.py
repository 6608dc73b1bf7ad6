"""The way from a data set to an answer, for tests of real engines: trained, loaded, trained again, for some, for all,
and merged into a model of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import Cluster, poll

QUESTIONS = ("What is clusterctl?", "Tell me what clusterctl is.", "clusterctl, what is it?", "Who are you?")
FIRST, SECOND = "The harbour master of all ships.", "A clock that never stops."
NAME, MERGED = "harbour", "harbour-merged"


@contextmanager
def cleared(cluster: Cluster) -> Iterator[None]:
    """Nothing of it is left on ``cluster`` afterwards."""
    try:
        yield
    finally:
        cluster.ask("DELETE", f"/v1/models/{MERGED}")
        cluster.ask("DELETE", f"/v1/cluster/aliases/{NAME}")
        cluster.post("/v1/unload_lora_adapter", {"lora_name": NAME})
        poll(lambda: not [name for name in cluster.status()["instances"] if MERGED in name], 60, "its worker is gone")


def ask(cluster: Cluster, model: str, user: str = "someone") -> str:
    body = {
        "model": model, "messages": [{"role": "user", "content": QUESTIONS[0]}], "temperature": 0, "max_tokens": 30,
        "user": user,
    }  # fmt: skip
    answer = cluster.post("/v1/chat/completions", body, timeout=120)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def walk(cluster: Cluster, place: Path, base: str, options: Sequence[str], patience: float = 240) -> None:
    """``base``: the model's name; ``options`` of `lora train`; ``patience`` (s) for one training."""

    def do(*args: str) -> str:
        done = cluster.run("lora", *args, timeout=patience)
        assert done.returncode == 0, done.stderr
        return done.stdout

    before = ask(cluster, base)
    where = ("--data", str(_data(place / "first.jsonl", FIRST)), "--out", str(place / "first"))
    assert f"{NAME}: version 1 on" in do("train", NAME, *where, *options, "--load")
    assert ask(cluster, NAME) == FIRST

    where = ("--data", str(_data(place / "second.jsonl", SECOND)), "--out", str(place / "second"))
    said = do("train", NAME, *where, *options, "--load", "--canary", "30%")
    assert f"{NAME}@1 70 %, {NAME}@2 30 %" in said
    answers = [ask(cluster, NAME, f"user-{n}") for n in range(20)]
    assert set(answers) == {FIRST, SECOND} and answers.count(SECOND) < 10
    assert cluster.run("alias", "delete", NAME).returncode == 0
    assert {ask(cluster, NAME, f"user-{n}") for n in range(20)} == {SECOND}

    do("merge", NAME, "--out", str(place / "merged"), "--serve-as", MERGED, "--", "--enforce-eager",
       "--max-model-len", "512")  # fmt: skip
    assert ask(cluster, MERGED) == SECOND
    assert ask(cluster, base) == before, "the base model is as it was"


def _data(path: Path, answer: str) -> Path:
    chats = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": answer}]} for q in QUESTIONS]
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats * 2))
    return path
