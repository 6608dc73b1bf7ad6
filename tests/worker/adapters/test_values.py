"""Weights that are no numbers, and adapters that change nothing."""

from __future__ import annotations

import io
import json
import math
import shutil
import struct
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from config.bounded import members
from worker.adapters.files import AdapterFacts, AdapterRejected, inspect
from worker.adapters.tensors import MAX_HEADER, Tensor, read_header
from worker.adapters.values import LARGEST, check_values
from worker.demo import adapter_path

_SIZES = {
    "F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E5M2FNUZ": 1, "F8_E4M3FNUZ": 1,
}  # fmt: skip


def _check(raw: bytes, dtype: str, before: bytes = b"") -> bool:
    """Whether any value is other than zero; ``before``: another tensor that is in the same file."""
    tensors = {
        "x": Tensor(dtype, (1, len(raw) // _SIZES[dtype]), len(before), len(before) + len(raw)),
        "w": Tensor(dtype, (1, len(before)), 0, len(before)),
    }
    return "x" in check_values(io.BytesIO(before + raw), tensors, "file")


def _refused(raw: bytes, dtype: str, words: str) -> None:
    with pytest.raises(AdapterRejected, match=f"'x' holds a value that is {words}"):
        _check(raw, dtype)


def _value(raw: bytes, dtype: str) -> float:
    """Of eight bits and fewer: sign, exponent and mantissa by hand, as ml_dtypes has them."""
    if dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    if dtype in ("F64", "F32", "F16"):
        return float(struct.unpack({"F64": "<d", "F32": "<f", "F16": "<e"}[dtype], raw)[0])
    byte = raw[0]
    if dtype.endswith("FNUZ"):
        return math.nan if byte == 0x80 else 1.0 if byte else 0.0
    if dtype == "F8_E4M3":
        return math.nan if byte & 0x7F == 0x7F else 1.0 if byte & 0x7F else 0.0
    return math.inf if byte & 0x7C == 0x7C else 1.0 if byte & 0x7F else 0.0


@pytest.mark.parametrize("dtype", _SIZES)
@given(data=st.data(), count=st.integers(1, 40), place=st.integers(0, 39))
def test_every_bit_pattern_is_judged_as_the_number_it_is(
    dtype: str, data: st.DataObject, count: int, place: int
) -> None:
    size = _SIZES[dtype]
    raw = data.draw(st.binary(min_size=size, max_size=size) | st.sampled_from([b"\x7f" * size, b"\xff" * size]))
    value, around = _value(raw, dtype), b"\x11" * size
    place = min(place, count - 1)
    tensor = around * place + raw + around * (count - 1 - place)
    if math.isfinite(value) and abs(value) < LARGEST:
        _check(tensor, dtype)
    elif math.isfinite(value):
        _refused(tensor, dtype, f"{LARGEST} or more")
    else:
        _refused(tensor, dtype, "NaN or infinite")


@given(st.floats(width=32))
@example(float(LARGEST))
@example(-0.0)
@example(65504.0)
def test_float32_ends_where_it_is_said(value: float) -> None:
    raw = struct.pack("<f", value)
    if math.isfinite(value) and abs(value) < LARGEST:
        assert _check(raw, "F32") is (value != 0)
    else:
        _refused(raw, "F32", "NaN or infinite" if not math.isfinite(value) else str(LARGEST))


def test_one_in_many_megabytes_is_found_wherever_it_is() -> None:
    raw = bytearray(b"\x11" * (3 << 20))
    for place in (0, (1 << 20) - 4, 1 << 20, len(raw) - 4):
        broken = bytes(raw[:place]) + struct.pack("<f", math.nan) + bytes(raw[place + 4 :])
        _refused(broken, "F32", "NaN")


def test_zeros_are_seen_beside_what_is_not() -> None:
    assert not _check(bytes(1 << 21), "BF16", before=b"\x11" * 8)
    assert not _check(b"\0\x80" * 100, "BF16"), "minus zero"
    assert _check(bytes((1 << 21) - 2) + b"\x80\x3f", "BF16")


@pytest.mark.measured
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_two_hundred_megabytes_take_seconds_and_leave_others_their_turn(dtype: str) -> None:
    """Calls of milliseconds: a thread that is in one keeps the supervisor's loop waiting."""
    size = 200 << 20
    step, moments = b"\x11" * 4096, [time.thread_time()]

    class Endless(io.RawIOBase):
        def seek(self, *_: int) -> int:
            return 0

        def read(self, count: int = -1) -> bytes:
            moments.append(time.thread_time())
            return step * (count // len(step))

    assert check_values(Endless(), {"x": Tensor(dtype, (1, 1), 0, size)}, "file")  # type: ignore[arg-type]
    moments.append(time.thread_time())
    assert moments[-1] - moments[0] < 10
    assert max(after - before for before, after in pairwise(moments)) < 0.1


# a whole adapter


def _inspect(folder: Path, **more: bool) -> AdapterFacts:
    return inspect(folder, base=None, served_names=("demo",), max_rank=16, **more)


def _spoil(folder: Path, part: str, value: bytes) -> Path:
    """The demo's adapter with ``value`` in the middle of each tensor named like ``part``; all of it for one byte."""
    shutil.copytree(adapter_path("pirate"), folder)
    weights = folder / "adapter_model.safetensors"
    with weights.open("rb") as stream:
        tensors = read_header(stream, "file")
    raw = bytearray(weights.read_bytes())
    for name, tensor in tensors.items():
        if part in name:
            if len(value) == 1:
                raw[tensor.begin : tensor.end] = value * (tensor.end - tensor.begin)
            else:
                middle = tensor.begin + (tensor.end - tensor.begin) // 4 * 2
                raw[middle : middle + 2] = value
    weights.write_bytes(raw)
    return folder


@pytest.mark.parametrize("value", [b"\xc0\x7f", b"\x80\x7f", b"\x80\xff", b"\xff\xff"])
def test_one_nan_in_one_matrix_is_refused_with_its_name(tmp_path: Path, value: bytes) -> None:
    name = "model.layers.2.mlp.down_proj.lora_B"
    folder = _spoil(tmp_path / "a", name, value)
    with pytest.raises(AdapterRejected, match=f"tensor '.*{name}.*NaN or infinite") as caught:
        _inspect(folder)
    assert caught.value.status == 400


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_an_adapter_of_zeros_has_no_effect(tmp_path: Path, part: str) -> None:
    """A fresh one: PEFT begins with lora_B at zero."""
    folder = _spoil(tmp_path / "a", part, b"\0")
    with pytest.raises(AdapterRejected, match=r"has no effect.*allow_no_effect"):
        _inspect(folder)
    assert _inspect(folder, allow_no_effect=True).rank == 8
    other = _spoil(tmp_path / "b", f"layers.0.self_attn.q_proj.{part}", b"\0")
    assert _inspect(other).rank == 8, "one that is zero beside others is nothing unusual"


@pytest.mark.parametrize("alphas, works", [({}, False), ({"q_proj": 4}, True), ({"q_projx": 4}, False)])
def test_an_alpha_of_zero_has_no_effect_unless_a_pattern_has_another(
    tmp_path: Path, alphas: dict[str, int], works: bool
) -> None:
    folder = Path(shutil.copytree(adapter_path("pirate"), tmp_path / "a"))
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "lora_alpha": 0, "alpha_pattern": alphas}))
    if works:
        assert _inspect(folder).rank == 8
    else:
        with pytest.raises(AdapterRejected, match="has no effect"):
            _inspect(folder)


# its header


def _header(folder: Path, raw: bytes) -> Path:
    shutil.copytree(adapter_path("pirate"), folder)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    return folder


@pytest.mark.measured
@pytest.mark.parametrize(
    "raw, word",
    [
        (b'{"__metadata__":{},' + b'"a":[],' * 2_000_000 + b'"b":1}', "values"),
        (b"{" + b'"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},' * 220_000 + b'"b":1}', "values"),
        (b"{" + b" " * MAX_HEADER + b"}", f"at most {MAX_HEADER}"),
        (b"{" + b",".join([b'"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}'] * 2) + b"}", "twice"),
    ],
)  # fmt: skip
def test_a_header_of_more_entries_than_any_adapter_has_is_refused_at_once(
    tmp_path: Path, raw: bytes, word: str
) -> None:
    folder, began = _header(tmp_path / "a", raw), time.process_time()
    with pytest.raises(AdapterRejected, match=word):
        _inspect(folder)
    assert time.process_time() - began < 2


@pytest.mark.measured
@pytest.mark.long
def test_the_largest_header_that_is_taken_lets_others_run_meanwhile(tmp_path: Path) -> None:
    """An adapter for 384 experts of 60 layers: 22 MB of header. One call for all of it held the interpreter for
    seconds."""
    entries, position = {}, 0
    for layer in range(60):
        for expert in range(384):
            for side in ("gate_proj.lora_A", "gate_proj.lora_B", "up_proj.lora_A", "up_proj.lora_B"):
                name = f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.{side}.weight"
                entries[name] = {"dtype": "BF16", "shape": [1, 1], "data_offsets": [position, position + 2]}
                position += 2
    raw = json.dumps(entries).encode()
    file = io.BytesIO(struct.pack("<Q", len(raw)) + raw + bytes(position))
    assert len(read_header(file, "file")) == 60 * 384 * 4
    moments = [time.thread_time(), *(time.thread_time() for _ in members(raw)), time.thread_time()]
    assert max(after - before for before, after in pairwise(moments)) < 0.2
