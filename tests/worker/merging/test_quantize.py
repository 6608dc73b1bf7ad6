"""A model of 8 bits is what the engine's own library makes of it again, within a step of each row's scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worker.demo import model_path
from worker.jobs.job import Job, JobFailed

pytestmark = pytest.mark.long  # torch and transformers take seconds to import


def quantize(tmp_path: Path, scheme: str, model: Path | None = None) -> dict[str, Any]:
    from worker.merging import quantize as quantizing

    (tmp_path / "job").mkdir(exist_ok=True)
    given = {"model": str(model or model_path()), "out": str(tmp_path / scheme), "scheme": scheme}
    return dict(quantizing.run(given, Job(tmp_path / "job", lambda: 0.0)))


@pytest.mark.parametrize(("scheme", "steps"), [("int8", 127), ("fp8", 16)])
def test_a_smaller_model(tmp_path: Path, scheme: str, steps: int) -> None:
    import torch
    from safetensors.torch import load_file

    found = quantize(tmp_path, scheme)
    assert found["rounded"] == 28 and found["bytes"] < 0.7 * found["bytes_before"]
    before = load_file(model_path() / "model.safetensors")
    after = load_file(tmp_path / scheme / "model.safetensors")
    config = json.loads((tmp_path / scheme / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors" and config["ignore"] == ["lm_head"]
    for name, values in before.items():
        if f"{name}_scale" not in after:
            assert torch.equal(after[name], values)
            continue
        again = after[name].float() * after[f"{name}_scale"]
        largest = values.float().abs().amax(1, keepdim=True)
        assert ((again - values.float()).abs() <= largest / steps).all(), name
    assert set(after) == {*before, *(f"{name}_scale" for name in before if f"{name}_scale" in after)}


def test_what_is_quantised_already_and_an_unknown_scheme_are_refused(tmp_path: Path) -> None:
    quantize(tmp_path, "int8")
    with pytest.raises(JobFailed, match="quantised: take the model that it was made of"):
        quantize(tmp_path, "fp8", tmp_path / "int8")
    with pytest.raises(JobFailed, match="none of int8, fp8"):
        quantize(tmp_path, "int2")
