"""A model's safetensors files, written anew tensor by tensor: in memory is one tensor at a time, not a model."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from worker.gguf.weights import NotConvertible, read_header
from worker.jobs.job import Job, JobFailed

INDEX = "model.safetensors.index.json"

#: By the name that the file has for it, the type and the bytes of a value.
_FLOATS = {"F32": (torch.float32, 4), "F16": (torch.float16, 2), "BF16": (torch.bfloat16, 2)}
#: Types of a byte a value, that others were rounded to.
SMALL = {"I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn}

DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


@dataclass(frozen=True, slots=True)
class ShardTensor:
    """One of a file to write: it is made of the tensor ``source``; ``dtype`` by the file's name of it."""

    name: str
    source: str
    dtype: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True, slots=True)
class ModelShard:
    path: Path
    tensors: tuple[ShardTensor, ...]

    @property
    def size(self) -> int:
        return sum(each.size for each in self.tensors)


def shards(folder: Path, dtype: str | None) -> list[ModelShard]:
    """Of the model in ``folder``, with its floating-point values as ``dtype`` (of `DTYPES`; None: as they are). Raises
    JobFailed."""
    files = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).is_file():
        named = json.loads((folder / INDEX).read_bytes())["weight_map"].values()
        files = [file for file in files if file.name in set(named)]
    if not files:
        raise JobFailed(f"{folder} has no safetensors files: only models in these are merged", 400)
    return [ModelShard(file, tuple(_tensors(file, dtype))) for file in files]


def _tensors(file: Path, dtype: str | None) -> Iterator[ShardTensor]:
    try:
        header = read_header(file)
    except NotConvertible as error:
        raise JobFailed(str(error), 400) from None
    for name, stored in header.items():
        kind = stored.dtype
        size = stored.end - stored.begin
        if kind in _FLOATS and dtype is not None:
            size = size // _FLOATS[kind][1] * _FLOATS[DTYPES[dtype]][1]
            kind = DTYPES[dtype]
        yield ShardTensor(name, name, kind, stored.shape, size)


def write_all(parts: Sequence[ModelShard], made: Path, change: Callable[[str, Any], Any], job: Job, stage: str) -> None:
    """Each into the folder ``made`` under its own name, and their index where there are several; see `write`."""
    total, done = sum(shard.size for shard in parts), 0

    def written(size: int) -> None:
        nonlocal done
        done += size
        job.progress(stage, done, total, "bytes")

    for shard in parts:
        write(shard, made / shard.path.name, change, written)
    if len(parts) > 1 or (parts[0].path.parent / INDEX).exists():
        write_index(made, parts)


def write(shard: ModelShard, out: Path, change: Callable[[str, Any], Any], on_written: Callable[[int], None]) -> None:
    """``change`` makes of a tensor's name and its values those that are written; ``on_written`` is told the bytes of
    each. Raises OSError, JobFailed."""
    with safe_open(shard.path, framework="pt") as source, out.open("wb") as file:
        _write_header(file, shard.tensors, source.metadata() or {})
        for each in shard.tensors:
            values = source.get_tensor(each.source)
            changed = change(each.name, values)
            if each.dtype in _FLOATS:
                changed = changed.to(_FLOATS[each.dtype][0])
            elif changed is not values and changed.dtype is not SMALL.get(each.dtype):
                raise JobFailed(f"{each.name[:200]!r} has values of type {each.dtype}, which nothing can be added to: "
                                "merge into the model before it was quantised", 400)
            file.write(memoryview(changed.contiguous().view(torch.uint8).flatten().numpy()))
            on_written(each.size)


def _write_header(file: Any, tensors: tuple[ShardTensor, ...], metadata: Mapping[str, str]) -> None:
    """https://github.com/huggingface/safetensors#format"""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    begin = 0
    for each in tensors:
        header[each.name] = {"dtype": each.dtype, "shape": each.shape, "data_offsets": (begin, begin + each.size)}
        begin += each.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)


def write_index(folder: Path, written: Sequence[ModelShard]) -> None:
    """Which tensor is in which file. Raises OSError."""
    index = {
        "metadata": {"total_size": sum(shard.size for shard in written)},
        "weight_map": {each.name: shard.path.name for shard in written for each in shard.tensors},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True))
