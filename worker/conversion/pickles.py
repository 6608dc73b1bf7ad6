"""Tensors out of PyTorch's own files (``.bin``, ``.pt``), which are pickles: only in a confined process.

``weights_only`` has PyTorch's own unpickler, which makes tensors and plain containers and calls nothing else. What it
made is looked at before anything is computed with it: a few bytes can claim a tensor of any size.
"""

from __future__ import annotations

import errno
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from config.text import printable
from worker.conversion.layouts import Unservable

#: Files within one of PyTorch's archives, and bytes of the pickle in it, which has names and shapes only.
_MOST_FILES, _MOST_PICKLE = 200_000, 64 << 20

#: How trainers call the tensors where they save more beside them.
_INNER = ("state_dict", "model_state_dict", "model", "module", "adapter", "lora")

#: PyTorch's words for what its unpickler does not make, and before what else it has against a file.
_NAMED, _ERROR = re.compile(r"(?:GLOBAL|Unsupported class) ([\w.]+)"), "WeightsUnpickler error: "


def load(path: Path) -> dict[str, torch.Tensor]:
    """By name, in the memory of the file where it is an archive. Raises Unservable, OSError, MemoryError."""
    archive = zipfile.is_zipfile(path)
    try:
        if archive:
            _check_archive(path)
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=archive or None)
    except pickle.UnpicklingError as error:
        raise Unservable(f"{path.name} {_more_than_tensors(str(error))}: it is not loaded") from None
    except zipfile.BadZipFile as error:
        raise Unservable(f"{path.name} is a broken archive: {error}") from None
    except (RuntimeError, ValueError, KeyError, EOFError, TypeError, AttributeError, IndexError) as error:
        if "memory" in str(error):
            raise MemoryError from None
        raise Unservable(f"{path.name} is no file of tensors that PyTorch reads: {_first_line(error)}") from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # what a map says of a file that is cut off
            raise
        raise Unservable(f"{path.name} is no file of tensors that PyTorch reads: it is cut off") from None
    return _tensors(path.name, value)


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        files = archive.infolist()
    if len(files) > _MOST_FILES:
        raise Unservable(f"{path.name} holds {len(files)} files, and at most {_MOST_FILES} are read")
    for each in files:
        if each.compress_type != zipfile.ZIP_STORED or each.file_size != each.compress_size:
            raise Unservable(f"{path.name} is compressed, which PyTorch's archives never are: it is not unpacked")
        if each.filename.endswith(".pkl") and each.file_size > _MOST_PICKLE:
            raise Unservable(f"{path.name} has a pickle of {each.file_size} bytes, and at most {_MOST_PICKLE} are read")
        if each.filename.endswith("constants.pkl"):
            raise Unservable(f"{path.name} is a program (TorchScript), not a file of tensors")


def _more_than_tensors(message: str) -> str:
    found = _NAMED.search(message)
    what = f"it asks for {found[1][:100]}" if found else _first_line(message.rpartition(_ERROR)[2])
    return f"does more than hold tensors ({what})"


def _tensors(name: str, value: object) -> dict[str, torch.Tensor]:
    for _ in range(len(_INNER)):  # nested at most so deeply
        inner = [value[key] for key in _INNER if isinstance(value, Mapping) and isinstance(value.get(key), Mapping)]
        if not inner:
            break
        value = inner[0]
    if not isinstance(value, Mapping) or not value:
        raise Unservable(f"{name} holds {type(value).__name__} and no tensors by name")
    found = {}
    for key, tensor in value.items():
        if not isinstance(key, str):
            raise Unservable(f"{name} holds a tensor without a name")
        found[key] = _checked(f"{name}: {printable(key)[:100]}", tensor)
    return found


def _checked(what: str, tensor: Any) -> torch.Tensor:
    """A plain tensor that has the memory which it claims."""
    if not isinstance(tensor, torch.Tensor):
        raise Unservable(f"{what} is {type(tensor).__name__} and no tensor")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise Unservable(f"{what} is no plain tensor")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise Unservable(f"{what} claims {tensor.numel()} values and holds fewer")
    return tensor


def _first_line(error: object) -> str:
    return printable(str(error).strip().partition("\n")[0])[:200] or type(error).__name__
