"""What a model is made of: its matrices, from which parameters and room for adapters both follow. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cluster.tools.sizing.model import Latent, ModelShape

#: How tensor parallelism cuts a matrix: by its outputs, its inputs, not at all, or a vocabulary (its weights are cut,
#: its adapters' are not).
Cut = Literal["out", "in", "whole", "vocab"]

#: vLLM 0.32 keeps adapters of the embedding and the output for these (``embedding_modules`` of its models).
_ADAPTED_VOCABULARY = frozenset({
    "llama", "mixtral", "phi3", "phimoe", "qwen3", "qwen3_moe", "granite", "granitemoe", "cohere", "exaone",
    "exaone4", "minicpm", "nemotron", "solar",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Matrix:
    """``copies`` equal matrices in the whole model. ``adapted``: vLLM keeps room for adapters of it."""

    name: str
    inputs: int
    outputs: int
    copies: int
    cut: Cut
    bias: bool = False
    adapted: bool = True

    @property
    def parameters(self) -> int:
        return self.copies * (self.inputs * self.outputs + self.outputs * self.bias)


def matrices(model: ModelShape) -> list[Matrix]:
    """Everything that is multiplied with; `vectors` are the rest."""
    m, dense = model, model.layers - model.expert_layers
    found = [Matrix("embed_tokens", m.vocab, m.hidden, 1, "vocab", adapted=m.family in _ADAPTED_VOCABULARY)]
    found += _latent_attention(m, m.latent) if m.latent else _attention(m)
    found += _feed_forward(m, "mlp", m.inner, dense)
    if m.experts:
        bias = m.family == "gpt_oss"
        found.append(Matrix("gate", m.hidden, m.experts, m.expert_layers, "whole", bias))
        found += _feed_forward(m, "experts", m.expert_inner, m.expert_layers * m.experts, bias)
        found += _feed_forward(m, "shared_experts", m.shared_inner, m.expert_layers)
        if m.family == "qwen2_moe":
            found.append(Matrix("shared_expert_gate", m.hidden, 1, m.expert_layers, "whole"))
    head = Matrix("lm_head", m.hidden, m.vocab, 1, "vocab", adapted=m.family in _ADAPTED_VOCABULARY)
    return [*found, head]


def vectors(model: ModelShape) -> int:
    """Parameters of norms and the like."""
    m = model
    each = (4 if m.family in ("gemma2", "gemma3_text") else 2) * m.hidden
    if m.latent:
        each += m.latent.rank + (m.latent.query_rank or 0)
    if m.family in ("qwen3", "qwen3_moe", "gemma3_text"):
        each += 2 * m.head_dim
    if m.family == "gpt_oss":
        each += m.heads  # sinks
    corrections = m.experts * m.expert_layers if m.family in ("deepseek_v3", "kimi_k2") else 0
    return m.layers * each + m.hidden + corrections


def parameters(model: ModelShape) -> int:
    """All of them, a tied output counted once."""
    counted = (matrix for matrix in matrices(model) if not (model.tied and matrix.name == "lm_head"))
    return sum(matrix.parameters for matrix in counted) + vectors(model)


def whole(model: ModelShape) -> int:
    """Parameters that every GPU of a worker holds, however many there are."""
    return sum(matrix.parameters for matrix in matrices(model) if matrix.cut == "whole") + vectors(model)


def _attention(m: ModelShape) -> list[Matrix]:
    query, keys = m.heads * m.head_dim, m.kv_heads * m.head_dim
    return [
        Matrix("q_proj", m.hidden, query, m.layers, "out", m.qkv_bias),
        Matrix("k_proj", m.hidden, keys, m.layers, "out", m.qkv_bias),
        Matrix("v_proj", m.hidden, keys, m.layers, "out", m.qkv_bias),
        Matrix("o_proj", query, m.hidden, m.layers, "in", m.out_bias),
    ]


def _latent_attention(m: ModelShape, a: Latent) -> list[Matrix]:
    query = m.heads * (a.nope + a.rope)
    if a.query_rank:
        asked = [
            Matrix("q_a_proj", m.hidden, a.query_rank, m.layers, "whole"),
            Matrix("q_b_proj", a.query_rank, query, m.layers, "out"),
        ]
    else:
        asked = [Matrix("q_proj", m.hidden, query, m.layers, "out")]
    return [
        *asked,
        Matrix("kv_a_proj", m.hidden, a.rank + a.rope, m.layers, "whole"),
        Matrix("kv_b_proj", a.rank, m.heads * (a.nope + a.value), m.layers, "out"),
        Matrix("o_proj", m.heads * a.value, m.hidden, m.layers, "in"),
    ]


def _feed_forward(m: ModelShape, name: str, inner: int, copies: int, bias: bool = False) -> list[Matrix]:
    if not inner or not copies:
        return []
    bias = bias or m.mlp_bias
    up = [Matrix(f"{name}.up_proj", m.hidden, inner, copies, "out", bias)]
    gate = [Matrix(f"{name}.gate_proj", m.hidden, inner, copies, "out", bias)] if m.gated else []
    return [*gate, *up, Matrix(f"{name}.down_proj", inner, m.hidden, copies, "in", bias)]
