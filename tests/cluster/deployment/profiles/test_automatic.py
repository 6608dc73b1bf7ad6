"""Which engine a machine gets that nobody chose one for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.deployment.profiles import resolution, summary
from cluster.deployment.profiles.automatic import choose
from cluster.deployment.profiles.machine import EngineSummary, GpuSummary, MachineSummary
from config.models import definition
from config.settings import from_json
from fakes import clean_environment
from worker.engines import base

MISSING, HERE = EngineSummary(missing="pip install it"), EngineSummary()
FOR_GPUS = EngineSummary(on_gpu=True, on_cpu=False)
GPU = GpuSummary("H100", 80 * 10**9)


def _machine(
    vllm: EngineSummary | None = HERE, gpus: int = 0, avx2: bool = True, platform: str = "linux-x86_64"
) -> MachineSummary:
    engines = {"sim": HERE, "transformers": HERE, **({} if vllm is None else {"vllm": vllm})}
    return MachineSummary(gpus=(GPU,) * gpus, platform=platform, engines=engines, avx2=avx2)


@pytest.mark.parametrize(("machine", "engine", "why"), [
    (_machine(), "vllm", "there is no GPU, its CPU build is installed, and the processor has AVX2"),
    (_machine(avx2=False), "llamacpp", "there is no GPU, and vLLM needs AVX2, which this processor lacks"),
    (_machine(avx2=False, platform="linux-aarch64"), "llamacpp", "vLLM needs AVX2"),
    (_machine(MISSING), "llamacpp", "there is no GPU, and vLLM is not installed"),
    (_machine(None), "llamacpp", "vLLM is not installed"),
    (_machine(FOR_GPUS), "llamacpp", "there is no GPU, and the vLLM that is installed needs one"),
    (_machine(FOR_GPUS, gpus=1), "vllm", "there is 1 GPU of NVIDIA"),
    (_machine(MISSING, gpus=8, avx2=False), "vllm", "there are 8 GPUs of NVIDIA"),
    (_machine(MISSING, platform="darwin-arm64"), "mlx", "this is Apple Silicon"),
    (_machine(platform="darwin-x86_64", avx2=False), "llamacpp", "AVX2"),
])  # fmt: skip
def test_the_machine_and_what_is_installed_say_which(machine: MachineSummary, engine: str, why: str) -> None:
    found = choose(machine)
    assert found.engine == engine and why in found.why
    assert str(found) == f"engine {engine}, as {found.why}"


def _never() -> MachineSummary:
    raise AssertionError("the machine was looked at for nothing")


def _load(machine: MachineSummary | None, monkeypatch: pytest.MonkeyPatch, **flags: Any) -> Any:
    clean_environment(monkeypatch)
    return resolution.load(flags, None, _never if machine is None else lambda: machine)


def test_settings_name_the_engine_that_was_left_to_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _load(_machine(MISSING), monkeypatch, engine="auto")
    assert found.settings.engine == "llamacpp"
    assert found.source("engine") == "auto, as there is no GPU, and vLLM is not installed"
    assert found.notes == ["engine llamacpp, as there is no GPU, and vLLM is not installed"]
    assert from_json(found.settings.to_json()).engine == "llamacpp"


def test_so_does_the_environment_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)
    monkeypatch.setenv("INFERENCE_ENGINE", "auto")
    assert resolution.load({}, None, lambda: _machine(gpus=2)).settings.engine == "vllm"


def test_nobody_who_names_an_engine_is_given_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _load(None, monkeypatch).settings.engine == "vllm"
    found = _load(None, monkeypatch, engine="sim")
    assert (found.settings.engine, found.notes) == ("sim", [])


def test_models_are_asked_each(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"a": {"path": "org/a", "engine": "auto"}, "b": {"path": "org/b", "engine": "sim"}, "c": "org/c"}
    found = _load(_machine(gpus=1), monkeypatch, models=models, engine="sim")
    assert {name: model.engine for name, model in found.settings.models.items()} == {
        "a": "vllm", "b": "sim", "c": None
    }  # fmt: skip
    assert found.settings.engine == "sim" and found.source("engine") == "--engine"
    one = resolution.define(definition({"path": "org/a", "engine": "auto"}), {}, _machine(MISSING))[0]
    assert one.engine == "llamacpp"


def test_a_profile_says_which_engine_it_is_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    manifest = tmp_path / "models.yaml"
    manifest.write_text("models: {m: {path: org/m, profiles: [{name: p, engine: sim, when: {cpu: true}}]}}")
    given = {"manifest": manifest, "engine": "auto"}
    found = _load(_machine(), monkeypatch, model="m", **given)
    assert (found.settings.engine, found.automatic) == ("sim", "")
    models = {"x": {"path": "m", "engine": "auto"}}
    assert _load(_machine(), monkeypatch, models=models, **given).settings.models["x"].engine == "sim"


def test_a_running_cluster_is_sent_the_engine_by_name() -> None:
    sent = resolution.applied({"engine": "auto", "instances": 3}, lambda: _machine(gpus=1))
    assert sent == {"engine": "vllm", "instances": 3}


def test_this_machine_is_looked_at(tmp_path: Path) -> None:
    found = summary.look()
    assert set(found.engines) == set(base.names()) and choose(found).engine
    info = tmp_path / "cpuinfo"
    of = {"flags\t\t: fpu avx avx2 fma": True, "flags : avx avx512f": False, "Features : asimd": False}
    for text, has in of.items():
        info.write_text(f"processor : 0\nmodel name : avx2\n{text}\n")
        assert summary._has_avx2(info) is has
    assert summary._has_avx2(tmp_path / "none") is False
    json.dumps(sorted(found.engines))
