"""The classification head that an adapter may bring along, trained as a whole (PEFT's modules_to_save). Pure.

vLLM 0.32 serves one with a sequence classifier, and refuses what does not fit its head
(vllm/lora/model_manager.py, _validate_modules_to_save). It takes the weight of a head that the config does not name for
a LoRA matrix, and fails without a reason. Where the file lacks one that is named, its own head answers without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker.adapters.rules import CONFIG, HEADS, WEIGHTS, AdapterConfig
from worker.adapters.shapes import BaseShapes
from worker.adapters.tensors import FLOATING, AdapterRejected, Tensor, shown


@dataclass(frozen=True, slots=True)
class ClassifierHead:
    """``name`` as the engine calls it; its weight is [labels, inputs], and in the file is called ``tensor``."""

    name: str
    tensor: str
    labels: int
    inputs: int


def take_head(tensors: Mapping[str, Tensor], config: AdapterConfig) -> tuple[dict[str, Tensor], ClassifierHead | None]:
    """The other tensors, and the head. Raises AdapterRejected 400 for what the engine would misunderstand."""
    parts: dict[tuple[str, str], str] = {}
    for key in tensors:
        module, _, kind = key[-64:].rpartition(".")
        name = module.rpartition(".")[2]
        if name in HEADS and kind in ("weight", "bias"):
            if name not in config.saved:
                raise _refusal(key, f"is of a head that modules_to_save in {CONFIG} does not name")
            if (name, kind) in parts:
                raise _refusal(key, f"is the second {kind} of the head {name!r}")
            parts[name, kind] = key
    names = {name for name, _ in parts}
    if len(names) > 1:
        raise AdapterRejected(400, f"{WEIGHTS} holds the heads {' and '.join(sorted(names))}: only one can be served")
    if not names:
        if config.saved:
            saved = ", ".join(config.saved)
            raise AdapterRejected(400, f"{CONFIG} says that {saved} was trained as a whole, and {WEIGHTS} lacks it")
        return dict(tensors), None
    (name,) = names
    if (name, "weight") not in parts:
        raise _refusal(parts[name, "bias"], "has no weight to go with it")
    head = _head(name, parts, tensors)
    return {key: tensor for key, tensor in tensors.items() if key not in parts.values()}, head


def check_head(head: ClassifierHead, base: BaseShapes, most_labels: int | None) -> None:
    """Raises AdapterRejected 400 where the served model has no such head. ``most_labels``: `--max-lora-cls-labels`."""
    shape = base.shapes.get(head.name)
    if shape is None:
        raise _refusal(head.tensor, "is a classification head, and the base model has none of that name")
    if head.inputs != shape[1] or head.labels > (most_labels or shape[0]):
        fits = f"a head of at most {most_labels or shape[0]} labels from {shape[1]} inputs is served"
        raise _refusal(head.tensor, f"has {head.labels} labels from {head.inputs} inputs; {fits}")


def _head(name: str, parts: Mapping[tuple[str, str], str], tensors: Mapping[str, Tensor]) -> ClassifierHead:
    weight = parts[name, "weight"]
    for key in parts.values():
        if tensors[key].dtype not in FLOATING:
            raise _refusal(key, f"is of type {tensors[key].dtype} and must be floating point")
    shape = tensors[weight].shape
    if len(shape) != 2 or 0 in shape:
        raise _refusal(weight, f"has shape {list(shape)} and must be a matrix")
    bias = parts.get((name, "bias"))
    if bias is not None and tensors[bias].shape != shape[:1]:
        raise _refusal(bias, f"has shape {list(tensors[bias].shape)} and its weight has {shape[0]} labels")
    return ClassifierHead(name, weight, shape[0], shape[1])


def _refusal(tensor: str, told: str) -> AdapterRejected:
    return AdapterRejected(400, f"tensor {shown(tensor)} {told}")
