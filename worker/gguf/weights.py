"""Tensors out of safetensors files, as GGUF has them. Blocking file work.

llama.cpp computes with a 16-bit matrix in 16 bits, so bfloat16 is written as float32, which it is the upper half of.
In models of the family ``llama`` it turns neighbouring values of a head where Hugging Face turns the two halves: rows
of the matrices for queries and keys are put into its order (``convert_hf_to_gguf.py``, `LlamaModel.permute`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.gguf.writer import F16, F32

_MOST_HEADER = 64 << 20

#: GGUF's type and the bytes of one value in the safetensors file.
_KINDS = {"F32": (F32, 4), "F16": (F16, 2), "BF16": (F32, 2)}

#: Architectures whose rows for queries and keys have another order here.
PERMUTED = frozenset({"llama"})

#: Modules of a layer, Hugging Face's name and GGUF's.
_MODULES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_OUTSIDE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


class NotConvertible(Exception):
    """The text says why."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One of a safetensors file; ``begin`` and ``end`` are bytes of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def kind(self) -> int:
        """Its type in GGUF. Raises NotConvertible."""
        if self.dtype not in _KINDS:
            raise NotConvertible(f"values of type {self.dtype}")
        return _KINDS[self.dtype][0]

    def read(self, heads: int = 0) -> bytes:
        """Its values as GGUF has them; ``heads``: the rows are put into llama.cpp's order for so many."""
        kind, width = _KINDS[self.dtype]
        with self.path.open("rb") as stream:
            stream.seek(self.begin)
            data = stream.read(self.end - self.begin)
        if heads:
            data = permuted(data, self.shape[0], heads)
        return _widened(data) if kind == F32 and width == 2 else data


def read_header(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a safetensors file by name. Raises NotConvertible, OSError."""
    with path.open("rb") as stream:
        try:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > _MOST_HEADER:
                raise ValueError
            found: Mapping[str, Mapping[str, Any]] = json.loads(stream.read(size))
            return {name: _stored(path, entry, 8 + size) for name, entry in found.items() if name != "__metadata__"}
        except (struct.error, ValueError, KeyError, TypeError, AttributeError):
            raise NotConvertible(f"{path.name} is no safetensors file") from None


def _stored(path: Path, entry: Mapping[str, Any], base: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    shape = tuple(int(length) for length in entry["shape"])
    return StoredTensor(path, str(entry["dtype"]), shape, base + int(begin), base + int(end))


def permuted(data: bytes, rows: int, heads: int) -> bytes:
    """The ``rows`` in ``data`` in llama.cpp's order: of each head's two halves one row in turn."""
    width, half = len(data) // rows, rows // heads // 2
    order = (head * 2 * half + side * half + at for head in range(heads) for at in range(half) for side in (0, 1))
    return b"".join([data[row * width : (row + 1) * width] for row in order])


def _widened(data: bytes) -> bytes:
    out = bytearray(2 * len(data))
    out[2::4], out[3::4] = data[0::2], data[1::2]
    return bytes(out)


def gguf_name(module: str) -> str:
    """GGUF's name for a module of a Llama-like model (``model.layers.0.self_attn.q_proj``). Raises NotConvertible."""
    inner = module.removeprefix("model.")
    parts = inner.split(".", 2)
    if len(parts) == 3 and parts[0] == "layers" and parts[1].isdigit() and parts[2] in _MODULES:
        return f"blk.{parts[1]}.{_MODULES[parts[2]]}"
    if inner in _OUTSIDE:
        return _OUTSIDE[inner]
    raise NotConvertible(f"module {module[:100]}, of which it is not known what llama.cpp calls it")


def heads_of(module: str, architecture: str, heads: int, kv_heads: int) -> int:
    """For so many heads the rows of ``module`` (GGUF's name) have another order; 0: they have the same."""
    if architecture not in PERMUTED:
        return 0
    kind = module.rpartition(".")[2]
    return {"attn_q": heads, "attn_k": kv_heads}.get(kind, 0)
