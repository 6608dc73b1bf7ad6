"""What a job is asked for is refused in a sentence before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from harness import environment
from worker.jobs import kinds
from worker.jobs.job import JobFailed

_RIGHT: dict[str, dict[str, Any]] = {
    "create": {"model": "/m", "out": "/o", "rank": 4, "targets": ["q_proj"], "scale": 0.1},
    "merge": {"model": "/m", "adapter": "/a", "out": "/o", "dtype": None},
    "push": {"folder": "/a", "destination": "hf://org/name", "name": "a", "public": True, "base": None},
    "quantize": {"model": "/m", "out": "/o", "scheme": "int8"},
    "train": {"name": "a", "data": "/d", "model": "/m", "out": "/o", "epochs": 2, "targets": ["q_proj"]},
}


@pytest.mark.parametrize("kind", _RIGHT)
def test_what_is_right_passes_and_each_thing_that_is_missing_or_of_another_type_does_not(kind: str) -> None:
    right = _RIGHT[kind]
    kinds.check(kind, right)
    for name in kinds.find(kind).paths:
        with pytest.raises(JobFailed, match="no absolute path"):
            kinds.check(kind, {**right, name: "relative/path"})
        with pytest.raises(JobFailed, match=name):
            kinds.check(kind, {key: value for key, value in right.items() if key != name})
        for wrong in (7, [], {}, True):
            with pytest.raises(JobFailed, match=name):
                kinds.check(kind, {**right, name: wrong})
    with pytest.raises(JobFailed, match="colour"):
        kinds.check(kind, {**right, "colour": "red"})


@pytest.mark.parametrize(
    ("kind", "changed", "why"),
    [
        ("create", {"rank": 0}, "1 to 1024"), ("create", {"rank": True}, "another type"),
        ("create", {"base_name": "a\nb"}, "printable"), ("create", {"base_name": "a" * 5000}, "4096"),
        ("push", {"name": "a/b"}, "no name"), ("push", {"destination": "ftp://x/y"}, "not known"),
        ("push", {"destination": "https://x/y"}, "nothing can be sent"), ("train", {"lr": float("nan")}, "lr"),
        ("train", {"epochs": 1e9}, "epochs"), ("train", {"dtype": "int4"}, "dtype"),
    ],
)  # fmt: skip
def test_values_out_of_bounds(kind: str, changed: dict[str, Any], why: str) -> None:
    with pytest.raises(JobFailed, match=why):
        kinds.check(kind, {**_RIGHT[kind], **changed})


@pytest.mark.processes
def test_a_check_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "peft", "huggingface_hub", "boto3", "modelscope_hub", "numpy"}
    code = (
        f"import sys; from worker.jobs import kinds\nfor kind, right in {_RIGHT!r}.items(): kinds.check(kind, right)\n"
        f"print(sorted({heavy!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
