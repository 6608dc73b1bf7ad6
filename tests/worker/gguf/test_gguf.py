"""Files for llama.cpp, read back by our own reader; `tests/e2e/test_llamacpp.py` shows that llama.cpp takes them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from demo import gguf as demo_gguf
from worker import demo
from worker.gguf import adapter, header, weights, writer
from worker.gguf.header import GgufHeader, NotGguf
from worker.gguf.weights import NotConvertible
from worker.gguf.writer import F32, GgufTensor, Typed

BASE = GgufHeader({
    "general.architecture": "llama", "llama.attention.head_count": 2, "llama.attention.head_count_kv": 1,
    "llama.block_count": 3, "llama.embedding_length": 16, "llama.context_length": 512,
}, 1000)  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    values = {
        "general.architecture": Typed("str", "llama"), "llama.context_length": Typed("u32", 77),
        "x.flag": Typed("bool", True), "x.part": Typed("f32", 0.5), "x.list": Typed("i32", [-1, 2], is_array=True),
        "x.words": Typed("str", ["a", "ö"], is_array=True), "x.many": Typed("i32", range(2000), is_array=True),
        "x.last": Typed("i32", -7),
    }  # fmt: skip
    with path.open("wb") as stream:
        writer.write(stream, values, [GgufTensor("t", (2, 3), F32, lambda: bytes(24))])
    found = header.read(path)
    assert found.context == 77
    assert found.size == path.stat().st_size
    assert found.values == {
        "general.architecture": "llama", "llama.context_length": 77, "x.flag": True, "x.part": 0.5, "x.list": [-1, 2],
        "x.words": ["a", "ö"], "x.last": -7,
    }  # fmt: skip


def test_a_tensor_of_another_size_than_it_says_is_not_written(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as stream, pytest.raises(ValueError, match="t: 3 bytes"):
        writer.write(stream, {}, [GgufTensor("t", (2, 3), F32, lambda: b"abc")])


@pytest.mark.parametrize("content", [
    b"", b"GGML" + bytes(40), b"GGUF", b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
    b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**60),
    b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99),
    b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**50),
    b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40),
])  # fmt: skip
def test_what_is_no_gguf_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(NotGguf, match=r"x\.gguf"):
        header.read(path)


def test_the_cache_of_a_token_is_counted_by_layers_and_heads() -> None:
    assert BASE.kv_bytes_per_token == 2 * 3 * 1 * (8 + 8)
    longer = GgufHeader({**BASE.values, "llama.attention.key_length": 32, "llama.attention.value_length": 4}, 0)
    assert longer.kv_bytes_per_token == 2 * 3 * 1 * (32 + 4)
    some = GgufHeader({**BASE.values, "llama.attention.head_count_kv": [0, 2, 1]}, 0)
    assert some.kv_heads == 2


def test_rows_of_a_head_are_put_side_by_side() -> None:
    """Of Hugging Face's two halves, a row of each in turn; two heads of four rows."""
    assert weights.permuted(b"abcdefgh", rows=8, heads=2) == b"acbdegfh"
    assert weights.permuted(b"aAbBcCdD", rows=4, heads=1) == b"aAcCbBdD"


def _safetensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _adapter(folder: Path, config: dict[str, Any], module: str = "self_attn.q_proj") -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, **config}))
    _safetensors(folder / "adapter_model.safetensors", {
        f"base_model.model.model.layers.1.{module}.lora_A.weight": ("BF16", [1, 2], struct.pack("<HH", 0x3F80, 0xC000)),
        f"base_model.model.model.layers.1.{module}.lora_B.weight": ("F32", [4, 1], struct.pack("<4f", 1, 2, 3, 4)),
    })  # fmt: skip
    return folder


def test_an_adapter_gets_llama_cpp_s_names_order_and_scale(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    base = GgufHeader({**BASE.values, "llama.attention.head_count": 1}, 0)
    adapter.convert(_adapter(tmp_path, {}), base, out)
    values = header.read(out).values
    assert (values["general.type"], values["adapter.type"], values["adapter.lora.alpha"]) == ("adapter", "lora", 8)
    data = out.read_bytes()
    assert b"blk.1.attn_q.weight.lora_a" in data and b"blk.1.attn_q.weight.lora_b" in data
    assert struct.pack("<2f", 1, -2) in data, "bfloat16 as float32"
    assert struct.pack("<4f", 1, 3, 2, 4) in data, "rows in llama.cpp's order"
    adapter.convert(_adapter(tmp_path, {"use_rslora": True}), base, out)
    assert header.read(out).values["adapter.lora.alpha"] == 16, "times the root of the rank"
    adapter.convert(_adapter(tmp_path, {}), GgufHeader({**base.values, "general.architecture": "qwen2"}, 0), out)
    assert struct.pack("<4f", 1, 2, 3, 4) in out.read_bytes(), "no other family has another order"


@pytest.mark.parametrize(("config", "module", "family", "why"), [
    ({"use_dora": True}, "self_attn.q_proj", "llama", "DoRA"),
    ({"alpha_pattern": {"q_proj": 3}}, "self_attn.q_proj", "llama", "alpha_pattern"),
    ({"use_rslora": True, "rank_pattern": {"q_proj": 3}}, "self_attn.q_proj", "llama", "rsLoRA"),
    ({}, "self_attn.qkv", "llama", "self_attn.qkv"),
    ({}, "self_attn.q_proj", "mamba", "mamba"),
    ({"lora_alpha": "x"}, "self_attn.q_proj", "llama", "adapter_config"),
])  # fmt: skip
def test_what_cannot_be_converted_is_said(
    tmp_path: Path, config: dict[str, Any], module: str, family: str, why: str
) -> None:
    base = GgufHeader({**BASE.values, "general.architecture": family}, 0)
    with pytest.raises(NotConvertible, match=why):
        adapter.convert(_adapter(tmp_path, config, module), base, tmp_path / "out.gguf")


def test_the_demo_model_s_file_is_what_the_script_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--out", str(tmp_path / "demo.gguf")])
    demo_gguf.main()
    assert (tmp_path / "demo.gguf").read_bytes() == demo.gguf_path().read_bytes()
    found = header.read(demo.gguf_path())
    assert (found.architecture, found.context) == ("llama", 2048)
    assert found.values["general.sampling.temp"] == pytest.approx(0.7)
