"""An adapter that brings a sequence classifier's head along, on real vLLM: one worker with a toy classifier, beside
those that make text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Cluster, poll
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
def cluster(vllm: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """With a model ``base``, the classifier."""
    vllm.wait_ready(3, 300)
    args = ["--dtype", "float32", "--enforce-eager"]
    body = {"model_name": "base", "model_path": str(_classifier(tmp_path / "model")), "engine": "vllm", "args": args}
    answer = vllm.post("/v1/models/load", body)
    assert answer.status_code == 202, answer.text
    vllm.wait_ready(4, 300)
    yield vllm
    for name in ("same", "fewer"):
        vllm.post("/v1/unload_lora_adapter", {"lora_name": name})
    assert vllm.ask("DELETE", "/v1/models/base").status_code == 202
    poll(lambda: not [name for name in vllm.status()["instances"] if name.startswith("base/")], 60, "it is gone")


def test_a_head_that_is_loaded_answers_and_others_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        asked = cluster.post(path, {"model": "base", "prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}]})
        assert asked.status_code in (400, 404), asked.text  # it makes no text
    assert cluster.complete("demo").status_code == 200

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
