"""Names of a manifest become settings: what somebody gave wins, flag by flag, and what comes out names no manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.deployment.profiles import resolution
from cluster.deployment.profiles.machine import GB, EngineSummary, GpuSummary, MachineSummary
from cluster.deployment.profiles.resolution import ResolvedSettings, applied
from config.errors import UsageError
from config.models import definition
from config.settings import from_json
from fakes import clean_environment

MANIFEST = """
models:
  m:
    path: org/m
    profiles:
      - {name: cpu, when: {cpu: true}, cpu_kv_gib: 3, max_model_len: 4096, max_loras: 2, args: [--enforce-eager]}
      - {name: gpu, when: {memory_gb: 24, count: 2}, path: org/m-awq, tensor_parallel_size: 2, dtype: float16}
      - {name: sim, when: {count: 9}, engine: sim}
  odd: {path: org/odd, profiles: [{name: any, args: [--trust-remote-code]}]}
"""
CPU = MachineSummary(memory=64 * GB, engines={"vllm": EngineSummary(), "sim": EngineSummary()})
GPUS = MachineSummary(
    gpus=(GpuSummary("A", 24 * GB),) * 2, memory=64 * GB, engines={"vllm": EngineSummary(on_gpu=True, on_cpu=False)}
)

Load = Callable[..., ResolvedSettings]


def _never() -> MachineSummary:
    raise AssertionError("the machine was looked at for nothing")


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    clean_environment(monkeypatch)
    (tmp_path / "models.yaml").write_text(MANIFEST)
    monkeypatch.chdir(tmp_path)

    def load(machine: MachineSummary = CPU, config: Path | None = None, **flags: Any) -> ResolvedSettings:
        return resolution.load({"manifest": tmp_path / "models.yaml", **flags}, config, lambda: machine)

    return load


def test_a_profile_says_what_nobody_else_did(load: Load) -> None:
    found = load(model="m")
    got = found.settings
    assert (got.model, got.engine, got.cpu_kv_gib, got.profile) == ("org/m", "vllm", 3.0, "cpu")
    assert got.engine_args == ("--max-model-len", "4096", "--max-loras", "2", "--enforce-eager")
    assert got.served_names == ("m", "org/m")
    assert found.source("cpu_kv_gib") == found.source("model") == "manifest, m, profile cpu"
    assert (found.source("manifest"), found.source("port")) == ("--manifest", "default")
    assert found.notes == ["m: profile cpu, engine vllm"]


def test_what_somebody_gave_wins_setting_by_setting_and_flag_by_flag(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERCTL_CPU_KV_GIB", "5")
    got = load(model="m", engine_args=["--max_loras=7", "--seed", "1"], served_names="x").settings
    assert got.cpu_kv_gib == 5.0
    assert got.engine_args == ("--max-model-len", "4096", "--enforce-eager", "--max_loras=7", "--seed", "1")
    assert got.served_names == ("x",)


def test_limits_of_adapters_that_the_environment_or_their_file_has_win(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIM_MAX_GPU_LORAS", "8")
    assert "--max-loras" not in load(model="m").settings.engine_args
    monkeypatch.delenv("MIM_MAX_GPU_LORAS")
    (tmp_path / "l.yaml").write_text("lora_settings: {max_loras: 9}")
    got = load(model="m", lora_config=tmp_path / "l.yaml").settings.engine_args
    assert got == ("--max-model-len", "4096", "--enforce-eager")


def test_another_machine_another_profile(load: Load) -> None:
    got = load(GPUS, model="m").settings
    assert (got.model, got.tensor_parallel_size, got.engine_args) == ("org/m-awq", 2, ("--dtype", "float16"))
    assert got.served_names == ("m", "org/m-awq")


def test_the_environment_names_model_and_profile(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIM_MODEL_NAME", "m")
    monkeypatch.setenv("MIM_MODEL_PROFILE", "gpu")
    got = load(CPU).settings
    assert (got.model, got.profile) == ("org/m-awq", "gpu"), "forced, although it does not fit"
    monkeypatch.setenv("MIM_MODEL_PROFILE", "gpux")
    with pytest.raises(UsageError, match="did you mean 'gpu'"):
        load(CPU)


def test_an_engine_that_was_asked_for_stays(load: Load) -> None:
    with pytest.raises(UsageError, match=r"no profile fits.*9 GPUs"):
        load(CPU, model="m", engine="sim")
    got = load(CPU, model="m", engine="mlx").settings
    assert (got.model, got.engine, got.engine_args, got.profile) == ("org/m", "mlx", (), None)


def test_what_is_in_no_manifest_is_left_alone_and_the_machine_not_looked_at(load: Load, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for flags in ({}, {"model": "org/m"}, {"model": "unknown"}, {"model": str(tmp_path)}, {"model": "m"}):
        found = resolution.load({"manifest": tmp_path / "models.yaml", **flags}, None, _never)
        assert found.settings.model == (str(tmp_path / "m") if flags.get("model") == "m" else flags.get("model"))
        assert not found.by_profile and not found.notes
    with pytest.raises(UsageError, match="--profile: the model 'org/m' is in no manifest"):
        load(model="org/m", profile="cpu")


def test_models_are_looked_for_below_a_folder(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("models/mine", "models/org/m", "models/here", "here"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("MODEL_BASE_PATH", "models")
    base = tmp_path / "models"
    assert load(model="mine").settings.model == str(base / "mine")
    assert load(model="m").settings.model == str(base / "org/m"), "of a manifest, too"
    assert load(model="here").settings.model == str(tmp_path / "here"), "the working directory first"
    assert load(model="org/other").settings.model == "org/other"
    assert load(model="./mine").settings.model == str(tmp_path / "mine")
    got = load(models={"a": "mine", "b": "m"}).settings.models
    assert (got["a"].path, got["b"].path) == (str(base / "mine"), str(base / "org/m"))
    assert applied({"model": "mine", "model_base_path": str(base)}, _never)["model"] == str(base / "mine")


def test_the_demo_by_its_name_is_the_demo(load: Load, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    got = load(model="demo").settings
    assert (got.model, got.served_names, got.engine_args) == (None, (), ())


def test_code_out_of_a_repository_is_said(load: Load) -> None:
    assert "runs code out of the model's repository" in load(model="odd").notes[0]


def test_models_of_a_cluster_that_has_several(load: Load) -> None:
    found = load(models={
        "a": "m", "b": {"path": "m", "profile": "gpu", "args": "--dtype bfloat16", "tensor_parallel_size": 4},
        "c": "org/c", "d": {"path": "m", "engine": "mlx"},
    })  # fmt: skip
    got = found.settings.models
    assert (got["a"].path, got["a"].engine, got["a"].cpu_kv_gib) == ("org/m", "vllm", 3.0)
    assert got["a"].args == ("--max-model-len", "4096", "--max-loras", "2", "--enforce-eager")
    assert (got["b"].path, got["b"].args, got["b"].tensor_parallel_size) == ("org/m-awq", ("--dtype", "bfloat16"), 4)
    assert (got["c"].path, got["d"].path, got["d"].engine) == ("org/c", "org/m", "mlx")
    assert set(found.chosen) == {"a", "b"}
    with pytest.raises(UsageError, match="profile cpu: 'org/c' is in no manifest"):
        load(models={"c": {"path": "org/c", "profile": "cpu"}, "a": "m"})


def test_a_model_that_is_loaded_later_is_named_in_the_same_way(load: Load, tmp_path: Path) -> None:
    (tmp_path / "base/org/odd").mkdir(parents=True)
    settings = load(model="org/other", model_base_path=tmp_path / "base").settings

    def named(given: Any) -> Any:
        return resolution.named(definition(given), settings, lambda: CPU)

    assert (named("m").path, named("m").cpu_kv_gib) == ("org/m", 3.0)
    assert named("odd").path == named("org/odd").path == str(tmp_path / "base/org/odd")
    assert named({"path": "m", "profile": "gpu"}).tensor_parallel_size == 2
    assert named({"path": "org/x", "engine": "auto"}).engine == "llamacpp", "no AVX2 there"
    assert named(named("m").to_json()) == named("m"), "what is stored stays as it is"
    assert resolution.named(definition("org/x"), settings, _never) == definition("org/x")
    with pytest.raises(UsageError, match="no profile fits"):
        named({"path": "m", "engine": "sim"})


def test_what_comes_out_stays_as_it_is(load: Load) -> None:
    got = load(model="m", models={"a": "m"}).settings
    kept = from_json(got.to_json())
    assert kept == got
    again, _ = resolution.define(kept.models["a"], {}, CPU)
    assert again == kept.models["a"]


def test_a_running_cluster_is_told_what_it_was_started_with(load: Load, tmp_path: Path) -> None:
    given = {"manifest": str(tmp_path / "models.yaml"), "model": "m", "engine_args": ["--seed", "1"]}
    started = load(**given).settings
    sent = applied(given, lambda: CPU)
    assert {name: getattr(started, name) for name in ("model", "profile", "cpu_kv_gib")} == {
        name: sent[name] for name in ("model", "profile", "cpu_kv_gib")
    }
    assert sent["engine_args"] == list(started.engine_args)
    assert applied({"model": "org/m", "queue_timeout": 1}, _never) == {"model": "org/m", "queue_timeout": 1}
    assert applied({"model": "m", "port": "x"}, _never) == {"model": "m", "port": "x"}, "refused where it is sent"
