"""Tensors of an adapter that are refused, and why."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalladapters import MODULE, Spec, adapter_in, matrices, refused, tensor_file
from worker.adapters.files import (
    AdapterRejected,
)
from worker.adapters.tensors import read_header


def _named(a: str = "x.q_proj.lora_A.weight", b: str = "x.q_proj.lora_B.weight") -> dict[str, tuple[int, ...]]:
    return {a: (2, 4), b: (8, 2)}


@pytest.mark.parametrize(
    "spec, word",
    [
        ({}, "no LoRA tensor"),
        ({"model.norm.weight": (4,)}, "is no LoRA matrix"),
        ({"x.q_proj.lora_B.bias": (4,)}, "is no LoRA matrix"),
        (_named("x.q_proj.lora_A.default.weight"), "'default'"),
        ({"x.q_proj.lora_A.weight": (2, 4)}, "no lora_B"),
        ({"x.q_proj.lora_B.weight": (8, 2)}, "no lora_A"),
        (_named() | {"base_model.model.x.q_proj.lora_A.weight": (2, 4)}, "twice"),
        (_named("x.q_proj.lora_embedding_A"), "two kinds"),
        (_named() | {"x.q_proj.lora_A.weight": ("I32", (2, 4))}, "floating"),
        (_named() | {"x.q_proj.lora_A.weight": (2, 4, 1)}, "must be a matrix"),
        (_named() | {"x.q_proj.lora_A.weight": (2, 0)}, "must be a matrix"),
        (_named() | {"x.q_proj.lora_A.weight": (4, 2)}, "rank 4"),
        (_named() | {"x.q_proj.lora_B.weight": (2, 8)}, "rank 8"),
        ({"x.experts.lora_A.weight": (4, 4), "x.experts.lora_B.weight": (8, 8)}, "differ in rank"),
        (_named("x.wte.lora_A.weight", "x.wte.lora_B.weight"), "lora_embedding_A"),
        ({f"{'x' * 300}.lora_A.weight": (2, 4)}, "256 characters"),
        (matrices("model.layers.9.self_attn.q_proj", 2, 8, 4), "does not have"),
        (matrices("model.layers.0.mlp.q_proj", 2, 8, 4), "does not have"),
        (matrices(MODULE, 2, 8, 3), "has shape [2, 3] and must have [2, 4]"),
        (matrices(MODULE, 2, 7, 4), "has shape [7, 2] and must have [8, 2]"),
    ],
)
def test_tensors_that_make_no_adapter(tmp_path: Path, spec: Spec, word: str) -> None:
    refused(adapter_in(tmp_path / "a", spec), 400, word)


def _entry(*offsets: Any, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "raw, word",
    [
        (b"", "0 bytes"),
        (b"\0" * 7, "7 bytes"),
        (struct.pack("<Q", 1 << 63) + b"{}", "do not hold"),
        (tensor_file(b"[]", 0), "not a JSON object"),
        (tensor_file(b"{", 0), "not valid JSON"),
        (tensor_file(b"[" * 100_000, 0), "not a JSON object"),
        (tensor_file(b'{"a":' * 100_000, 0), "nested too deeply"),
        (tensor_file({"a": 3}, 0), "data_offsets"),
        (tensor_file({"a": {"dtype": "F32", "shape": [1]}}, 0), "data_offsets"),
        (tensor_file({"a": _entry(0, 4.0)}, 4), "data_offsets"),
        (tensor_file({"a": _entry(0, True)}, 4), "data_offsets"),
        (tensor_file({"a": _entry(-4, 0)}, 4), "data_offsets"),
        (tensor_file({"a": _entry(0, 4, 8)}, 8), "data_offsets"),
        (tensor_file({"a": _entry(0, 4, dtype="F99")}, 4), "unknown type"),
        (tensor_file({"a": _entry(0, 4, dtype=["F32"])}, 4), "unknown type"),
        (tensor_file({"a": _entry(0, 4, shape=[-1])}, 4), "no valid shape"),
        (tensor_file({"a": _entry(0, 4, shape=[1] * 99)}, 4), "no valid shape"),
        (tensor_file({"a": _entry(0, 4, shape=[2])}, 4), "which takes 64"),
        (tensor_file({"a": _entry(0, 1, shape=[1], dtype="F4")}, 1), "which takes 4"),
        (tensor_file({"a": _entry(0, 4, shape=[1 << 62] * 32)}, 4), "which takes"),
        (tensor_file({"a": _entry(4, 8)}, 8), "must begin at 0"),
        (tensor_file({"a": _entry(0, 4), "b": _entry(2, 6)}, 6), "must begin at 4"),
        (tensor_file({"a": _entry(4, 0)}, 4), "must begin at 0"),
        (tensor_file({"a": _entry(0, 4)}, 3), "cut off"),
        (tensor_file({"a": _entry(0, 4)}, 5), "appended"),
        (tensor_file({"__metadata__": {"a": 1}}, 0), "__metadata__"),
    ],
)
def test_a_weights_file_that_is_no_sound_safetensors(tmp_path: Path, raw: bytes, word: str) -> None:
    adapter = adapter_in(tmp_path / "a")
    (adapter / "adapter_model.safetensors").write_bytes(raw)
    refused(adapter, 400, word)


def test_a_header_may_not_fill_the_memory(tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path / "a")
    with (adapter / "adapter_model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", 200_000_000))
        stream.truncate(200_000_008)  # a hole: takes no disk
    refused(adapter, 400, "at most 25000000")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_NUMBERS = st.lists(st.integers(0, 9) | st.integers(), max_size=3) | _JSON
_DTYPES = st.sampled_from(["F32", "F4", "BF16"]) | _JSON
_ENTRY = st.fixed_dictionaries({"dtype": _DTYPES, "shape": _NUMBERS, "data_offsets": _NUMBERS})
_HEADERS = st.dictionaries(st.text(max_size=3), _ENTRY | _JSON, max_size=3).map(json.dumps).map(str.encode)


def _read(raw: bytes) -> None:
    try:
        read_header(io.BytesIO(raw), "x")
    except AdapterRejected as exc:
        assert exc.status == 400


@given(st.binary(max_size=64))
def test_random_bytes_are_refused_and_nothing_else(raw: bytes) -> None:
    _read(raw)


@given(_HEADERS | st.binary(max_size=40), st.integers(0, 20))
def test_random_headers_are_refused_and_nothing_else(header: bytes, data: int) -> None:
    _read(tensor_file(header, data))
