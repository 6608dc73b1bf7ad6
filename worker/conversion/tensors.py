"""An adapter's tensors read from whatever files they are in, and written as `layouts` says. Blocking; imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from worker.conversion import pickles
from worker.conversion.layouts import Layout, Unservable


def read(files: Sequence[Path]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of all ``files`` by name, and what was done for them. Raises Unservable, OSError, MemoryError."""
    found: dict[str, torch.Tensor] = {}
    for file in files:
        for name, tensor in _read(file):
            if name in found:
                raise Unservable(f"{file.name} holds a tensor that another shard holds, too")
            found[name] = tensor
    done = [f"brought {len(files)} shards together"] if len(files) > 1 else []
    if files[0].suffix != ".safetensors":
        done.append(f"read {len(found)} tensors out of {files[0].name}, a pickle, and nothing else")
    return found, done


def write(layout: Layout, tensors: dict[str, torch.Tensor], path: Path) -> list[str]:
    """A safetensors file: the same bytes for the same content. Returns what was done in words. Raises OSError."""
    made, cast = {}, 0
    for name in sorted(layout.cuts):
        cut = layout.cuts[name]
        tensor = tensors[cut.source].detach()
        tensor = tensor.T if cut.transposed else tensor
        tensor = tensor if cut.rows is None else tensor[slice(*cut.rows)]
        if tensor.dtype is torch.float64:
            tensor, cast = tensor.to(torch.float32), cast + 1
        made[name] = tensor.clone(memory_format=torch.contiguous_format)  # its own memory, as the format wants it
    try:
        save_file(made, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path.name} cannot be written: {error}") from None
    return [f"cast {cast} tensors from float64 to float32"] if cast else []


def _read(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if file.suffix != ".safetensors":
        yield from pickles.load(file).items()
        return
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                yield name, opened.get_tensor(name)
    except SafetensorError as error:
        raise Unservable(f"{file.name} is no sound safetensors file: {error}") from None
