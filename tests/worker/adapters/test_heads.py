"""A classifier's head in an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smalladapters import BASE, MODULE, Spec, adapter_in, inspected, matrices, refused
from worker.adapters.files import (
    BaseShapes,
)
from worker.adapters.targets import EngineSide
from worker.adapters.tensors import read_header

_SCORE = "base_model.model.score"
_CLASSIFIER = BaseShapes({**BASE.shapes, "score": (3, 4)})
_BOTH = {"modules_to_save": ["classifier", "score"]}  # as PEFT names them for every sequence classifier


def _with_head(folder: Path, head: Spec, **changes: Any) -> Path:
    return adapter_in(folder, {**matrices(MODULE, 2, 8, 4), **head}, **changes)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_the_head_of_a_sequence_classifier_is_taken(tmp_path: Path, labels: int, bias: bool) -> None:
    head: dict[str, tuple[int, ...]] = {f"{_SCORE}.weight": (labels, 4)}
    if bias:
        head[f"{_SCORE}.bias"] = (labels,)
    facts = inspected(_with_head(tmp_path / "a", head, **_BOTH), base=_CLASSIFIER)
    assert (facts.target_modules, facts.unchecked) == (("q_proj",), ())


@pytest.mark.parametrize(
    "head, changes, base, word",
    [
        ({f"{_SCORE}.weight": (3, 4)}, _BOTH, BASE, "the base model has none of that name"),
        ({f"{_SCORE}.weight": (4, 4)}, _BOTH, _CLASSIFIER, "at most 3 labels from 4 inputs"),
        ({f"{_SCORE}.weight": (3, 5)}, _BOTH, _CLASSIFIER, "3 labels from 5 inputs"),
        ({f"{_SCORE}.weight": (3, 4)}, {}, _CLASSIFIER, "modules_to_save in adapter_config.json does not name"),
        ({f"{_SCORE}.bias": (3,)}, _BOTH, _CLASSIFIER, "has no weight"),
        ({f"{_SCORE}.weight": (3, 4), f"{_SCORE}.bias": (2,)}, _BOTH, _CLASSIFIER, "its weight has 3 labels"),
        ({f"{_SCORE}.weight": ("I32", (3, 4))}, _BOTH, _CLASSIFIER, "floating point"),
        ({f"{_SCORE}.weight": (3,)}, _BOTH, _CLASSIFIER, "must be a matrix"),
        ({f"{_SCORE}.weight": (3, 4), "base_model.model.a.score.weight": (3, 4)}, _BOTH, _CLASSIFIER, "second weight"),
        ({f"{_SCORE}.weight": (3, 4), "base_model.model.classifier.weight": (3, 4)}, _BOTH, _CLASSIFIER, "only one"),
        ({}, _BOTH, _CLASSIFIER, "was trained as a whole, and adapter_model.safetensors lacks it"),
        ({"base_model.model.classifier.dense.weight": (3, 4)}, {}, _CLASSIFIER, "no LoRA matrix"),
        ({}, {"modules_to_save": ["lm_head"]}, _CLASSIFIER, "serves no fully trained modules but"),
        ({}, {"modules_to_save": "score"}, _CLASSIFIER, "must be a list of names"),
    ],
)
def test_a_head_that_would_be_served_wrongly_is_refused(
    tmp_path: Path, head: Spec, changes: dict[str, Any], base: BaseShapes, word: str
) -> None:
    refused(_with_head(tmp_path / "a", head, **changes), 400, word, base=base)


def test_more_labels_are_taken_where_the_engine_has_room_for_them(tmp_path: Path) -> None:
    adapter = _with_head(tmp_path / "a", {f"{_SCORE}.weight": (4, 4)}, **_BOTH)
    assert inspected(adapter, base=_CLASSIFIER, side=EngineSide(most_labels=4)).rank == 2
    refused(adapter, 400, "at most 3", base=_CLASSIFIER)


def test_a_head_alone_changes_something(tmp_path: Path) -> None:
    """Matrices of zeros beside it are what a frozen backbone leaves."""
    adapter = _with_head(tmp_path / "a", {f"{_SCORE}.weight": (3, 4)}, **_BOTH)
    weights = adapter / "adapter_model.safetensors"
    with weights.open("rb") as stream:
        tensors = read_header(stream, "file")
    raw = bytearray(weights.read_bytes())
    for name, tensor in tensors.items():
        if "lora_B" in name:
            raw[tensor.begin : tensor.end] = bytes(tensor.end - tensor.begin)
    weights.write_bytes(raw)
    assert inspected(adapter, base=_CLASSIFIER).rank == 2


def test_a_classifiers_head_is_adapted_whatever_the_engine_is_told(tmp_path: Path) -> None:
    spec = {**matrices(MODULE, 2, 8, 4), **matrices("score", 2, 3, 4)}
    adapter = adapter_in(tmp_path / "a", spec, target_modules=["q_proj", "score"])
    side = EngineSide(targets=("q_proj",), pooling=True)
    assert inspected(adapter, base=_CLASSIFIER, side=side).target_modules == ("q_proj", "score")
