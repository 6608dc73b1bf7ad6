"""An adapter's shapes against the base model's, from the headers of its safetensors files: any architecture.

vLLM copies a smaller tensor into a slice of its buffer without a word, and ignores tensors of a module that it does not
find; nobody else asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from worker.adapters.pairs import Pair
from worker.adapters.targets import named
from worker.adapters.tensors import (
    FLOATING,
    AdapterRejected,
    Tensor,
    open_regular,
    read_header,
    read_object,
    shown,
)

_INDEX = "model.safetensors.index.json"
_MAX_INDEX = 32_000_000  # bytes; that of 91,000 tensors has 9 million
_MAX_TENSORS = 1_000_000  # in all files of a model
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_INPUTS = ("embed_tokens", "wte", "word_embeddings")
_WHOLE = FLOATING | {"I8"}  # other types hold several weights in one number: their shape says nothing


@dataclass(frozen=True)
class BaseShapes:
    """``shapes``: module name to (out_features, in_features). ``opaque``: modules with packed or fused weights."""

    shapes: Mapping[str, tuple[int, int]]
    opaque: frozenset[str] = field(default=frozenset())

    def find(self, module: str) -> list[str]:
        """The base model's names for an adapter's module: several where it cannot be told which, [] where none is.

        An exact name wins; otherwise what is the same from its layer on, since multimodal models and checkpoints of
        other versions differ only before that.
        """
        if module in self.shapes or module in self.opaque:
            return [module]
        names = self._by_tail.get(_tail(module))
        if names:
            scores = {name: _likeness(module, name) for name in names}
            return [name for name in names if scores[name] == max(scores.values())]
        # One expert of a base model that stores all of a layer's experts in one tensor.
        parent = module.rpartition(".")[0]
        return [name for name in self.find(parent) if name in self.opaque] if parent else []

    @cached_property
    def _by_tail(self) -> dict[str, list[str]]:
        tails: dict[str, list[str]] = {}
        for name in (*self.shapes, *self.opaque):
            tails.setdefault(_tail(name), []).append(name)
        return tails


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many modules were ``compared``, and sentences on what was not. ``renamed``: the adapter's modules, and the
    names that the model's files have for them."""

    compared: int
    unchecked: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)


def read_base(model: str, cache: Path | None = None) -> BaseShapes | None:
    """Shapes of a base model: a local folder, or a hub id that is in the Hugging Face ``cache`` (HF_HOME or its hub).

    None where they cannot be read: not here, no safetensors, or not sound. Blocking; reads headers only.
    """
    folder = model_folder(model, cache)
    try:
        tensors = read_tensors(folder) if folder else {}
    except (OSError, AdapterRejected):
        return None
    return _shapes(tensors) if tensors else None


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """What the headers of a model's safetensors files say; {} where there are none. Raises OSError and, for files that
    are not sound, AdapterRejected. Blocking."""
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        with open_regular(file) as stream:
            tensors |= read_header(stream, file.name)
        if len(tensors) > _MAX_TENSORS:
            raise AdapterRejected(400, f"{folder} holds more than {_MAX_TENSORS} tensors")
    return tensors


def compare(pairs: Iterable[Pair], base: BaseShapes, *, transposed: bool) -> Comparison:
    """Raises AdapterRejected 400 for a module that the base model lacks or that has another shape there.

    ``transposed``: the base may store its weights as [in, out] (fan_in_fan_out).
    """
    opaque: list[str] = []
    renamed: dict[str, str] = {}
    compared = 0
    for pair in pairs:
        names = [] if pair.fused else base.find(pair.module)
        if not names and not pair.fused:
            raise AdapterRejected(400, f"tensor {shown(pair.a_name)} is of a module that the base model does not have")
        if names and pair.module not in names:
            renamed[pair.module] = names[0]
        shapes = [base.shapes[name] for name in names if name in base.shapes]
        if len(shapes) < max(1, len(names)):
            opaque.append(pair.module)
            continue
        _check_shapes(pair, names[0], shapes, transposed)
        compared += 1
    return Comparison(compared, tuple(_opaque_told(opaque)), renamed)


def _opaque_told(modules: list[str]) -> list[str]:
    if not modules:
        return []
    why = "the base model or the adapter stores them packed or fused"
    return [f"the shapes of {len(modules)} modules were not compared, since {why}: {named(modules)}"]


def _check_shapes(pair: Pair, name: str, shapes: list[tuple[int, int]], transposed: bool) -> None:
    found = pair.b[0], pair.a[1]
    wanted = [shape[::-1] if pair.embedding else shape for shape in shapes]
    if found in wanted or (transposed and found[::-1] in wanted):
        return
    out_features, in_features = wanted[0]
    tensor, has, needs = pair.a_name, pair.a, [pair.a[0], in_features]
    if pair.a[1] == in_features:
        tensor, has, needs = pair.b_name, pair.b, [out_features, pair.b[1]]
    told = f"has shape {list(has)} and must have {needs}, since {shown(name)} of the base model is {list(shapes[0])}"
    raise AdapterRejected(400, f"tensor {shown(tensor)} {told}")


def _tail(module: str) -> str:
    """From the layer on: ``layers.0.self_attn.q_proj``; outside of layers the last component."""
    parts = module.split(".")
    first = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[max(0, first - 1) :])


def _likeness(module: str, name: str) -> tuple[bool, int]:
    """Whether one ends with the other, and how many components they share: tells text model from vision tower."""
    ends = f".{name}".endswith(f".{module}") or f".{module}".endswith(f".{name}")
    return ends, len(set(module.split(".")) & set(name.split(".")))


def model_folder(model: str, cache: Path | None) -> Path | None:
    """Of a path, or of a hub id that is in the Hugging Face ``cache``; None where there is none."""
    try:
        if model and Path(model).is_dir():
            return Path(model)
    except (OSError, ValueError):
        return None
    if cache is None or not _HUB_ID.fullmatch(model):
        return None
    for hub in (cache / "hub", cache):
        snapshot = _snapshot(hub / f"models--{model.replace('/', '--')}")
        if snapshot is not None:
            return snapshot
    return None


def _snapshot(repository: Path) -> Path | None:
    """The snapshot that ``main`` points at, or the only one."""
    try:
        main = repository / "snapshots" / (repository / "refs" / "main").read_text().strip()
        if main.is_dir():
            return main
    except (OSError, ValueError):
        pass
    snapshots = list((repository / "snapshots").glob("*"))
    return snapshots[0] if len(snapshots) == 1 else None


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the model; raises AdapterRejected for an index that makes no sense."""
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if (folder / _INDEX).exists():
        with open_regular(folder / _INDEX) as stream:
            shards = read_object(stream, _INDEX, _MAX_INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise AdapterRejected(400, f"{_INDEX} has no weight_map")
        return [folder / Path(name).name for name in sorted(set(shards.values()))]
    # Mistral's own files beside or instead of the others have other names for the same modules.
    return sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("consolidated"))


def _shapes(tensors: Mapping[str, Tensor]) -> BaseShapes:
    shapes: dict[str, tuple[int, int]] = {}
    opaque: set[str] = set()
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and len(tensor.shape) == 2 and tensor.dtype in _WHOLE:
            shapes[module] = tensor.shape[0], tensor.shape[1]
        elif len(tensor.shape) >= 2:
            opaque.add(module)
    _tie(shapes)
    return BaseShapes(shapes, frozenset(opaque - shapes.keys()))


def _tie(shapes: dict[str, tuple[int, int]]) -> None:
    """A tied ``lm_head`` is in no file: it is the input embedding."""
    inputs = [shape for name, shape in shapes.items() if name.rpartition(".")[2] in _INPUTS]
    if inputs and not any(name.rpartition(".")[2] == "lm_head" for name in shapes):
        shapes["lm_head"] = inputs[0]
