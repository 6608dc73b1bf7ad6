"""Adapters of a few bytes, for tests of what is looked at in them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from worker.adapters.files import (
    AdapterFacts,
    AdapterRejected,
    BaseShapes,
    inspect,
)

DEMO = Path(__file__).parents[1] / "worker" / "demo"
_BITS = {"F32": 32, "BF16": 16, "F16": 16, "I32": 32, "U8": 8, "I8": 8}
MODULE = "model.layers.0.self_attn.q_proj"
BASE = BaseShapes({MODULE: (8, 4), "model.embed_tokens": (32, 4), "lm_head": (32, 4)})

Spec = Mapping[str, tuple[int, ...] | tuple[str, tuple[int, ...]]]


def header_of(spec: Spec) -> tuple[dict[str, Any], int]:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, kind in spec.items():
        dtype, shape = kind if kind and isinstance(kind[0], str) else ("BF16", kind)
        size = _BITS[dtype]
        for number in shape:
            size *= number
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size // 8]}
        position += size // 8
    return entries, position


def tensor_file(header: Any, data: int) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + b"\x11" * data


def write_tensors(path: Path, spec: Spec) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tensor_file(*header_of(spec)))


def matrices(module: str, rank: int, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
    stem = f"base_model.model.{module}"
    return {f"{stem}.lora_A.weight": (rank, in_features), f"{stem}.lora_B.weight": (out_features, rank)}


def config_of(**changes: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none", **changes}


def adapter_in(folder: Path, spec: Spec | None = None, **changes: Any) -> Path:
    write_tensors(folder / "adapter_model.safetensors", matrices(MODULE, 2, 8, 4) if spec is None else spec)
    (folder / "adapter_config.json").write_text(json.dumps(config_of(**changes)))
    return folder


def inspected(path: Path, **changes: Any) -> AdapterFacts:
    given: dict[str, Any] = {"base": BASE, "served_names": ("demo",), "max_rank": 16}
    return inspect(path, **(given | changes))


def refused(path: Path, status: int, word: str, **changes: Any) -> None:
    with pytest.raises(AdapterRejected) as caught:
        inspected(path, **changes)
    assert (caught.value.status, word in str(caught.value)) == (status, True), str(caught.value)
    assert "\n" not in str(caught.value)
