"""Which modules of a model an adapter changes, by the names of the model's own linear layers. Pure.

| ``targets`` | LLaMA's names of it | |
|---|---|---|
| ``attention`` | q_proj, v_proj | the least: what LoRA's authors began with (arXiv 2106.09685, section 7.1) |
| ``full-attention`` | and k_proj, o_proj | style, formats |
| ``all`` | and gate_proj, up_proj, down_proj | knowledge; as good as training all (arXiv 2305.14314, section 4) |
| with ``embeddings`` | and embed_tokens, lm_head | new words, another language |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from config.errors import nearest

PRESETS = ("attention", "full-attention", "all")

#: Names of the embedding's and the output's layer, of which adapters for either have others (`lora_embedding_A`).
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
HEADS = ("lm_head", "embed_out", "output")

_ATTENTION = re.compile(r"(^|[._])(attn|attention)([._]|$)|self_attn")
_QUERY_VALUE = re.compile(r"^(q|v|qkv|query|value|query_key_value|c_attn|Wqkv|qkv_proj|q_proj|v_proj)$")

#: Linear layers that choose among experts: no engine takes adapters for them.
_ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})


class UnknownTargets(ValueError):
    """Names that no layer of the model has; the text says which there are."""


def targets(
    wanted: str | Sequence[str], linear: Iterable[str], embeddings: bool, others: Iterable[str] = ()
) -> list[str]:
    """The last parts of the names of layers to change. ``wanted``: one of `PRESETS`, or such names; ``linear``: the
    full names of all linear layers of the model; ``others``: of its embeddings. Raises UnknownTargets."""
    inner = [name for name in linear if name.rpartition(".")[2] not in (*HEADS, *_ROUTERS)]
    outer = [*others, *(name for name in linear if name.rpartition(".")[2] in HEADS)]
    found = _last(_preset(wanted, inner)) if isinstance(wanted, str) else _named(wanted, _last([*inner, *outer]))
    if embeddings:
        found += [name for name in _last(outer) if name not in found]
    if not found:
        raise UnknownTargets(f"{wanted}: the model has no such layers; it has {', '.join(_last(inner))[:500]}")
    return found


def _preset(name: str, inner: Sequence[str]) -> list[str]:
    if name == "all":
        return list(inner)
    if name not in PRESETS:
        raise UnknownTargets(f"unknown targets {name!r}{nearest(name, PRESETS)}: {', '.join(PRESETS)}, or names")
    attention = [each for each in inner if _ATTENTION.search(each.rpartition(".")[0])]
    if name == "full-attention":
        return attention
    return [each for each in attention if _QUERY_VALUE.match(each.rpartition(".")[2])]


def _named(wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    if missing := [name for name in wanted if name not in known]:
        raise UnknownTargets(
            f"no layer is called {missing[0]!r}{nearest(missing[0], known)}: it has {', '.join(known)[:500]}"
        )
    return list(dict.fromkeys(wanted))


def _last(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))
