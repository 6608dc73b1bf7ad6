"""Adapters taken in: whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smalladapters import MODULE, adapter_in, inspected, matrices
from worker.adapters import store as adapter_store
from worker.adapters.files import (
    AdapterRejected,
    content_hash,
)
from worker.adapters.store import remove, sweep_temporary, take_in


def _content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    one, two = adapter_in(tmp_path / "one"), adapter_in(tmp_path / "deep" / "two")
    (two / "README.md").write_text("not part of it")
    os.utime(two / "adapter_config.json", ns=(1, 1))
    assert content_hash(one) == content_hash(two) == inspected(one).content_hash
    other = adapter_in(tmp_path / "other", r=2, lora_alpha=5)
    assert content_hash(other) != content_hash(one)
    shutil.rmtree(two)
    with pytest.raises(AdapterRejected) as caught:
        content_hash(two)
    assert caught.value.status == 404


def test_what_is_taken_in_is_whole_read_only_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, store = adapter_in(tmp_path / "a"), tmp_path / "state" / "adapters"
    (adapter / "optimizer.pt").write_bytes(b"not wanted")
    digest = inspected(adapter).content_hash
    folder = take_in(adapter, store, digest)
    assert folder == store / digest and content_hash(folder) == digest
    assert sorted(_content(folder)) == ["adapter_config.json", "adapter_model.safetensors"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}
    shutil.rmtree(adapter)
    monkeypatch.setattr(adapter_store, "_copy", pytest.fail)
    assert take_in(adapter, store, digest) == folder  # the source is not even looked at
    assert list(store.iterdir()) == [folder] and inspected(folder).content_hash == digest


@pytest.mark.parametrize("step", ["_copy", "content_hash", "_put", "sync_folder"])
@pytest.mark.parametrize("exc", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt()])
def test_an_interruption_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, exc: BaseException
) -> None:
    adapter, store = adapter_in(tmp_path / "a"), tmp_path / "store"
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
    adapter, store = adapter_in(tmp_path / "a"), tmp_path / "store"
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
    adapter, store = adapter_in(tmp_path / "a"), tmp_path / "store"
    digest = content_hash(adapter)
    adapter_in(adapter, lora_alpha=5)
    for _ in range(2):
        with pytest.raises(AdapterRejected) as caught:
            take_in(adapter, store, digest)
        assert caught.value.status == 409 and list(store.iterdir()) == []
        shutil.rmtree(adapter, ignore_errors=True)


def test_a_source_that_changes_during_the_copy_is_a_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, store = adapter_in(tmp_path / "a"), tmp_path / "store"
    digest, copy = content_hash(adapter), adapter_store._copy

    def changed(source: Path, target: Path) -> None:
        copy(source, target)
        adapter_in(adapter, matrices(MODULE, 2, 9, 4))

    monkeypatch.setattr(adapter_store, "_copy", changed)
    with pytest.raises(AdapterRejected) as caught:
        take_in(adapter, store, digest)
    assert caught.value.status == 409 and "changed" in str(caught.value) and list(store.iterdir()) == []


def test_a_damaged_copy_is_replaced(tmp_path: Path) -> None:
    adapter, store = adapter_in(tmp_path / "a"), tmp_path / "store"
    digest = content_hash(adapter)
    folder = take_in(adapter, store, digest)
    (folder / "adapter_model.safetensors").unlink()
    assert _content(take_in(adapter, store, digest)) == _content(adapter)
    assert list(store.iterdir()) == [folder]


def test_two_that_take_in_the_same_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, store = adapter_in(tmp_path / "a"), tmp_path / "store"
    digest, copy = content_hash(adapter), adapter_store._copy

    def overtaken(source: Path, target: Path) -> None:
        copy(source, target)
        monkeypatch.setattr(adapter_store, "_copy", copy)
        take_in(adapter, store, digest)

    monkeypatch.setattr(adapter_store, "_copy", overtaken)
    assert take_in(adapter, store, digest) == store / digest
    assert list(store.iterdir()) == [store / digest]


def test_removing(tmp_path: Path) -> None:
    adapter, store = adapter_in(tmp_path / "a"), tmp_path / "store"
    folder = take_in(adapter, store, content_hash(adapter))
    assert remove(store, folder.name) and list(store.iterdir()) == []
    assert not remove(store, folder.name)
    with pytest.raises(ValueError):
        remove(store, "../a")
    with pytest.raises(ValueError):
        take_in(adapter, store, "..")
    assert adapter.exists()
