"""Which layers each choice of targets means, by the names that families of models give theirs."""

from __future__ import annotations

import pytest

from worker.training.presets import UnknownTargets, targets

_LAYER = [*(f"self_attn.{kind}_proj" for kind in "qkvo"), *(f"mlp.{kind}_proj" for kind in ("gate", "up", "down"))]
LLAMA = [*(f"model.layers.{layer}.{module}" for layer in (0, 1) for module in _LAYER), "lm_head"]
PHI3 = ["model.layers.0.self_attn.qkv_proj", "model.layers.0.self_attn.o_proj", "model.layers.0.mlp.gate_up_proj",
        "model.layers.0.mlp.down_proj", "lm_head"]  # fmt: skip
GPT2 = ["transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj", "transformer.h.0.mlp.c_fc", "lm_head"]
NEOX = ["gpt_neox.layers.0.attention.query_key_value", "gpt_neox.layers.0.attention.dense",
        "gpt_neox.layers.0.mlp.dense_h_to_4h", "embed_out"]  # fmt: skip
MOE = ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj", "model.layers.0.mlp.gate"]


@pytest.mark.parametrize(
    ("wanted", "linear", "found"),
    [
        ("attention", LLAMA, ["q_proj", "v_proj"]),
        ("full-attention", LLAMA, ["q_proj", "k_proj", "v_proj", "o_proj"]),
        ("all", LLAMA, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
        ("attention", PHI3, ["qkv_proj"]), ("full-attention", PHI3, ["qkv_proj", "o_proj"]),
        ("attention", GPT2, ["c_attn"]), ("all", GPT2, ["c_attn", "c_proj", "c_fc"]),
        ("attention", NEOX, ["query_key_value"]), ("all", NEOX, ["query_key_value", "dense", "dense_h_to_4h"]),
        ("all", MOE, ["q_proj", "v_proj"]), (["up_proj", "q_proj"], LLAMA, ["up_proj", "q_proj"]),
        (["lm_head"], LLAMA, ["lm_head"]),
    ],
)
def test_targets(wanted: str | list[str], linear: list[str], found: list[str]) -> None:
    assert targets(wanted, linear, False, ["model.embed_tokens"]) == found
    more = [name for name in ["embed_tokens", linear[-1]] if name in ("embed_tokens", "lm_head", "embed_out")]
    with_embeddings = targets(wanted, linear, True, ["model.embed_tokens"])
    assert with_embeddings == found + [name for name in more if name not in found]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [("attn", "did you mean 'attention'"), (["q_prj"], "did you mean 'q_proj'"), (["gate"], "no layer is called")],
)
def test_what_the_model_has_not_is_refused_with_what_it_has(wanted: str | list[str], why: str) -> None:
    with pytest.raises(UnknownTargets, match=why):
        targets(wanted, LLAMA, False)


def test_a_model_without_such_layers() -> None:
    with pytest.raises(UnknownTargets, match="no such layers; it has fc"):
        targets("attention", ["net.fc"], False)
