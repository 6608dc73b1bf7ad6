"""Adapters from files: what is refused and why, what is taken in, and that nothing half is ever left."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.adapters import store as adapter_store
from worker.adapters.files import (
    AdapterFacts,
    AdapterRejected,
    BaseShapes,
    content_hash,
    inspect,
    read_base,
)
from worker.adapters.store import remove, sweep_temporary, take_in
from worker.adapters.targets import EngineSide
from worker.adapters.tensors import read_header

_DEMO = Path(__file__).parents[3] / "worker" / "demo"
_BITS = {"F32": 32, "BF16": 16, "F16": 16, "I32": 32, "U8": 8, "I8": 8}
_MODULE = "model.layers.0.self_attn.q_proj"
_BASE = BaseShapes({_MODULE: (8, 4), "model.embed_tokens": (32, 4), "lm_head": (32, 4)})

Spec = Mapping[str, tuple[int, ...] | tuple[str, tuple[int, ...]]]


def _header(spec: Spec) -> tuple[dict[str, Any], int]:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, kind in spec.items():
        dtype, shape = kind if kind and isinstance(kind[0], str) else ("BF16", kind)
        size = _BITS[dtype]
        for number in shape:
            size *= number
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size // 8]}
        position += size // 8
    return entries, position


def _file(header: Any, data: int) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + b"\x11" * data


def _write_tensors(path: Path, spec: Spec) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_file(*_header(spec)))


def _matrices(module: str, rank: int, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
    stem = f"base_model.model.{module}"
    return {f"{stem}.lora_A.weight": (rank, in_features), f"{stem}.lora_B.weight": (out_features, rank)}


def _config(**changes: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none", **changes}


def _adapter(folder: Path, spec: Spec | None = None, **changes: Any) -> Path:
    _write_tensors(folder / "adapter_model.safetensors", _matrices(_MODULE, 2, 8, 4) if spec is None else spec)
    (folder / "adapter_config.json").write_text(json.dumps(_config(**changes)))
    return folder


def _inspect(path: Path, **changes: Any) -> AdapterFacts:
    given: dict[str, Any] = {"base": _BASE, "served_names": ("demo",), "max_rank": 16}
    return inspect(path, **(given | changes))


def _refused(path: Path, status: int, word: str, **changes: Any) -> None:
    with pytest.raises(AdapterRejected) as caught:
        _inspect(path, **changes)
    assert (caught.value.status, word in str(caught.value)) == (status, True), str(caught.value)
    assert "\n" not in str(caught.value)


# What is taken.


def test_a_sound_adapter_passes_with_nothing_unchecked(tmp_path: Path) -> None:
    shutil.copytree(_DEMO / "adapters" / "pirate", tmp_path / "pirate")
    facts = _inspect(tmp_path / "pirate", base=read_base(str(_DEMO / "model")))
    assert facts.rank == 8 and facts.base_model == "demo" and facts.unchecked == ()
    assert facts.target_modules == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert facts.size == sum(file.stat().st_size for file in (tmp_path / "pirate").iterdir())
    assert facts.content_hash == content_hash(_DEMO / "adapters" / "pirate")


@pytest.mark.parametrize(
    "module, base",
    [
        ("transformer.h.3.attn.attention.q_proj", "transformer.h.3.attn.attention.q_proj"),
        ("transformer.h.3.mlp.c_fc_0", "transformer.h.3.mlp.c_fc_0"),
        ("model.layers.3.mlp.up_proj", "model.layers.3.mlp.up_proj"),
    ],
)
def test_llama_and_exaone_names_are_exact(tmp_path: Path, module: str, base: str) -> None:
    target = module.rpartition(".")[2]
    adapter = _adapter(tmp_path / "a", _matrices(module, 2, 8, 4), target_modules=[target])
    assert _inspect(adapter, base=BaseShapes({base: (8, 4)})).unchecked == ()
    _refused(adapter, 400, "[2, 4]", base=BaseShapes({base: (8, 5)}))


@pytest.mark.parametrize(
    "others",
    [
        {f"language_model.{_MODULE}": (8, 4), "vision_tower.encoder.layers.0.self_attn.q_proj": (9, 9)},
        {"model.language_model.layers.0.self_attn.q_proj": (8, 4), "visual.blocks.0.attn.qkv": (9, 9)},
        {"layers.0.self_attn.q_proj": (8, 4)},
    ],
)
def test_a_prefix_of_the_base_model_may_differ_and_is_told(tmp_path: Path, others: dict[str, tuple[int, int]]) -> None:
    adapter = _adapter(tmp_path / "a")
    (told,) = _inspect(adapter, base=BaseShapes(others)).unchecked
    assert "not checked: model.layers.*.self_attn.q_proj" in told
    _refused(adapter, 400, "must have", base=BaseShapes(dict.fromkeys(others, (8, 5))))


def test_embeddings_and_a_tied_head_are_compared(tmp_path: Path) -> None:
    both = ["embed_tokens", "lm_head"]
    weights = {"model.embed_tokens.weight": (32, 4), "model.norm.weight": (4,)}
    _write_tensors(tmp_path / "m" / "model.safetensors", weights)
    base = read_base(str(tmp_path / "m"))
    stem = "base_model.model.model.embed_tokens"
    spec = {f"{stem}.lora_embedding_A": (2, 32), f"{stem}.lora_embedding_B": (4, 2), **_matrices("lm_head", 2, 32, 4)}
    spec[f"{stem}.base_layer.weight"] = (32, 4)
    adapter = _adapter(tmp_path / "a", spec, target_modules=both)
    facts = _inspect(adapter, base=base)
    assert facts.target_modules == ("embed_tokens", "lm_head") and facts.unchecked == ()
    wrong = _adapter(tmp_path / "b", spec | {f"{stem}.lora_embedding_A": (2, 31)}, target_modules=both)
    _refused(wrong, 400, "must have [2, 32]", base=base)


def test_ranks_follow_the_patterns(tmp_path: Path) -> None:
    spec = _matrices(_MODULE, 4, 8, 4) | _matrices(_MODULE.replace(".0.", ".1."), 2, 8, 4)
    adapter = _adapter(tmp_path / "a", spec, rank_pattern={r"layers\.0\..*q_proj": 4}, alpha_pattern={"q_proj": 8})
    assert _inspect(adapter, base=None).rank == 4
    _refused(adapter, 400, "max_lora_rank", base=None, max_rank=3)
    _refused(_adapter(tmp_path / "b", spec), 400, "is rank 4")


@pytest.mark.parametrize("targets", ["all-linear", r".*\.(q|v)_proj", "q_proj", None, [_MODULE]])
def test_target_modules_in_any_form(tmp_path: Path, targets: Any) -> None:
    assert _inspect(_adapter(tmp_path / "a", target_modules=targets)).target_modules == ("q_proj",)


def test_a_pattern_that_could_take_for_ever_is_not_tried(tmp_path: Path) -> None:
    (told,) = _inspect(_adapter(tmp_path / "a", target_modules="(.*a)*b")).unchecked
    assert "target_modules" in told


def test_fused_experts_and_packed_weights_are_told_as_not_compared(tmp_path: Path) -> None:
    spec: Spec = {"l.layers.0.mlp.experts.gate_up_proj": (4, 8, 8), f"{_MODULE}.qweight": ("I32", (1, 8))}
    _write_tensors(tmp_path / "m" / "model.safetensors", spec)
    experts = "model.layers.0.mlp.experts"
    tensors = _matrices(experts, 8, 8, 4) | _matrices(f"{experts}.3.up_proj", 2, 8, 4) | _matrices(_MODULE, 2, 8, 4)
    adapter = _adapter(tmp_path / "a", tensors, target_modules=["q_proj", "up_proj"])
    told = _inspect(adapter, base=read_base(str(tmp_path / "m"))).unchecked
    assert "3 modules were not compared" in told[0]


def test_a_transposed_base_is_allowed_where_the_config_says_so(tmp_path: Path) -> None:
    base = BaseShapes({_MODULE: (4, 8)})
    assert _inspect(_adapter(tmp_path / "a", fan_in_fan_out=True), base=base).rank == 2
    _refused(_adapter(tmp_path / "b", fan_in_fan_out=False), 400, "must have", base=base)


def test_without_the_base_model_the_answer_says_so(tmp_path: Path) -> None:
    (told,) = _inspect(_adapter(tmp_path / "a"), base=None).unchecked
    assert told == "tensor shapes were not compared: the base model's weights cannot be read here"


# The base model's name.


def test_a_moved_base_model_of_the_right_shape_is_no_error(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "a", base_model_name_or_path="org/other")
    (told,) = _inspect(adapter, served_names=("my/demo",)).unchecked
    assert "'org/other'" in told and "shapes fit" in told


@pytest.mark.parametrize("name", ["/old/disk/demo/", "org/Demo", "unsloth/demo-bnb-4bit", "", None])
def test_the_same_base_model_by_its_last_component(tmp_path: Path, name: str | None) -> None:
    adapter = _adapter(tmp_path / "a", base_model_name_or_path=name)
    assert _inspect(adapter, served_names=("x", "/models/demo")).unchecked == ()


def test_another_hub_model_is_a_conflict_only_if_nothing_better_is_known(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "a", base_model_name_or_path="org/other")
    _refused(adapter, 409, "org/other", base=None, served_names=("alias", "org/demo"))
    assert len(_inspect(adapter, base=None, served_names=("alias", "/models/demo")).unchecked) == 2


# What is refused: the config.


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"peft_type": None}, "peft_type"),
        ({"r": 17}, "max_lora_rank"),
        ({"r": 0}, "r must be"),
        ({"r": True}, "r must be"),
        ({"r": "8"}, "r must be"),
        ({"r": 2.0}, "r must be"),
        ({"rank_pattern": {"q_proj": 17}}, "max_lora_rank"),
        ({"rank_pattern": {"q_proj": None}}, "rank_pattern"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern"),
        ({"rank_pattern": {"(?i)x": 2}}, "rank_pattern"),
        ({"rank_pattern": {"(a+)+$": 2}}, "too involved"),
        ({"alpha_pattern": {".*.*.*.*a": 2}}, "too involved"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha"),
        ({"lora_alpha": None}, "alpha"),
        ({"lora_alpha": 10**400}, "alpha"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "bias"),
        ({"bias": "all"}, "bias"),
        ({"bias": None}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora"),
        ({"use_bdlora": {"a": 1}}, "block-diagonal"),
        ({"use_qalora": True}, "QALoRA"),
        ({"target_modules": 3}, "target_modules"),
        ({"target_modules": [3]}, "target_modules"),
        ({"target_modules": ["v_proj"]}, "target_modules does not name"),
        ({"target_modules": r".*\.v_proj"}, "target_modules does not name"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path"),
    ],
)
def test_a_config_that_vllm_would_not_load(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    _refused(_adapter(tmp_path / "a", **changes), 400, word)


@pytest.mark.parametrize(
    "changes",
    [
        {"modules_to_save": []},
        {"init_lora_weights": "gaussian"},
        {"use_rslora": True},
        {"rank_pattern": None, "alpha_pattern": {}},
        {"lora_alpha": 0.5},
    ],
)
def test_a_config_that_vllm_loads(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert _inspect(_adapter(tmp_path / "a", **changes)).unchecked == ()


def test_target_modules_must_be_there(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "a")
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 1}')
    _refused(adapter, 400, "target_modules is missing")


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"[]", b"3", b'"LORA"', b"\xff\xfe{", b"[" * 100_000, b'{"r": NaN}'),
        b'{"base_model_name_or_path": "\\ud800"}',
        b" " * (1 << 20) + b"{}",
    ],
)
def test_a_config_that_is_no_object(tmp_path: Path, raw: bytes) -> None:
    adapter = _adapter(tmp_path / "a")
    (adapter / "adapter_config.json").write_bytes(raw)
    _refused(adapter, 400, "adapter_config.json")


# What is refused: the tensors.


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
        (_matrices("model.layers.9.self_attn.q_proj", 2, 8, 4), "does not have"),
        (_matrices("model.layers.0.mlp.q_proj", 2, 8, 4), "does not have"),
        (_matrices(_MODULE, 2, 8, 3), "has shape [2, 3] and must have [2, 4]"),
        (_matrices(_MODULE, 2, 7, 4), "has shape [7, 2] and must have [8, 2]"),
    ],
)
def test_tensors_that_make_no_adapter(tmp_path: Path, spec: Spec, word: str) -> None:
    _refused(_adapter(tmp_path / "a", spec), 400, word)


def _entry(*offsets: Any, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "raw, word",
    [
        (b"", "0 bytes"),
        (b"\0" * 7, "7 bytes"),
        (struct.pack("<Q", 1 << 63) + b"{}", "do not hold"),
        (_file(b"[]", 0), "not a JSON object"),
        (_file(b"{", 0), "not valid JSON"),
        (_file(b"[" * 100_000, 0), "not a JSON object"),
        (_file(b'{"a":' * 100_000, 0), "nested too deeply"),
        (_file({"a": 3}, 0), "data_offsets"),
        (_file({"a": {"dtype": "F32", "shape": [1]}}, 0), "data_offsets"),
        (_file({"a": _entry(0, 4.0)}, 4), "data_offsets"),
        (_file({"a": _entry(0, True)}, 4), "data_offsets"),
        (_file({"a": _entry(-4, 0)}, 4), "data_offsets"),
        (_file({"a": _entry(0, 4, 8)}, 8), "data_offsets"),
        (_file({"a": _entry(0, 4, dtype="F99")}, 4), "unknown type"),
        (_file({"a": _entry(0, 4, dtype=["F32"])}, 4), "unknown type"),
        (_file({"a": _entry(0, 4, shape=[-1])}, 4), "no valid shape"),
        (_file({"a": _entry(0, 4, shape=[1] * 99)}, 4), "no valid shape"),
        (_file({"a": _entry(0, 4, shape=[2])}, 4), "which takes 64"),
        (_file({"a": _entry(0, 1, shape=[1], dtype="F4")}, 1), "which takes 4"),
        (_file({"a": _entry(0, 4, shape=[1 << 62] * 32)}, 4), "which takes"),
        (_file({"a": _entry(4, 8)}, 8), "must begin at 0"),
        (_file({"a": _entry(0, 4), "b": _entry(2, 6)}, 6), "must begin at 4"),
        (_file({"a": _entry(4, 0)}, 4), "must begin at 0"),
        (_file({"a": _entry(0, 4)}, 3), "cut off"),
        (_file({"a": _entry(0, 4)}, 5), "appended"),
        (_file({"__metadata__": {"a": 1}}, 0), "__metadata__"),
    ],
)
def test_a_weights_file_that_is_no_sound_safetensors(tmp_path: Path, raw: bytes, word: str) -> None:
    adapter = _adapter(tmp_path / "a")
    (adapter / "adapter_model.safetensors").write_bytes(raw)
    _refused(adapter, 400, word)


def test_a_header_may_not_fill_the_memory(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "a")
    with (adapter / "adapter_model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", 200_000_000))
        stream.truncate(200_000_008)  # a hole: takes no disk
    _refused(adapter, 400, "at most 25000000")


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
    _read(_file(header, data))


# What is refused: the files.


def test_nothing_there(tmp_path: Path) -> None:
    _refused(tmp_path / "none", 404, "does not exist")
    (tmp_path / "file").write_text("")
    _refused(tmp_path / "file", 404, "is no folder")
    (tmp_path / "loop").symlink_to("loop")
    _refused(tmp_path / "loop", 404, "loop")
    _refused(tmp_path / "a\0b", 404, "cannot be found")
    _refused(tmp_path / ("a" * 300), 404, "cannot be found")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_is_missing(tmp_path: Path, name: str) -> None:
    adapter = _adapter(tmp_path / "a")
    (adapter / name).unlink()
    _refused(adapter, 404, name)
    (adapter / name).mkdir()
    _refused(adapter, 400, "no regular file")
    (adapter / name).rmdir()
    os.mkfifo(adapter / name)
    _refused(adapter, 400, "no regular file")


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "anything.pth"])
def test_pickles_are_not_loaded(tmp_path: Path, name: str) -> None:
    adapter = _adapter(tmp_path / "a")
    (adapter / name).write_bytes(b"")
    assert _inspect(adapter).rank == 2  # beside safetensors it is not looked at
    (adapter / "adapter_model.safetensors").unlink()
    _refused(adapter, 400, f"pickle files are not loaded: convert {name}")


def test_too_large(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "a")
    size = _inspect(adapter).size
    assert _inspect(adapter, max_bytes=size).size == size
    _refused(adapter, 400, f"{size} bytes", max_bytes=size - 1)


def test_a_path_must_really_be_inside_the_roots(tmp_path: Path) -> None:
    inside, outside = _adapter(tmp_path / "root" / "a"), _adapter(tmp_path / "outside")
    roots = (tmp_path / "other", tmp_path / "root")
    (tmp_path / "root" / "link").symlink_to(outside)
    (tmp_path / "alias").symlink_to(tmp_path / "root")
    assert _inspect(inside, roots=roots) == _inspect(tmp_path / "alias" / "a", roots=roots)
    assert _inspect(inside, roots=(tmp_path / "alias",)).rank == 2
    for path in (outside, tmp_path / "root" / "link", inside / ".." / ".." / "outside", tmp_path / "none"):
        _refused(path, 400, str(tmp_path / "root"), roots=roots)


def test_a_file_that_is_a_link_may_not_lead_out(tmp_path: Path) -> None:
    adapter, outside = _adapter(tmp_path / "root" / "a"), _adapter(tmp_path / "root" / "outside")
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    _refused(adapter, 400, "outside of where")
    assert _inspect(adapter, roots=(tmp_path / "root",)).rank == 2
    (outside / "adapter_model.safetensors").rename(tmp_path / "moved")
    _refused(adapter, 404, "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.safetensors").symlink_to(tmp_path / "moved")
    _refused(adapter, 400, "outside of where", roots=(tmp_path / "root",))


def test_a_snapshot_of_the_hugging_face_cache_is_links_and_passes(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--adapter"
    _adapter(repository / "blobs")
    snapshot = repository / "snapshots" / "abc" / "sub"
    snapshot.mkdir(parents=True)
    for file in (repository / "blobs").iterdir():
        (snapshot / file.name).symlink_to(Path("../../../blobs") / file.name)
    assert _inspect(snapshot).content_hash == content_hash(repository / "blobs")


def test_files_that_change_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = _adapter(tmp_path / "a")

    def written_to(stream: Any, name: str) -> Any:
        os.utime(adapter / "adapter_config.json", ns=(1, 1))
        return read_header(stream, name)

    monkeypatch.setattr("worker.adapters.files.read_header", written_to)
    _refused(adapter, 409, "changed while it was read")


# The base model.


def _write_index(folder: Path, index: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_sharded_base_is_read_by_its_index(tmp_path: Path) -> None:
    _write_tensors(tmp_path / "1.safetensors", {f"{_MODULE}.weight": (8, 4)})
    _write_tensors(tmp_path / "2.safetensors", {"lm_head.weight": (32, 4), "model.embed_tokens.weight": (31, 4)})
    _write_tensors(tmp_path / "stray.safetensors", {"stray.weight": (1, 1)})
    _write_index(tmp_path, {"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}})
    base = read_base(str(tmp_path))
    assert base and dict(base.shapes) == {_MODULE: (8, 4), "lm_head": (32, 4), "model.embed_tokens": (31, 4)}
    assert _inspect(_adapter(tmp_path / "a"), base=base).unchecked == ()


@pytest.mark.parametrize("index", [{}, [], *({"weight_map": value} for value in ([1], {"a": 1}, {"a": "gone"}))])
def test_an_index_that_leads_nowhere_means_an_unknown_base(tmp_path: Path, index: Any) -> None:
    _write_tensors(tmp_path / "1.safetensors", {f"{_MODULE}.weight": (8, 4)})
    _write_index(tmp_path, index)
    assert read_base(str(tmp_path)) is None


def test_any_other_safetensors_files_of_the_folder(tmp_path: Path) -> None:
    _write_tensors(tmp_path / "weights.safetensors", {f"{_MODULE}.weight": ("I8", (8, 4)), "x.weight": ("U8", (16, 1))})
    _write_tensors(tmp_path / "consolidated.safetensors", {"layers.0.attention.wq.weight": (8, 4)})
    base = read_base(str(tmp_path))
    assert base and dict(base.shapes) == {_MODULE: (8, 4)} and base.opaque == {"x"}


@pytest.mark.parametrize("model", ["", "org/name", "no such\0folder", "../x", "/nowhere"])
def test_a_base_that_is_not_here(tmp_path: Path, model: str) -> None:
    assert read_base(model) is None and read_base(model, tmp_path) is None


def test_a_base_that_is_damaged_or_has_no_safetensors(tmp_path: Path) -> None:
    assert read_base(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    assert read_base(str(tmp_path)) is None


def test_a_hub_model_is_found_in_the_cache(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    _write_tensors(repository / "snapshots" / "one" / "model.safetensors", {"one.weight": (1, 1)})
    for cache in (tmp_path, tmp_path / "hub"):
        base = read_base("org/name", cache)
        assert base and set(base.shapes) == {"one"}
    _write_tensors(repository / "snapshots" / "two" / "model.safetensors", {"two.weight": (1, 1)})
    assert read_base("org/name", tmp_path) is None  # which of them is served cannot be known
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("two\n")
    base = read_base("org/name", tmp_path)
    assert base and set(base.shapes) == {"two"}


# Taking in.


def _content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    one, two = _adapter(tmp_path / "one"), _adapter(tmp_path / "deep" / "two")
    (two / "README.md").write_text("not part of it")
    os.utime(two / "adapter_config.json", ns=(1, 1))
    assert content_hash(one) == content_hash(two) == _inspect(one).content_hash
    other = _adapter(tmp_path / "other", r=2, lora_alpha=5)
    assert content_hash(other) != content_hash(one)
    shutil.rmtree(two)
    with pytest.raises(AdapterRejected) as caught:
        content_hash(two)
    assert caught.value.status == 404


def test_what_is_taken_in_is_whole_read_only_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, store = _adapter(tmp_path / "a"), tmp_path / "state" / "adapters"
    (adapter / "optimizer.pt").write_bytes(b"not wanted")
    digest = _inspect(adapter).content_hash
    folder = take_in(adapter, store, digest)
    assert folder == store / digest and content_hash(folder) == digest
    assert sorted(_content(folder)) == ["adapter_config.json", "adapter_model.safetensors"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}
    shutil.rmtree(adapter)
    monkeypatch.setattr(adapter_store, "_copy", pytest.fail)
    assert take_in(adapter, store, digest) == folder  # the source is not even looked at
    assert list(store.iterdir()) == [folder] and _inspect(folder).content_hash == digest


@pytest.mark.parametrize("step", ["_copy", "content_hash", "_put", "sync_folder"])
@pytest.mark.parametrize("exc", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt()])
def test_an_interruption_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, exc: BaseException
) -> None:
    adapter, store = _adapter(tmp_path / "a"), tmp_path / "store"
    store.mkdir()
    digest = content_hash(adapter)
    original: Callable[..., Any] = getattr(adapter_store, step)

    def interrupted(*args: Any) -> Any:
        if args[0] == store / digest:
            return original(*args)  # only asked whether it is there
        original(*args)
        raise exc

    monkeypatch.setattr(adapter_store, step, interrupted)
    with pytest.raises(type(exc)):
        take_in(adapter, store, digest)
    left = list(store.iterdir())
    assert left == [] or (step == "_put" and left == [store / digest] and content_hash(left[0]) == digest)
    monkeypatch.undo()
    assert take_in(adapter, store, digest) == store / digest


def test_a_crash_leaves_only_what_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, store = _adapter(tmp_path / "a"), tmp_path / "store"
    digest = content_hash(adapter)
    folder = take_in(adapter, store, digest)
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # as if the process had ended there
    assert remove(store, digest) and not folder.exists()
    monkeypatch.setattr(adapter_store, "_put", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        take_in(adapter, store, digest)
    assert len(list(store.iterdir())) == 2 and not folder.exists()
    monkeypatch.undo()
    assert sweep_temporary(store) == 2 and list(store.iterdir()) == []
    assert sweep_temporary(tmp_path / "none") == 0


def test_a_source_that_changes_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    adapter, store = _adapter(tmp_path / "a"), tmp_path / "store"
    digest = content_hash(adapter)
    _adapter(adapter, lora_alpha=5)
    for _ in range(2):
        with pytest.raises(AdapterRejected) as caught:
            take_in(adapter, store, digest)
        assert caught.value.status == 409 and list(store.iterdir()) == []
        shutil.rmtree(adapter, ignore_errors=True)


def test_a_source_that_changes_during_the_copy_is_a_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, store = _adapter(tmp_path / "a"), tmp_path / "store"
    digest, copy = content_hash(adapter), adapter_store._copy

    def changed(source: Path, target: Path) -> None:
        copy(source, target)
        _adapter(adapter, _matrices(_MODULE, 2, 9, 4))

    monkeypatch.setattr(adapter_store, "_copy", changed)
    with pytest.raises(AdapterRejected) as caught:
        take_in(adapter, store, digest)
    assert caught.value.status == 409 and "changed" in str(caught.value) and list(store.iterdir()) == []


def test_a_damaged_copy_is_replaced(tmp_path: Path) -> None:
    adapter, store = _adapter(tmp_path / "a"), tmp_path / "store"
    digest = content_hash(adapter)
    folder = take_in(adapter, store, digest)
    (folder / "adapter_model.safetensors").unlink()
    assert _content(take_in(adapter, store, digest)) == _content(adapter)
    assert list(store.iterdir()) == [folder]


def test_two_that_take_in_the_same_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, store = _adapter(tmp_path / "a"), tmp_path / "store"
    digest, copy = content_hash(adapter), adapter_store._copy

    def overtaken(source: Path, target: Path) -> None:
        copy(source, target)
        monkeypatch.setattr(adapter_store, "_copy", copy)
        take_in(adapter, store, digest)

    monkeypatch.setattr(adapter_store, "_copy", overtaken)
    assert take_in(adapter, store, digest) == store / digest
    assert list(store.iterdir()) == [store / digest]


def test_removing(tmp_path: Path) -> None:
    adapter, store = _adapter(tmp_path / "a"), tmp_path / "store"
    folder = take_in(adapter, store, content_hash(adapter))
    assert remove(store, folder.name) and list(store.iterdir()) == []
    assert not remove(store, folder.name)
    with pytest.raises(ValueError):
        remove(store, "../a")
    with pytest.raises(ValueError):
        take_in(adapter, store, "..")
    assert adapter.exists()


# A classifier's head.

_SCORE = "base_model.model.score"
_CLASSIFIER = BaseShapes({**_BASE.shapes, "score": (3, 4)})
_BOTH = {"modules_to_save": ["classifier", "score"]}  # as PEFT names them for every sequence classifier


def _with_head(folder: Path, head: Spec, **changes: Any) -> Path:
    return _adapter(folder, {**_matrices(_MODULE, 2, 8, 4), **head}, **changes)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_the_head_of_a_sequence_classifier_is_taken(tmp_path: Path, labels: int, bias: bool) -> None:
    head: dict[str, tuple[int, ...]] = {f"{_SCORE}.weight": (labels, 4)}
    if bias:
        head[f"{_SCORE}.bias"] = (labels,)
    facts = _inspect(_with_head(tmp_path / "a", head, **_BOTH), base=_CLASSIFIER)
    assert (facts.target_modules, facts.unchecked) == (("q_proj",), ())


@pytest.mark.parametrize(
    "head, changes, base, word",
    [
        ({f"{_SCORE}.weight": (3, 4)}, _BOTH, _BASE, "the base model has none of that name"),
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
    _refused(_with_head(tmp_path / "a", head, **changes), 400, word, base=base)


def test_more_labels_are_taken_where_the_engine_has_room_for_them(tmp_path: Path) -> None:
    adapter = _with_head(tmp_path / "a", {f"{_SCORE}.weight": (4, 4)}, **_BOTH)
    assert _inspect(adapter, base=_CLASSIFIER, side=EngineSide(most_labels=4)).rank == 2
    _refused(adapter, 400, "at most 3", base=_CLASSIFIER)


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
    assert _inspect(adapter, base=_CLASSIFIER).rank == 2


def test_a_classifiers_head_is_adapted_whatever_the_engine_is_told(tmp_path: Path) -> None:
    spec = {**_matrices(_MODULE, 2, 8, 4), **_matrices("score", 2, 3, 4)}
    adapter = _adapter(tmp_path / "a", spec, target_modules=["q_proj", "score"])
    side = EngineSide(targets=("q_proj",), pooling=True)
    assert _inspect(adapter, base=_CLASSIFIER, side=side).target_modules == ("q_proj", "score")
