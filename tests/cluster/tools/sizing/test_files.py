"""A folder that holds a model, or does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.tools.sizing import matrices, memory
from cluster.tools.sizing.files import Stored, read
from config.errors import UsageError
from modelconfigs import LLAMA_3_8B
from worker.demo import model_path

TINY = {**LLAMA_3_8B, "hidden_size": 4, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1,
        "num_hidden_layers": 1, "vocab_size": 10}  # fmt: skip


def _write(folder: Path, config: Any, **tensors: tuple[str, list[int]]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if tensors:
        _safetensors(folder / "model.safetensors", tensors)
    return str(folder)


def _safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = {"BF16": 2, "F32": 4, "I32": 4, "F8_E4M3": 1}[dtype]
        for number in shape:
            size *= number
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(end))


def test_the_demo_model_is_what_its_formula_says() -> None:
    found, stored = read(str(model_path()))
    assert stored == Stored(matrices.parameters(found), 0, matrices.parameters(found)) and found.exact


def test_headers_win_over_the_formula(tmp_path: Path) -> None:
    name = _write(tmp_path / "m", TINY, **{"a.weight": ("BF16", [10, 4]), "b.weight": ("F32", [3])})
    found, stored = read(name)
    assert stored == Stored(43, 0, 43)
    assert memory.weights(found, stored).bytes == 86


def test_without_weights_there_is_the_formula(tmp_path: Path) -> None:
    found, stored = read(_write(tmp_path / "m", TINY))
    assert stored is None and matrices.parameters(found) == 2 * 10 * 4 + 2 * 16 + 2 * 8 + 3 * 32 + 3 * 4


def test_an_index_whose_files_are_not_here_yet(tmp_path: Path) -> None:
    name = _write(tmp_path / "m", TINY)
    (tmp_path / "m" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert read(name)[1] is None


def test_shards_are_added_up(tmp_path: Path) -> None:
    name = _write(tmp_path / "m", TINY)
    for number in (1, 2):
        _safetensors(tmp_path / "m" / f"model-{number}.safetensors", {f"t{number}": ("BF16", [5])})
    shards = {f"t{number}": f"model-{number}.safetensors" for number in (1, 2)}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert read(name)[1] == Stored(10, 0, 10)


def test_a_hub_id_is_looked_for_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    _write(tmp_path / "models--org--name" / "snapshots" / "1", TINY)
    assert read("org/name")[0].hidden == 4
    with pytest.raises(UsageError, match="--model org/other: no folder, and no model in the Hugging Face cache"):
        read("org/other")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda f: None, "no such folder"),
        (lambda f: f.write_text("x"), "is a file, and a folder with a config.json is needed"),
        (lambda f: f.mkdir(), "holds no model (a folder with a config.json is needed)"),
        (lambda f: _write(f, "{"), "its config.json is not valid JSON"),
        (lambda f: _write(f, "[]"), "its config.json is not a JSON object"),
        (lambda f: _write(f, {}), "its config.json has no hidden_size"),
        (lambda f: (_write(f, TINY), (f / "model.safetensors").write_bytes(b"short")), "no whole safetensors file"),
        (lambda f: (f.mkdir(), (f / "config.json").mkdir()), "config.json is no regular file"),
    ],
)
def test_what_is_no_model_is_said_in_one_sentence(tmp_path: Path, make: Any, told: str) -> None:
    make(tmp_path / "m")
    with pytest.raises(UsageError) as error:
        read(str(tmp_path / "m"))
    assert told in str(error.value) and str(error.value).startswith(f"--model {tmp_path / 'm'}: ")
    assert "\n" not in str(error.value)
