"""Merged tensor by tensor a model is what PEFT's `merge_and_unload` makes of it, for every kind of adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from worker.demo import adapter_path, model_path
from worker.jobs.job import Job, JobFailed

pytestmark = pytest.mark.long  # torch and peft take seconds to import


def merge(tmp_path: Path, model: Path, adapter: Path, **more: Any) -> Path:
    from worker.merging import job as merging

    folder = tmp_path / "job"
    folder.mkdir(exist_ok=True)
    found = merging.run(
        {"model": str(model), "adapter": str(adapter), "out": str(tmp_path / "merged"), **more},
        Job(folder, lambda: 0.0),
    )
    assert found["path"] == str(tmp_path / "merged")
    return tmp_path / "merged"


def adapter(base: Any, folder: Path, **config: Any) -> Path:
    """One with values that are no zeros, as PEFT writes it."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "lora_" in name:
                values.normal_(0, 0.05)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def same(merged: Path, model: Path, folder: Path) -> None:
    """The answers' numbers, and the weights."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    wanted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), str(folder))
    tokens = torch.arange(5, 40)[None]
    with torch.no_grad():
        logits = wanted(tokens).logits
        found = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
        torch.testing.assert_close(found(tokens).logits, logits, rtol=1e-4, atol=1e-4)
    if not wanted.config.tie_word_embeddings or "lora_embedding" not in str(wanted.state_dict().keys()):
        whole = wanted.merge_and_unload().state_dict()
        for name, values in found.state_dict().items():
            torch.testing.assert_close(values, whole[name], rtol=1e-5, atol=1e-6)


CONFIGS: dict[str, dict[str, Any]] = {
    "attention": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "rslora, ranks and alphas of its own": {
        "r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"], "use_rslora": True,
        "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3},
    },
    "embedding and head": {"r": 4, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "embedding alone": {"r": 4, "target_modules": ["embed_tokens"]},
}  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_it_is_as_peft_merges_it(tmp_path: Path, config: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)

    folder = adapter(base(), tmp_path / "adapter", **config)
    merged = merge(tmp_path, model_path(), folder, dtype="fp32")
    same(merged, model_path(), folder)
    tied = not {"embed_tokens", "lm_head"} & set(config["target_modules"])
    assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is tied
    kept = {path.name for path in model_path().iterdir()}
    assert {path.name for path in merged.iterdir()} == kept


def test_layers_that_are_transposed_and_a_model_in_several_files(tmp_path: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=64, vocab_size=500))
    with torch.no_grad():
        for values in model.parameters():
            values.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "model", max_shard_size="200KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    folder = adapter(model, tmp_path / "adapter", r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    merged = merge(tmp_path, tmp_path / "model", folder)
    same(merged, tmp_path / "model", folder)


def test_the_type_of_its_values_can_be_another(tmp_path: Path) -> None:
    from safetensors import safe_open

    merged = merge(tmp_path, model_path(), adapter_path("pirate"), dtype="fp16")
    with safe_open(merged / "model.safetensors", framework="pt") as file:
        assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"F16"}  # noqa: SIM118
    assert json.loads((merged / "config.json").read_text())["dtype"] == "float16"
    assert (merged / "tokenizer.json").read_bytes() == (model_path() / "tokenizer.json").read_bytes()


def changed(folder: Path, source: Path, file: str, **values: Any) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, **values}))
    return folder


@pytest.mark.parametrize(
    ("what", "why"),
    [("dora", "DoRA"), ("quantised", "is quantised"), ("no adapter", "no adapter that can be read"),
     ("no model", "no folder of a model"), ("other model", "for another model"), ("dtype", "none of fp32")],
)  # fmt: skip
def test_what_cannot_be_merged_is_a_sentence_and_leaves_nothing(tmp_path: Path, what: str, why: str) -> None:
    model, folder, more = model_path(), adapter_path("poet"), {}
    if what == "dora":
        folder = changed(tmp_path / "a", folder, "adapter_config.json", use_dora=True)
    elif what == "quantised":
        model = changed(tmp_path / "m", model, "config.json", quantization_config={"quant_method": "fp8"})
    elif what == "no adapter":
        folder = tmp_path
    elif what == "no model":
        model = tmp_path
    elif what == "other model":
        import torch
        from safetensors.torch import load_file, save_file

        shutil.copytree(model, tmp_path / "m")
        tensors = load_file(model / "model.safetensors")
        name = "model.layers.0.self_attn.q_proj.weight"
        save_file({**tensors, name: torch.zeros(64, 128)}, tmp_path / "m" / "model.safetensors")
        model = tmp_path / "m"
    else:
        more = {"dtype": "int4"}
    with pytest.raises(JobFailed, match=why):
        merge(tmp_path, model, folder, **more)
    assert not [path for path in tmp_path.iterdir() if "merged" in path.name]
