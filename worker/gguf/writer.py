"""Writes a GGUF file: key and value pairs, then tensors. Blocking file work."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from worker.gguf.header import ARRAY, MAGIC, SCALARS, STRING, VERSION

_ALIGNMENT = 32

#: Types of tensors (``ggml_type``) and the bytes of one value.
F32, F16 = 0, 1
_BYTES = {F32: 4, F16: 2}

_TYPES = {"u32": 4, "i32": 5, "f32": 6, "bool": 7}


@dataclass(frozen=True, slots=True)
class Typed:
    """A value with its type: ``u32``, ``i32``, ``f32``, ``bool`` or ``str``; ``values`` has more than one in an
    array."""

    kind: str
    values: Any
    is_array: bool = False


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """``shape`` in the order of PyTorch: rows first; ``data()`` makes the bytes when they are written."""

    name: str
    shape: tuple[int, ...]
    kind: int
    data: Callable[[], bytes]

    @property
    def size(self) -> int:
        size = _BYTES[self.kind]
        for length in self.shape:
            size *= length
        return size


def write(stream: BinaryIO, values: Mapping[str, Typed], tensors: Sequence[GgufTensor]) -> None:
    """Raises ValueError for a tensor whose data is not of its shape, and OSError."""
    head = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(values)))
    for key, value in values.items():
        head += _text(key) + _value(value)
    offset = 0
    for tensor in tensors:
        head += _text(tensor.name) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        head += struct.pack("<IQ", tensor.kind, offset)
        offset += _padded(tensor.size)
    stream.write(head + bytes(_padded(len(head)) - len(head)))
    for tensor in tensors:
        data = tensor.data()
        if len(data) != tensor.size:
            raise ValueError(f"{tensor.name}: {len(data)} bytes, and its shape needs {tensor.size}")
        stream.write(data)
        stream.write(bytes(_padded(len(data)) - len(data)))


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Typed) -> bytes:
    kind = STRING if value.kind == "str" else _TYPES[value.kind]
    if not value.is_array:
        return struct.pack("<I", kind) + _one(kind, value.values)
    items = b"".join(_one(kind, item) for item in value.values)
    return struct.pack("<IIQ", ARRAY, kind, len(value.values)) + items


def _one(kind: int, value: Any) -> bytes:
    return _text(value) if kind == STRING else struct.pack(f"<{SCALARS[kind]}", value)
