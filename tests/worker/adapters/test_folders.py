"""Folders of an adapter or of a model that are refused, and why."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from smalladapters import MODULE, adapter_in, inspected, refused, write_tensors
from worker.adapters.files import (
    content_hash,
    read_base,
)
from worker.adapters.tensors import read_header


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "none", 404, "does not exist")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", 404, "is no folder")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", 404, "loop")
    refused(tmp_path / "a\0b", 404, "cannot be found")
    refused(tmp_path / ("a" * 300), 404, "cannot be found")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_is_missing(tmp_path: Path, name: str) -> None:
    adapter = adapter_in(tmp_path / "a")
    (adapter / name).unlink()
    refused(adapter, 404, name)
    (adapter / name).mkdir()
    refused(adapter, 400, "no regular file")
    (adapter / name).rmdir()
    os.mkfifo(adapter / name)
    refused(adapter, 400, "no regular file")


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "anything.pth"])
def test_pickles_are_not_loaded(tmp_path: Path, name: str) -> None:
    adapter = adapter_in(tmp_path / "a")
    (adapter / name).write_bytes(b"")
    assert inspected(adapter).rank == 2  # beside safetensors it is not looked at
    (adapter / "adapter_model.safetensors").unlink()
    refused(adapter, 400, f"pickle files are not loaded: convert {name}")


def test_too_large(tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path / "a")
    size = inspected(adapter).size
    assert inspected(adapter, max_bytes=size).size == size
    refused(adapter, 400, f"{size} bytes", max_bytes=size - 1)


def test_a_path_must_really_be_inside_the_roots(tmp_path: Path) -> None:
    inside, outside = adapter_in(tmp_path / "root" / "a"), adapter_in(tmp_path / "outside")
    roots = (tmp_path / "other", tmp_path / "root")
    (tmp_path / "root" / "link").symlink_to(outside)
    (tmp_path / "alias").symlink_to(tmp_path / "root")
    assert inspected(inside, roots=roots) == inspected(tmp_path / "alias" / "a", roots=roots)
    assert inspected(inside, roots=(tmp_path / "alias",)).rank == 2
    for path in (outside, tmp_path / "root" / "link", inside / ".." / ".." / "outside", tmp_path / "none"):
        refused(path, 400, str(tmp_path / "root"), roots=roots)


def test_a_file_that_is_a_link_may_not_lead_out(tmp_path: Path) -> None:
    adapter, outside = adapter_in(tmp_path / "root" / "a"), adapter_in(tmp_path / "root" / "outside")
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    refused(adapter, 400, "outside of where")
    assert inspected(adapter, roots=(tmp_path / "root",)).rank == 2
    (outside / "adapter_model.safetensors").rename(tmp_path / "moved")
    refused(adapter, 404, "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.safetensors").symlink_to(tmp_path / "moved")
    refused(adapter, 400, "outside of where", roots=(tmp_path / "root",))


def test_a_snapshot_of_the_hugging_face_cache_is_links_and_passes(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--adapter"
    adapter_in(repository / "blobs")
    snapshot = repository / "snapshots" / "abc" / "sub"
    snapshot.mkdir(parents=True)
    for file in (repository / "blobs").iterdir():
        (snapshot / file.name).symlink_to(Path("../../../blobs") / file.name)
    assert inspected(snapshot).content_hash == content_hash(repository / "blobs")


def test_files_that_change_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = adapter_in(tmp_path / "a")

    def written_to(stream: Any, name: str) -> Any:
        os.utime(adapter / "adapter_config.json", ns=(1, 1))
        return read_header(stream, name)

    monkeypatch.setattr("worker.adapters.files.read_header", written_to)
    refused(adapter, 409, "changed while it was read")


def _write_index(folder: Path, index: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_sharded_base_is_read_by_its_index(tmp_path: Path) -> None:
    write_tensors(tmp_path / "1.safetensors", {f"{MODULE}.weight": (8, 4)})
    write_tensors(tmp_path / "2.safetensors", {"lm_head.weight": (32, 4), "model.embed_tokens.weight": (31, 4)})
    write_tensors(tmp_path / "stray.safetensors", {"stray.weight": (1, 1)})
    _write_index(tmp_path, {"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}})
    base = read_base(str(tmp_path))
    assert base and dict(base.shapes) == {MODULE: (8, 4), "lm_head": (32, 4), "model.embed_tokens": (31, 4)}
    assert inspected(adapter_in(tmp_path / "a"), base=base).unchecked == ()


@pytest.mark.parametrize("index", [{}, [], *({"weight_map": value} for value in ([1], {"a": 1}, {"a": "gone"}))])
def test_an_index_that_leads_nowhere_means_an_unknown_base(tmp_path: Path, index: Any) -> None:
    write_tensors(tmp_path / "1.safetensors", {f"{MODULE}.weight": (8, 4)})
    _write_index(tmp_path, index)
    assert read_base(str(tmp_path)) is None


def test_any_other_safetensors_files_of_the_folder(tmp_path: Path) -> None:
    write_tensors(tmp_path / "weights.safetensors", {f"{MODULE}.weight": ("I8", (8, 4)), "x.weight": ("U8", (16, 1))})
    write_tensors(tmp_path / "consolidated.safetensors", {"layers.0.attention.wq.weight": (8, 4)})
    base = read_base(str(tmp_path))
    assert base and dict(base.shapes) == {MODULE: (8, 4)} and base.opaque == {"x"}


@pytest.mark.parametrize("model", ["", "org/name", "no such\0folder", "../x", "/nowhere"])
def test_a_base_that_is_not_here(tmp_path: Path, model: str) -> None:
    assert read_base(model) is None and read_base(model, tmp_path) is None


def test_a_base_that_is_damaged_or_has_no_safetensors(tmp_path: Path) -> None:
    assert read_base(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    assert read_base(str(tmp_path)) is None


def test_a_hub_model_is_found_in_the_cache(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    write_tensors(repository / "snapshots" / "one" / "model.safetensors", {"one.weight": (1, 1)})
    for cache in (tmp_path, tmp_path / "hub"):
        base = read_base("org/name", cache)
        assert base and set(base.shapes) == {"one"}
    write_tensors(repository / "snapshots" / "two" / "model.safetensors", {"two.weight": (1, 1)})
    assert read_base("org/name", tmp_path) is None  # which of them is served cannot be known
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("two\n")
    base = read_base("org/name", tmp_path)
    assert base and set(base.shapes) == {"two"}
