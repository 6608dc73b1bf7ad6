"""Reads a model's config.json and the headers of its weights; never a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.tools.sizing import model as models
from cluster.tools.sizing.model import ModelShape
from config.errors import UsageError
from config.settings import environment
from worker.adapters.shapes import model_folder, read_tensors
from worker.adapters.tensors import AdapterRejected, Tensor, open_regular, read_object, stored_bytes

_MAX_CONFIG = 1_000_000  # bytes
_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
_HEADS = frozenset({"lm_head.weight", "language_model.lm_head.weight"})


@dataclass(frozen=True, slots=True)
class Stored:
    """What the files hold: ``plain`` numbers of a floating type, which are served in the model's type, and ``packed``
    bytes that are served as they are. ``parameters`` is None where they cannot be counted, as several are packed into
    one number."""

    plain: int
    packed: int
    parameters: int | None


def read(name: str) -> tuple[ModelShape, Stored | None]:
    """The model in a folder or, by its hub id, in the Hugging Face cache; None for weights without safetensors headers.

    Raises UsageError, one sentence, for what is no model."""
    folder = _folder(name)
    try:
        with open_regular(folder / "config.json") as stream:
            config = read_object(stream, "its config.json", _MAX_CONFIG)
    except FileNotFoundError:
        raise UsageError(f"--model {name}: holds no model (a folder with a config.json is needed)") from None
    except AdapterRejected as error:
        raise UsageError(f"--model {name}: {error}") from None
    except OSError as error:
        raise UsageError(f"--model {name}: {error.strerror or error}") from None
    try:
        model = models.parse(config)
    except UsageError as error:
        raise UsageError(f"--model {name}: {error}") from None
    try:
        tensors = read_tensors(folder)
    except FileNotFoundError:
        tensors = {}  # an index without its files: not downloaded yet
    except AdapterRejected as error:
        raise UsageError(f"--model {name}: {error}") from None
    except OSError as error:
        raise UsageError(f"--model {name}: {error.strerror or error}") from None
    return model, count(tensors, model) if tensors else None


def count(tensors: Mapping[str, Tensor], model: ModelShape) -> Stored:
    """Pure. An output that is tied to the input is served once, however often it is stored."""
    plain = packed = 0
    for name, tensor in tensors.items():
        if model.tied and name in _HEADS:
            continue
        if tensor.dtype in _PLAIN and (model.quantization is None or tensor.dtype != "F32"):
            numbers = 1
            for size in tensor.shape:
                numbers *= size
            plain += numbers
        else:
            packed += stored_bytes(tensor)
    return Stored(plain, packed, None if packed else plain)


def _folder(name: str) -> Path:
    found = model_folder(str(Path(name).expanduser()) if name.startswith("~") else name, _cache())
    if found is not None:
        return found
    if name.startswith(("/", "./", "../", "~")) or Path(name).is_file():
        if not Path(name).expanduser().exists():
            raise UsageError(f"--model {name}: no such folder")
        raise UsageError(f"--model {name}: is a file, and a folder with a config.json is needed")
    raise UsageError(f"--model {name}: no folder, and no model in the Hugging Face cache; download it first")


def _cache() -> Path:
    found = environment()
    cache = found.get("HF_HUB_CACHE") or found.get("HF_HOME") or "~/.cache/huggingface"
    return Path(cache).expanduser()
