"""A LoRA adapter in PEFT's layout, made into the GGUF file that llama.cpp loads. Blocking file work."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from worker.gguf import weights, writer
from worker.gguf.header import GgufHeader
from worker.gguf.weights import NotConvertible, StoredTensor
from worker.gguf.writer import GgufTensor, Typed

_MATRIX = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")

#: Architectures whose modules have the names of `weights.gguf_name`.
_KNOWN = weights.PERMUTED | {"qwen2", "qwen3", "gemma", "gemma2", "gemma3"}


def convert(folder: Path, base: GgufHeader, out: Path) -> None:
    """Writes ``out`` for the adapter in ``folder`` and the model ``base``. Raises NotConvertible, OSError."""
    if base.architecture not in _KNOWN:
        raise NotConvertible(f"adapters for models of the family {base.architecture!r}")
    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
        alpha = _alpha(config)
    except (ValueError, KeyError, TypeError):
        raise NotConvertible("its adapter_config.json") from None
    stored = weights.read_header(folder / "adapter_model.safetensors")
    tensors = [_tensor(name, tensor, base) for name, tensor in sorted(stored.items())]
    values = {
        "general.architecture": Typed("str", base.architecture), "general.type": Typed("str", "adapter"),
        "adapter.type": Typed("str", "lora"), "adapter.lora.alpha": Typed("f32", alpha),
    }  # fmt: skip
    with out.open("wb") as stream:
        writer.write(stream, values, tensors)


def _alpha(config: dict[str, Any]) -> float:
    """llama.cpp scales by ``alpha / rank``, the rank being that of each matrix."""
    alpha = float(config["lora_alpha"])
    if config.get("use_dora"):
        raise NotConvertible("DoRA")
    if config.get("alpha_pattern"):
        raise NotConvertible("an alpha for each module (alpha_pattern)")
    if not config.get("use_rslora"):
        return alpha
    if config.get("rank_pattern"):
        raise NotConvertible("rsLoRA with a rank for each module")
    return alpha * math.sqrt(config["r"])


def _tensor(name: str, stored: StoredTensor, base: GgufHeader) -> GgufTensor:
    found = _MATRIX.fullmatch(name)
    if found is None:
        raise NotConvertible(f"tensor {name[:100]}")
    module = weights.gguf_name(found[1])
    if not module.startswith("blk."):
        raise NotConvertible(f"module {found[1][:100]}")
    heads = weights.heads_of(module, base.architecture, base.heads, base.kv_heads) if found[2] == "B" else 0
    if heads and (len(stored.shape) != 2 or stored.shape[0] % (2 * heads)):
        raise NotConvertible(f"a matrix of shape {stored.shape} for {heads} heads")
    return GgufTensor(
        f"{module}.weight.lora_{found[2].lower()}", stored.shape, stored.kind, lambda: stored.read(heads)
    )
