"""Adapters from files: what is taken, for which base, and which configuration is refused and why."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from smalladapters import DEMO, MODULE, Spec, adapter_in, inspected, matrices, refused, write_tensors
from worker.adapters.files import (
    BaseShapes,
    content_hash,
    read_base,
)


def test_a_sound_adapter_passes_with_nothing_unchecked(tmp_path: Path) -> None:
    shutil.copytree(DEMO / "adapters" / "pirate", tmp_path / "pirate")
    facts = inspected(tmp_path / "pirate", base=read_base(str(DEMO / "model")))
    assert facts.rank == 8 and facts.base_model == "demo" and facts.unchecked == ()
    assert facts.target_modules == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert facts.size == sum(file.stat().st_size for file in (tmp_path / "pirate").iterdir())
    assert facts.content_hash == content_hash(DEMO / "adapters" / "pirate")


@pytest.mark.parametrize(
    "module, base",
    [
        ("transformer.h.3.attn.attention.q_proj", "transformer.h.3.attn.attention.q_proj"),
        ("transformer.h.3.mlp.c_fc_0", "transformer.h.3.mlp.c_fc_0"),
        ("model.layers.3.mlp.up_proj", "model.layers.3.mlp.up_proj"),
    ],
)
def test_llama_and_exaone_names_are_exact(tmp_path: Path, module: str, base: str) -> None:
    target = module.rpartition(".")[2]
    adapter = adapter_in(tmp_path / "a", matrices(module, 2, 8, 4), target_modules=[target])
    assert inspected(adapter, base=BaseShapes({base: (8, 4)})).unchecked == ()
    refused(adapter, 400, "[2, 4]", base=BaseShapes({base: (8, 5)}))


@pytest.mark.parametrize(
    "others",
    [
        {f"language_model.{MODULE}": (8, 4), "vision_tower.encoder.layers.0.self_attn.q_proj": (9, 9)},
        {"model.language_model.layers.0.self_attn.q_proj": (8, 4), "visual.blocks.0.attn.qkv": (9, 9)},
        {"layers.0.self_attn.q_proj": (8, 4)},
    ],
)
def test_a_prefix_of_the_base_model_may_differ_and_is_told(tmp_path: Path, others: dict[str, tuple[int, int]]) -> None:
    adapter = adapter_in(tmp_path / "a")
    (told,) = inspected(adapter, base=BaseShapes(others)).unchecked
    assert "not checked: model.layers.*.self_attn.q_proj" in told
    refused(adapter, 400, "must have", base=BaseShapes(dict.fromkeys(others, (8, 5))))


def test_embeddings_and_a_tied_head_are_compared(tmp_path: Path) -> None:
    both = ["embed_tokens", "lm_head"]
    weights = {"model.embed_tokens.weight": (32, 4), "model.norm.weight": (4,)}
    write_tensors(tmp_path / "m" / "model.safetensors", weights)
    base = read_base(str(tmp_path / "m"))
    stem = "base_model.model.model.embed_tokens"
    spec = {f"{stem}.lora_embedding_A": (2, 32), f"{stem}.lora_embedding_B": (4, 2), **matrices("lm_head", 2, 32, 4)}
    spec[f"{stem}.base_layer.weight"] = (32, 4)
    adapter = adapter_in(tmp_path / "a", spec, target_modules=both)
    facts = inspected(adapter, base=base)
    assert facts.target_modules == ("embed_tokens", "lm_head") and facts.unchecked == ()
    wrong = adapter_in(tmp_path / "b", spec | {f"{stem}.lora_embedding_A": (2, 31)}, target_modules=both)
    refused(wrong, 400, "must have [2, 32]", base=base)


def test_ranks_follow_the_patterns(tmp_path: Path) -> None:
    spec = matrices(MODULE, 4, 8, 4) | matrices(MODULE.replace(".0.", ".1."), 2, 8, 4)
    adapter = adapter_in(tmp_path / "a", spec, rank_pattern={r"layers\.0\..*q_proj": 4}, alpha_pattern={"q_proj": 8})
    assert inspected(adapter, base=None).rank == 4
    refused(adapter, 400, "max_lora_rank", base=None, max_rank=3)
    refused(adapter_in(tmp_path / "b", spec), 400, "is rank 4")


@pytest.mark.parametrize("targets", ["all-linear", r".*\.(q|v)_proj", "q_proj", None, [MODULE]])
def test_target_modules_in_any_form(tmp_path: Path, targets: Any) -> None:
    assert inspected(adapter_in(tmp_path / "a", target_modules=targets)).target_modules == ("q_proj",)


def test_a_pattern_that_could_take_for_ever_is_not_tried(tmp_path: Path) -> None:
    (told,) = inspected(adapter_in(tmp_path / "a", target_modules="(.*a)*b")).unchecked
    assert "target_modules" in told


def test_fused_experts_and_packed_weights_are_told_as_not_compared(tmp_path: Path) -> None:
    spec: Spec = {"l.layers.0.mlp.experts.gate_up_proj": (4, 8, 8), f"{MODULE}.qweight": ("I32", (1, 8))}
    write_tensors(tmp_path / "m" / "model.safetensors", spec)
    experts = "model.layers.0.mlp.experts"
    tensors = matrices(experts, 8, 8, 4) | matrices(f"{experts}.3.up_proj", 2, 8, 4) | matrices(MODULE, 2, 8, 4)
    adapter = adapter_in(tmp_path / "a", tensors, target_modules=["q_proj", "up_proj"])
    told = inspected(adapter, base=read_base(str(tmp_path / "m"))).unchecked
    assert "3 modules were not compared" in told[0]


def test_a_transposed_base_is_allowed_where_the_config_says_so(tmp_path: Path) -> None:
    base = BaseShapes({MODULE: (4, 8)})
    assert inspected(adapter_in(tmp_path / "a", fan_in_fan_out=True), base=base).rank == 2
    refused(adapter_in(tmp_path / "b", fan_in_fan_out=False), 400, "must have", base=base)


def test_without_the_base_model_the_answer_says_so(tmp_path: Path) -> None:
    (told,) = inspected(adapter_in(tmp_path / "a"), base=None).unchecked
    assert told == "tensor shapes were not compared: the base model's weights cannot be read here"


def test_a_moved_base_model_of_the_right_shape_is_no_error(tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path / "a", base_model_name_or_path="org/other")
    (told,) = inspected(adapter, served_names=("my/demo",)).unchecked
    assert "'org/other'" in told and "shapes fit" in told


@pytest.mark.parametrize("name", ["/old/disk/demo/", "org/Demo", "unsloth/demo-bnb-4bit", "", None])
def test_the_same_base_model_by_its_last_component(tmp_path: Path, name: str | None) -> None:
    adapter = adapter_in(tmp_path / "a", base_model_name_or_path=name)
    assert inspected(adapter, served_names=("x", "/models/demo")).unchecked == ()


def test_another_hub_model_is_a_conflict_only_if_nothing_better_is_known(tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path / "a", base_model_name_or_path="org/other")
    refused(adapter, 409, "org/other", base=None, served_names=("alias", "org/demo"))
    assert len(inspected(adapter, base=None, served_names=("alias", "/models/demo")).unchecked) == 2


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"peft_type": None}, "peft_type"),
        ({"r": 17}, "max_lora_rank"),
        ({"r": 0}, "r must be"),
        ({"r": True}, "r must be"),
        ({"r": "8"}, "r must be"),
        ({"r": 2.0}, "r must be"),
        ({"rank_pattern": {"q_proj": 17}}, "max_lora_rank"),
        ({"rank_pattern": {"q_proj": None}}, "rank_pattern"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern"),
        ({"rank_pattern": {"(?i)x": 2}}, "rank_pattern"),
        ({"rank_pattern": {"(a+)+$": 2}}, "too involved"),
        ({"alpha_pattern": {".*.*.*.*a": 2}}, "too involved"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha"),
        ({"lora_alpha": None}, "alpha"),
        ({"lora_alpha": 10**400}, "alpha"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "bias"),
        ({"bias": "all"}, "bias"),
        ({"bias": None}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora"),
        ({"use_bdlora": {"a": 1}}, "block-diagonal"),
        ({"use_qalora": True}, "QALoRA"),
        ({"target_modules": 3}, "target_modules"),
        ({"target_modules": [3]}, "target_modules"),
        ({"target_modules": ["v_proj"]}, "target_modules does not name"),
        ({"target_modules": r".*\.v_proj"}, "target_modules does not name"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path"),
    ],
)
def test_a_config_that_vllm_would_not_load(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    refused(adapter_in(tmp_path / "a", **changes), 400, word)


@pytest.mark.parametrize(
    "changes",
    [
        {"modules_to_save": []},
        {"init_lora_weights": "gaussian"},
        {"use_rslora": True},
        {"rank_pattern": None, "alpha_pattern": {}},
        {"lora_alpha": 0.5},
    ],
)
def test_a_config_that_vllm_loads(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert inspected(adapter_in(tmp_path / "a", **changes)).unchecked == ()


def test_target_modules_must_be_there(tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path / "a")
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 1}')
    refused(adapter, 400, "target_modules is missing")


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"[]", b"3", b'"LORA"', b"\xff\xfe{", b"[" * 100_000, b'{"r": NaN}'),
        b'{"base_model_name_or_path": "\\ud800"}',
        b" " * (1 << 20) + b"{}",
    ],
)
def test_a_config_that_is_no_object(tmp_path: Path, raw: bytes) -> None:
    adapter = adapter_in(tmp_path / "a")
    (adapter / "adapter_config.json").write_bytes(raw)
    refused(adapter, 400, "adapter_config.json")
