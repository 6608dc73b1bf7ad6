"""What a config.json says of a model's size."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.sizing.matrices import Matrix, matrices, parameters, whole
from cluster.tools.sizing.model import parse
from config.errors import UsageError
from modelconfigs import (
    DEEPSEEK_V2_LITE,
    GEMMA_2_9B,
    GPT_OSS_20B,
    LLAMA_3_8B,
    LLAMA_32_1B,
    MISTRAL_7B,
    MIXTRAL_8X7B,
    QWEN3_30B_A3B,
    QWEN_25_7B,
    TOTALS,
)  # fmt: skip


@pytest.mark.parametrize(("name", "config", "total"), TOTALS, ids=[name for name, _, _ in TOTALS])
def test_parameters_are_counted_to_the_last_one(name: str, config: dict[str, Any], total: int) -> None:
    model = parse(config)
    assert parameters(model) == total and model.exact


def test_a_model_that_sees_has_its_language_in_text_config() -> None:
    inner = {k: v for k, v in LLAMA_3_8B.items() if k != "tie_word_embeddings"}
    model = parse({"model_type": "llava", "text_config": inner, "tie_word_embeddings": True})
    assert (model.family, model.hidden, model.tied) == ("llama", 4096, True)


def test_what_is_not_said_follows_from_what_is() -> None:
    model = parse({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100})
    assert (model.kv_heads, model.head_dim, model.inner, model.limit, model.exact) == (4, 16, 256, 0, False)


def test_gpt2_has_other_names() -> None:
    model = parse({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257,
                   "n_positions": 1024})  # fmt: skip
    assert (model.hidden, model.layers, model.limit, model.gated) == (768, 12, 1024, False)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "its config.json has no hidden_size: this is no language model that can be sized"),
        ({**LLAMA_3_8B, "vocab_size": None}, "has no vocab_size"),
        ({**LLAMA_3_8B, "hidden_size": "big"}, "hidden_size 'big', and a positive whole number is needed"),
        ({**LLAMA_3_8B, "num_attention_heads": 0}, "num_attention_heads 0"),
        ({**LLAMA_3_8B, "num_hidden_layers": True}, "num_hidden_layers True"),
        ({**LLAMA_3_8B, "intermediate_size": 1 << 50}, "intermediate_size"),
    ],
)
def test_what_is_no_language_model_is_refused_in_a_sentence(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("(", r"\(")) as error:
        parse(wrong)
    assert "\n" not in str(error.value)


_KEYS = sorted({*LLAMA_3_8B, *DEEPSEEK_V2_LITE, "text_config", "quantization_config", "layer_types", "sliding_window"})
_JUNK: list[Any] = [
    None, True, -1, 0, 1, 7, 1 << 70, 1.5, float("nan"), "", "x", [], [3, 5], ["x"], {}, {"factor": float("inf")},
    {"type": "yarn", "factor": 4, "original_max_position_embeddings": "x"}, {"bits": "4"}, {"config_groups": {"a": 1}},
    {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": None}}}, {"hidden_size": 8},
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_JUNK), max_size=6))
def test_no_content_does_more_than_be_refused(found: dict[str, Any]) -> None:
    try:
        model = parse({**LLAMA_3_8B, **found})
    except UsageError:
        return
    assert parameters(model) > 0


@pytest.mark.parametrize(
    ("config", "window", "layers"),
    [
        (LLAMA_3_8B, None, 0),
        (QWEN_25_7B, None, 0),
        ({**QWEN_25_7B, "use_sliding_window": True, "max_window_layers": 20}, 131072, 8),
        (MISTRAL_7B, 4096, 32),
        (GEMMA_2_9B, 4096, 21),
        (GPT_OSS_20B, 128, 12),
        ({**GEMMA_2_9B, "model_type": "gemma3", "num_hidden_layers": 62, "sliding_window": 1024}, 1024, 52),
    ],
)
def test_layers_that_look_back_a_window(config: dict[str, Any], window: int | None, layers: int) -> None:
    model = parse(config)
    assert (model.window, model.windowed) == (window, layers)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LLAMA_3_8B, 8192),
        (LLAMA_32_1B, 131072),
        (DEEPSEEK_V2_LITE, 163840),
        ({**LLAMA_3_8B, "rope_scaling": {"type": "linear", "factor": 4.0}}, 32768),
        ({**LLAMA_3_8B, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 32768),
    ],
)
def test_the_longest_context(config: dict[str, Any], limit: int) -> None:
    assert parse(config).limit == limit


@pytest.mark.parametrize(
    ("said", "served"),
    [("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "bfloat16"), ("torch.float16", "float16"),
     (None, "bfloat16"), ("float8", "bfloat16")],
)  # fmt: skip
def test_a_model_is_served_in_sixteen_bits(said: str | None, served: str) -> None:
    assert parse({**LLAMA_3_8B, "torch_dtype": said}).dtype == served
    assert parse({**LLAMA_3_8B, "torch_dtype": None, "dtype": said}).dtype == served


@pytest.mark.parametrize(
    ("found", "bits", "group"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4, 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, 4, None),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, 4, 64),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, 8, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4, 64),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8, None),
        ({"quant_method": "mxfp4"}, 4.25, None),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}, 8, None),
    ],
)  # fmt: skip
def test_quantized_checkpoints(found: dict[str, Any], bits: float, group: int | None) -> None:
    quantization = parse({**LLAMA_3_8B, "quantization_config": found}).quantization
    assert quantization is not None and (quantization.bits, quantization.group) == (bits, group)


def test_four_bits_in_groups_cost_their_scales_too() -> None:
    quantization = parse(
        {**LLAMA_3_8B, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    ).quantization
    assert quantization is not None
    assert quantization.bytes_of(128 * 1000) == 1000 * (128 // 2) + 1000 * 2 + 500


def test_experts_are_matrices_of_their_own() -> None:
    experts = {m.name: m for m in matrices(parse(MIXTRAL_8X7B)) if m.name.startswith("experts.")}
    assert experts["experts.down_proj"] == Matrix("experts.down_proj", 14336, 4096, 32 * 8, "in")
    dense = {m.name: m.copies for m in matrices(parse(DEEPSEEK_V2_LITE))}
    assert dense["mlp.up_proj"] == 1 and dense["experts.up_proj"] == 26 * 64 and dense["shared_experts.up_proj"] == 26
    assert not any(m.name.startswith("mlp.") for m in matrices(parse(QWEN3_30B_A3B)))


def test_every_other_layer_may_have_experts() -> None:
    model = parse({**QWEN3_30B_A3B, "decoder_sparse_step": 2, "mlp_only_layers": [1]})
    assert model.expert_layers == 23  # layers 3, 5 … 47


def test_what_no_gpu_shares_is_counted() -> None:
    gate, norms = 32 * 4096 * 8, 32 * 2 * 4096 + 4096
    assert whole(parse(MIXTRAL_8X7B)) == gate + norms


@pytest.mark.parametrize(
    ("config", "adapted"),
    [(LLAMA_3_8B, True), (MIXTRAL_8X7B, True), (MISTRAL_7B, False), (QWEN_25_7B, False), (GEMMA_2_9B, False)],
)
def test_vocabularies_are_adapted_where_vllm_does(config: dict[str, Any], adapted: bool) -> None:
    found = {m.name: m.adapted for m in matrices(parse(config))}
    assert found["embed_tokens"] == found["lm_head"] == adapted and found["q_proj"]
