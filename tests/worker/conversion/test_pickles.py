"""PyTorch's own files: tensors come out of them, and nothing in them runs."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hostile import HARM, Runs, archived, plain, scene
from worker.conversion.layouts import Unservable

pytestmark = pytest.mark.processes  # imports torch


def _saved(value: Any, **more: Any) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(value, out, **more)
    return out.getvalue()


def _load(folder: Path, data: bytes) -> dict[str, Any]:
    from worker.conversion import pickles

    (folder / "adapter_model.bin").write_bytes(data)
    return pickles.load(folder / "adapter_model.bin")


@pytest.mark.parametrize("form", [plain, archived])
def test_no_hostile_pickle_runs(form: Any, tmp_path: Path) -> None:
    """All of them in one process, which is this one: what is refused has not run."""
    with scene(tmp_path) as found:
        for code in HARM.values():
            with pytest.raises(Unservable, match=r"does more than hold tensors \(it asks for exec\)"):
                _load(tmp_path, form(Runs(code, found.names)))
        assert not found.harmed()


@pytest.mark.parametrize("callee", [os.system, eval, open, zipfile.ZipFile, __import__, getattr, os.kill])
def test_what_it_asks_for_is_named(callee: Any, tmp_path: Path) -> None:
    class Calls:
        def __reduce__(self) -> Any:
            return callee, ("x",)

    with pytest.raises(Unservable, match=rf"it asks for (\w+\.)?{callee.__name__}\)"):
        _load(tmp_path, plain({"a": Calls()}))


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_come_out_as_they_went_in(legacy: bool, tmp_path: Path) -> None:
    import torch

    one, half = torch.arange(6.0).reshape(2, 3), torch.ones(4, dtype=torch.bfloat16)
    data = _saved({"state_dict": {"a": one, "b": half}}, _use_new_zipfile_serialization=not legacy)
    found = _load(tmp_path, data)
    assert list(found) == ["a", "b"] and torch.equal(found["a"], one) and torch.equal(found["b"], half)


def _cases() -> dict[str, tuple[Any, str]]:
    import torch

    whole = _saved({"a": torch.zeros(2000)})
    return {
        "claims more than it has": (_saved({"a": torch.zeros(1).expand(1 << 40)}), "claims 1099511627776 values"),
        "compressed": (archived({}, zipfile.ZIP_DEFLATED), "is compressed"),
        "program": (archived({}, name="constants.pkl"), "is a program"),
        "cut off": (whole[:-500], "cut off"), "empty": (b"", "no file of tensors"),
        "text": (b"hello", "no file of tensors"), "a list": (_saved([torch.zeros(2)]), "holds list"),
        "a number": (_saved({"a": 3}), "is int and no tensor"),
        "no name": (_saved({3: torch.zeros(1)}), "without a name"),
        "sparse": (_saved({"a": torch.zeros(2).to_sparse()}), "no plain tensor"),
        "meta": (_saved({"a": torch.zeros(2, device="meta")}), "no plain tensor"),
        "a module": (_saved({"a": torch.nn.Linear(2, 2)}), "asks for torch.nn.modules.linear.Linear"),
        "deep": (b"\x80\x02" + b"(" * 200_000 + b".", "no file of tensors"),
    }  # fmt: skip


def test_what_holds_no_tensors_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for name, (data, told) in _cases().items():
        with pytest.raises(Unservable) as caught:
            _load(tmp_path, data)
        assert told in str(caught.value), name
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
