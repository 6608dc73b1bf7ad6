"""The simulated worker and vLLM: adapters that are loaded, used and unloaded, and those that cannot be."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from conformance import CHAT, COMPLETIONS, LOAD, MARKS, UNLOAD, USER, name_of, same, send
from harness import WORKER_KEY
from worker.adapters.tensors import read_header
from worker.probe import Target

pytestmark = MARKS

@pytest.mark.parametrize(
    "body",
    [
        {"lora_name": "x"},
        {"lora_path": "x"},
        {"lora_name": "", "lora_path": "x"},
        {"lora_name": "x", "lora_path": ""},
        {"lora_name": 5, "lora_path": "x"},
        {"lora_name": "demo", "lora_path": "/nonexistent"},
        {"lora_name": "x", "lora_path": "/nonexistent/p"},
        {"lora_name": "x", "lora_path": "/nonexistent/p", "load_inplace": "q"},
    ],
    ids=name_of,
)
def test_bad_load(urls: tuple[str, str], body: dict[str, Any]) -> None:
    same(urls, "POST", LOAD, body)


@pytest.mark.parametrize("body", [{"lora_name": ""}, {"lora_name": "nope"}, {"lora_name": 5}, {"lora_name": "demo"}])
def test_bad_unload(urls: tuple[str, str], body: dict[str, Any]) -> None:
    same(urls, "POST", UNLOAD, body)


async def _changes(url: str, paths: dict[str, Path]) -> dict[str, bool]:
    """By name, whether a worker that has loaded the adapter answers otherwise than without."""
    found = {}
    async with aiohttp.ClientSession() as session:
        target = Target(session, url, WORKER_KEY)
        base = await target.numbers("demo", 60.0)
        assert base is not None and base == await target.numbers("demo", 60.0)
        for name, path in paths.items():
            assert await target.load_adapter(name, str(path), 60.0) is None
            found[name] = await target.numbers(name, 60.0) != base
            await target.call("POST", UNLOAD, {"lora_name": name})
    return found


def test_an_adapter_of_which_nothing_is_used_shows_in_one_token(
    urls: tuple[str, str], demo_adapters: dict[str, str], tmp_path: Path
) -> None:
    """vLLM loads both without a word: matrices of zeros, and modules that it knows by another name. The slightest
    change shows: one number in one matrix, of a thousandth."""
    paths = {name: Path(shutil.copytree(demo_adapters["poet"], tmp_path / name)) for name in ("zeros", "tiny", "names")}
    for name, path in paths.items():
        file = path / "adapter_model.safetensors"
        with file.open("rb") as stream:
            tensors = read_header(stream, file.name)
        raw = bytearray(file.read_bytes())
        if name == "names":
            start = 8 + int.from_bytes(raw[:8], "little")
            header = bytes(raw[8:start]).replace(b"base_model.model.", b"base_model.model._orig_mod.")
            raw[:start] = len(header).to_bytes(8, "little") + header
        else:
            for key, tensor in tensors.items():
                if "lora_B" in key:
                    raw[tensor.begin : tensor.end] = bytes(tensor.end - tensor.begin)
            if name == "tiny":
                last = tensors["base_model.model.model.layers.3.mlp.down_proj.lora_B.weight"]
                raw[last.begin : last.begin + 2] = b"\x83\x3a"
        file.write_bytes(raw)
    vllm, sim = (asyncio.run(_changes(url, paths)) for url in urls)
    assert vllm == {"zeros": False, "tiny": True, "names": False}
    assert (sim["zeros"], sim["tiny"]) == (False, True)


BROKEN: dict[str, Any] = {
    "no rank": {"r": None},
    "rank too high": {"r": 4096},
    "rank is text": {"r": "8"},
    "bias": {"bias": "all"},
    "dora": {"use_dora": True},
    "modules to save": {"modules_to_save": ["lm_head"]},
    "unsupported module": {"target_modules": ["xyz"]},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_broken_adapter(
    urls: tuple[str, str], demo_adapters: dict[str, str], tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(demo_adapters["pirate"], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    merged = {key: value for key, value in {**config, **change}.items() if value is not None or key not in change}
    (folder / "adapter_config.json").write_text(json.dumps(merged))
    shape = same(urls, "POST", LOAD, {"lora_name": "conformance-broken", "lora_path": str(folder)})
    if shape["status"] == 200:
        same(urls, "POST", UNLOAD, {"lora_name": "conformance-broken"})


@pytest.mark.parametrize("broken", ["empty folder", "bad json", "no weights", "junk weights", "a list"])
def test_broken_adapter_files(
    urls: tuple[str, str], demo_adapters: dict[str, str], tmp_path: Path, broken: str
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(demo_adapters["pirate"], folder)
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if broken == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()
    elif broken == "bad json":
        config.write_text("{nope")
    elif broken == "a list":
        config.write_text("[]")
    elif broken == "no weights":
        weights.unlink()
    else:
        weights.write_bytes(b"junk")
    same(urls, "POST", LOAD, {"lora_name": "conformance-broken", "lora_path": str(folder)})


@pytest.fixture
def loaded(urls: tuple[str, str], demo_adapters: dict[str, str]) -> Iterator[str]:
    """The name of an adapter loaded by both, the same way."""
    name = "conformance-poet"
    load = {"lora_name": name, "lora_path": demo_adapters["poet"]}
    for url in urls:  # what an earlier, broken run may have left
        send(url, "POST", UNLOAD, {"lora_name": name})
    assert same(urls, "POST", LOAD, load)["status"] == 200
    assert same(urls, "POST", LOAD, load)["status"] == 400
    yield name
    for url in urls:
        send(url, "POST", UNLOAD, {"lora_name": name})


def test_life_of_an_adapter(urls: tuple[str, str], loaded: str) -> None:
    use = {"model": loaded, "prompt": "hello", "max_tokens": 3, "ignore_eos": True}
    chat = {"model": loaded, "messages": USER, "max_tokens": 9, "ignore_eos": True, "stream": True}
    same(urls, "GET", "/v1/models")
    assert same(urls, "POST", COMPLETIONS, use)["status"] == 200
    assert same(urls, "POST", CHAT, chat)["status"] == 200
    same(urls, "POST", "/tokenize", {"model": loaded, "prompt": "x"})
    assert same(urls, "POST", UNLOAD, {"lora_name": loaded})["status"] == 200
    assert same(urls, "POST", UNLOAD, {"lora_name": loaded})["status"] == 404
    assert same(urls, "POST", COMPLETIONS, use)["status"] == 404
    same(urls, "GET", "/v1/models")
