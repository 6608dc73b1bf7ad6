"""What a safetensors file says of itself: names, types and shapes from its header; no weight is ever read.

As strict as the safetensors library that the engine opens the file with: no gap, no overlap, nothing appended.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from config import bounded

MAX_HEADER = 25_000_000
"""Bytes; the safetensors library takes four times as many. An adapter for each of 60 layers' 384 experts has 22 MB."""

_MAX_VALUES = 1_500_000  # eight a tensor

FLOATING = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})

_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E8M0": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
_MAX_DIMENSIONS = 32  # a shape of a million dimensions costs minutes to multiply out
_MAX_NUMBER = 1 << 63

_QUOTE = reprlib.Repr()  # unlike repr, it has an end for any value of a file
_QUOTE.maxstring = 200


class AdapterRejected(Exception):
    """Why an adapter is not taken, in one sentence; ``status`` is the HTTP status to answer: 400, 404 or 409."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Tensor:
    """``dtype`` as safetensors calls it. It lies at the bytes ``begin`` to ``end`` of its file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = 0
    end: int = 0


def shown(name: object) -> str:
    """A name from a file, fit for a sentence: quoted, escaped and short."""
    return _QUOTE.repr(name)


def open_regular(path: Path) -> BinaryIO:
    """Opens a file that exists for reading; raises OSError, AdapterRejected 400 for a pipe, a device or a folder."""
    try:
        return bounded.open_regular(path)
    except bounded.Unfit as exc:
        raise AdapterRejected(400, f"{path.name} {exc}") from None


def read_object(stream: BinaryIO, what: str, most: int, values: int = bounded.VALUES) -> dict[str, Any]:
    """The JSON object in the rest of ``stream``, of at most so many bytes and values; raises AdapterRejected 400,
    naming ``what`` it was to be."""
    try:
        value = bounded.parse_json(bounded.read(stream, most), values)
    except bounded.Unfit as exc:
        raise AdapterRejected(400, f"{what} {exc}") from None
    except ValueError as exc:
        raise AdapterRejected(400, f"{what} is not valid JSON: {_first_line(exc)}") from None
    if not isinstance(value, dict):
        raise AdapterRejected(400, f"{what} is not a JSON object but {shown(value)}")
    return value


def read_header(stream: BinaryIO, name: str) -> dict[str, Tensor]:
    """The tensors of the open file ``name``; raises AdapterRejected 400 for what is no sound safetensors file."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > size - 8:
        raise AdapterRejected(400, f"{name} is no whole safetensors file: its {size} bytes do not hold its header")
    if length > MAX_HEADER:
        raise AdapterRejected(400, f"{name} has a header of {length} bytes and at most {MAX_HEADER} are allowed")
    tensors: dict[str, Tensor] = {}
    for key, entry in _entries(stream.read(length), name):
        if key in tensors:
            raise AdapterRejected(400, f"{name}: tensor {shown(key)} is in its header twice")
        tensors[key] = _tensor(key, entry, name, 8 + length)
    _check_layout(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)), 8 + length, size, name)
    return tensors


def stored_bytes(tensor: Tensor) -> int:
    """What it takes in its file, whole bytes."""
    return -(-_bits(tensor) // 8)


def _entries(raw: bytes, name: str) -> Iterator[tuple[str, Any]]:
    """Of a header, without its metadata."""
    try:
        for key, entry in bounded.members(raw, _MAX_VALUES):
            if key == "__metadata__":
                _check_metadata(entry, name)
            else:
                key.encode()  # half a surrogate pair is text that no database and no answer can hold
                yield key, entry
    except bounded.Unfit as exc:
        raise AdapterRejected(400, f"the header of {name} {exc}") from None
    except ValueError as exc:
        raise AdapterRejected(400, f"the header of {name} is not valid JSON: {_first_line(exc)}") from None


def _first_line(exc: BaseException) -> str:
    return str(exc).partition("\n")[0][:200]


def _check_metadata(metadata: object, name: str) -> None:
    if metadata is None or (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        return
    raise AdapterRejected(400, f"{name}: __metadata__ in its header is not a map from text to text")


def _numbers(value: object) -> tuple[int, ...] | None:
    """Numbers that may be a size, or None; true and 1.0 are none."""
    if not isinstance(value, list) or len(value) > _MAX_DIMENSIONS:
        return None
    return tuple(value) if all(type(item) is int and 0 <= item < _MAX_NUMBER for item in value) else None


def _offsets(key: str, entry: object, name: str) -> tuple[int, int]:
    numbers = _numbers(entry.get("data_offsets")) if isinstance(entry, dict) else None
    if numbers is None or len(numbers) != 2:
        raise AdapterRejected(400, f"{name}: tensor {shown(key)} has no valid data_offsets")
    return numbers[0], numbers[1]


def _tensor(key: str, entry: Any, name: str, data: int) -> Tensor:
    begin, end = _offsets(key, entry, name)
    dtype, shape = entry.get("dtype"), _numbers(entry.get("shape"))
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise AdapterRejected(400, f"{name}: tensor {shown(key)} has the unknown type {shown(dtype)}")
    if shape is None:
        raise AdapterRejected(400, f"{name}: tensor {shown(key)} has no valid shape")
    return Tensor(dtype, shape, data + begin, data + end)


def _check_layout(placed: list[tuple[str, Tensor]], data: int, size: int, name: str) -> None:
    """One tensor after the other, without gap or overlap, from byte ``data`` to the last of ``size``."""
    position = data
    for key, tensor in placed:
        begin, end = tensor.begin, tensor.end
        if begin != position or end < begin:
            told = f"lies at {begin - data} to {end - data} and must begin at {position - data}, behind the one before"
            raise AdapterRejected(400, f"{name}: tensor {shown(key)} {told}")
        needed = _bits(tensor)
        if (end - begin) * 8 != needed:
            told = f"{(end - begin) * 8} bits for {list(tensor.shape)} of {tensor.dtype}, which takes {shown(needed)}"
            raise AdapterRejected(400, f"{name}: tensor {shown(key)} has {told}")
        position = end
    if position != size:
        told = f"its tensors take {position - data} bytes and it holds {size - data}"
        raise AdapterRejected(400, f"{name} is cut off or has something appended: {told}")


def _bits(tensor: Tensor) -> int:
    needed = _BITS[tensor.dtype]
    for size in tensor.shape:
        needed *= size
    return needed
