"""An adapter that brings a sequence classifier's head along, on real vLLM: one worker with a toy classifier, which is
one of the models of its cluster. The other makes text, without a model behind it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Cluster, free_port
from worker.demo import adapter_path, model_path

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

_HEAD = "base_model.model.score.weight"


def _classifier(folder: Path) -> Path:
    """The demo model with a head of three labels."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(1)
    model = LlamaForSequenceClassification.from_pretrained(model_path(), num_labels=3, dtype=torch.float32)
    model.save_pretrained(folder)
    for file in model_path().glob("*token*"):
        shutil.copy(file, folder)
    return folder


def _adapter(folder: Path, labels: int, saved: list[str] | None) -> Path:
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    torch.manual_seed(2)
    tensors = {**load_file(adapter_path("pirate") / "adapter_model.safetensors"), _HEAD: torch.randn(labels, 128)}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = json.loads((adapter_path("pirate") / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": saved}))
    return folder


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, free_port())
    yield cluster
    cluster.close()


def test_a_head_that_is_loaded_answers_and_others_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    model = _classifier(tmp_path / "model")
    classifier = {"path": str(model), "on_demand": False, "args": ["--dtype", "float32", "--enforce-eager"]}
    texts = {"path": "demo", "engine": "sim", "on_demand": False}
    (tmp_path / "cluster.yaml").write_text(json.dumps({"models": {"base": classifier, "texts": texts}}))
    up = cluster.up("--config", str(tmp_path / "cluster.yaml"), timeout=400)
    assert up.returncode == 0, up.stderr
    cluster.wait_ready(2, 300)
    for path in ("/v1/completions", "/v1/chat/completions"):
        asked = cluster.post(path, {"model": "base", "prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}]})
        assert asked.status_code in (400, 404), asked.text  # it makes no text
    assert cluster.complete("texts").status_code == 200

    def classes(name: str) -> list[Any]:
        answer = cluster.post("/classify", {"model": name, "input": ["Hi", "1 + 1 ="]})
        assert answer.status_code == 200, answer.text
        return [item["probs"] for item in answer.json()["data"]]

    def load(name: str, labels: int, saved: list[str] | None) -> Any:
        path = _adapter(tmp_path / name, labels, saved)
        given = {"lora_name": name, "lora_path": str(path), "model": "base"}
        return cluster.post("/v1/load_lora_adapter", given)

    both = ["classifier", "score"]
    base = classes("base")
    for name, labels in (("same", 3), ("fewer", 2)):
        loaded = load(name, labels, both)
        assert loaded.status_code == 200, loaded.text
        assert classes(name) != base and {len(probs) for probs in classes(name)} == {labels}
    for name, labels, saved, words in (("more", 5, both, "5 labels"), ("unnamed", 3, None, "does not name")):
        refused = load(name, labels, saved)
        assert refused.status_code == 400 and words in refused.json()["error"]["message"], refused.text
    assert classes("base") == base
