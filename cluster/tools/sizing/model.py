"""A model as its config.json describes it. Pure.

Names and defaults are those of Hugging Face's configurations, as vLLM reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from config.errors import UsageError

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

#: Families whose parameters are counted to the last one (`cluster.tools.sizing.matrices`). Others are counted like
#: Llama, and the plan says so.
KNOWN = frozenset({
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi3", "gemma", "gemma2", "gemma3_text",
    "deepseek_v2", "deepseek_v3", "exaone", "kimi_k2", "gpt_oss",
})  # fmt: skip

_GEMMA = frozenset({"gemma", "gemma2", "gemma3_text"})


@dataclass(frozen=True, slots=True)
class Latent:
    """DeepSeek's multi-head latent attention: what is cached is one vector of ``rank`` + ``rope`` numbers a token."""

    rank: int
    rope: int
    query_rank: int | None
    nope: int
    value: int


@dataclass(frozen=True, slots=True)
class Quantization:
    """``bits`` a weight of a layer, and of ``group`` weights one scale; None: one a row, of no weight here."""

    method: str
    bits: float
    group: int | None = None

    def bytes_of(self, parameters: int) -> int:
        """Packed weights with their scales (2 bytes) and zero points."""
        extra = (16 + self.bits) / self.group if self.group else 0.0
        return math.ceil(parameters * (self.bits + extra) / 8)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes are counts, ``window`` and ``limit`` tokens. ``windowed`` of the ``layers`` look back ``window`` tokens
    only. ``experts``, of which a token goes through
    ``experts_each``, are in ``expert_layers`` of the layers; the others have one feed-forward network."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    tied: bool
    limit: int
    dtype: str
    gated: bool = True
    experts: int = 0
    experts_each: int = 0
    expert_layers: int = 0
    expert_inner: int = 0
    shared_inner: int = 0
    window: int | None = None
    windowed: int = 0
    latent: Latent | None = None
    quantization: Quantization | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False

    @property
    def exact(self) -> bool:
        """Whether the count of parameters is known to be right."""
        return self.family in KNOWN

    def kv_heads_each(self, ranks: int) -> int:
        """Of one of ``ranks`` GPUs: with more GPUs than heads, some hold the same."""
        return max(1, self.kv_heads // ranks)

    def cached(self, ranks: int) -> int:
        """Numbers that one token leaves in the cache of one layer on one GPU."""
        if self.latent is not None:
            return self.latent.rank + self.latent.rope  # every GPU has all of it
        return 2 * self.kv_heads_each(ranks) * self.head_dim


def parse(config: Mapping[str, Any]) -> ModelShape:
    """Raises UsageError, a sentence without the name of the model, for what describes no language model."""
    text = config.get("text_config") or config.get("llm_config")
    outer = config
    if isinstance(text, Mapping):
        config = {**{k: v for k, v in outer.items() if k in ("tie_word_embeddings", "quantization_config")}, **text}
    family = str(config.get("model_type", "") or "")
    if family == "gemma3":
        family = "gemma3_text"
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    layers = _number(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = _number(config, "num_attention_heads", "n_head", "n_heads")
    vocab = _number(config, "vocab_size")
    kv_heads = _number(config, "num_key_value_heads", "num_kv_heads", default=heads)
    head_dim = _number(config, "head_dim", default=max(1, hidden // heads))
    inner = _number(config, "intermediate_size", "n_inner", "ffn_hidden_size", default=4 * hidden)
    limit = _limit(config)
    experts = _number(config, "num_local_experts", "n_routed_experts", "num_experts", default=0)
    expert_layers = _expert_layers(config, layers) if experts else 0
    expert_inner = _number(config, "moe_intermediate_size", default=inner) if experts else 0
    shared = _number(config, "n_shared_experts", default=0) * expert_inner
    shared = _number(config, "shared_expert_intermediate_size", default=shared)
    window, windowed = _window(config, family, layers)
    attention_bias = bool(config.get("attention_bias", family == "gpt_oss"))
    return ModelShape(
        family=family, layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, inner=inner,
        vocab=vocab, tied=bool(config.get("tie_word_embeddings", family in _GEMMA)), limit=limit,
        dtype=_dtype(config, outer), gated=family not in ("gpt2", "gpt_neox", "opt", "falcon", "starcoder2"),
        experts=experts, experts_each=_number(config, "num_experts_per_tok", default=2) if experts else 0,
        expert_layers=expert_layers, expert_inner=expert_inner, shared_inner=shared,
        window=window, windowed=windowed, latent=_latent(config), quantization=_quantization(config),
        qkv_bias=attention_bias or bool(config.get("qkv_bias", family in ("qwen2", "qwen2_moe"))),
        out_bias=attention_bias and "deepseek" not in family, mlp_bias=bool(config.get("mlp_bias", False)),
    )  # fmt: skip


def _number(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        # A list is one number a layer: the greatest is a safe answer.
        if isinstance(value, list) and value and all(type(item) is int for item in value):
            value = max(value)
        if type(value) is not int or not 0 <= value < 1 << 40 or (value == 0 and default is None):
            raise UsageError(f"its config.json has {name} {value!r}, and a positive whole number is needed")
        return value
    if default is None:
        raise UsageError(f"its config.json has no {names[0]}: this is no language model that can be sized")
    return default


def _limit(config: Mapping[str, Any]) -> int:
    """The longest context, 0 where nothing says so."""
    limit = _number(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", default=0)
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if isinstance(scaling, Mapping) and scaling.get("rope_type", scaling.get("type")) in ("yarn", "linear", "dynamic"):
        factor = scaling.get("factor")
        if isinstance(factor, int | float) and math.isfinite(factor) and factor > 1:
            original = scaling.get("original_max_position_embeddings")
            limit = max(limit, int(factor * (original if isinstance(original, int) else limit)))
    return limit


def _expert_layers(config: Mapping[str, Any], layers: int) -> int:
    first = _number(config, "first_k_dense_replace", default=0)
    step = max(1, _number(config, "decoder_sparse_step", "moe_layer_freq", default=1))
    dense = config.get("mlp_only_layers") or []
    return sum(
        layer >= first and layer not in dense and ((layer + 1) % step == 0 if "decoder_sparse_step" in config
                                                   else layer % step == 0)
        for layer in range(layers)
    )  # fmt: skip


def _window(config: Mapping[str, Any], family: str, layers: int) -> tuple[int | None, int]:
    """How far windowed layers look back, and how many those are."""
    window = config.get("sliding_window")
    if type(window) is not int or window <= 0 or config.get("use_sliding_window") is False:
        return None, 0
    types = config.get("layer_types")
    if isinstance(types, list) and types:
        count = sum(kind == "sliding_attention" for kind in types)
    elif family == "gemma2":
        count = (layers + 1) // 2
    elif family == "gemma3_text":
        pattern = max(1, _number(config, "sliding_window_pattern", default=6))
        count = layers - layers // pattern
    elif family in ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"):
        count = layers - min(layers, _number(config, "max_window_layers", default=layers))
    else:
        count = layers
    return (window, count) if count else (None, 0)


def _latent(config: Mapping[str, Any]) -> Latent | None:
    if not config.get("kv_lora_rank"):
        return None
    return Latent(
        rank=_number(config, "kv_lora_rank"), rope=_number(config, "qk_rope_head_dim"),
        query_rank=_number(config, "q_lora_rank", default=0) or None, nope=_number(config, "qk_nope_head_dim"),
        value=_number(config, "v_head_dim"),
    )  # fmt: skip


def _dtype(config: Mapping[str, Any], outer: Mapping[str, Any]) -> str:
    """What vLLM serves it in (``--dtype auto``): float32 becomes bfloat16."""
    named = next((str(c[k]) for c in (config, outer) for k in ("dtype", "torch_dtype") if c.get(k)), "float32")
    named = named.removeprefix("torch.")
    return named if named == "float16" else "bfloat16"


def _quantization(config: Mapping[str, Any]) -> Quantization | None:
    found = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(found, Mapping):
        return None
    method = str(found.get("quant_method", "")).lower() or "unknown"
    bits, group = found.get("bits", found.get("w_bit")), found.get("group_size", found.get("q_group_size"))
    groups = found.get("config_groups")
    if method == "compressed-tensors" and isinstance(groups, Mapping) and groups:
        weights = next((g.get("weights") for g in groups.values() if isinstance(g, Mapping)), None) or {}
        bits, group = weights.get("num_bits"), weights.get("group_size")
    if method == "bitsandbytes":
        bits, group = (4, 64) if found.get("load_in_4bit") or found.get("_load_in_4bit") else (8, None)
    if method == "mxfp4":
        bits, group = 4.25, None  # a scale of 8 bits for 32 weights
    if method in ("fp8", "fbgemm_fp8", "modelopt") and bits is None:
        bits, group = 8, None
    if not isinstance(bits, int | float) or not 1 <= bits <= 16:
        return None
    return Quantization(method, float(bits), group if isinstance(group, int) and group > 0 else None)
