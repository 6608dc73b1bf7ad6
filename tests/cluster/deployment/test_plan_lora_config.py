"""`--lora-config` and the environment's limits, down to what the workers are started with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.deployment import plan
from cluster.fleet.placement import Machine
from config.errors import UsageError
from config.lora_config import ENVIRONMENT
from config.settings import load
from worker.demo import ADAPTERS, MODEL_NAME

CPU = Machine((), (0, 1, 2, 3), 24 * 1024**3)


@pytest.fixture(autouse=True)
def _nobody_has_set_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, _ in ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return str(tmp_path / "model")


def adapter(folder: Path, rank: int = 8) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return str(folder)


def file(folder: Path, data: Any, name: str = "lora.yaml") -> Path:
    path = folder / name
    path.write_text(json.dumps(data))  # JSON is YAML
    return path


def made(config: Path, **flags: Any) -> plan.Plan:
    return plan.make(load({"engine": "sim", "lora_config": config, **flags}), CPU)


def listed(tmp_path: Path, *names: str, **sections: Any) -> Path:
    adapters = [{"name": name, "path": adapter(tmp_path / name)} for name in names]
    return file(tmp_path, {"lora_adapters": adapters, **sections})


def test_a_yaml_file_gives_model_name_adapters_and_limits(tmp_path: Path, model: str) -> None:
    path = tmp_path / "lora.yaml"
    path.write_text(
        f"base_model: {{model_path: {model}, model_name: nice}}\n"
        f"lora_adapters:\n"
        f"  - {{name: one, path: {adapter(tmp_path / 'one')}, format: peft, description: the first}}\n"
        f"  - {{name: two, path: {adapter(tmp_path / 'two')}}}\n"
        f"lora_settings: {{max_lora_rank: 64, max_loras: 3, enable_dynamic_loading: false, cache_size: 12}}\n"
        f"auto_load: [two]\n"
    )
    found = made(path)
    spec = found.spec
    assert (spec.model, spec.served_names) == (model, ("nice",))
    assert spec.adapters == {"one": str(tmp_path / "one"), "two": str(tmp_path / "two")}
    assert (spec.max_lora_rank, spec.max_loras, spec.max_cpu_loras) == (64, 3, 12)
    assert (spec.lazy, spec.descriptions) == (frozenset({"one"}), {"one": "the first"})
    assert (found.adapter_cap, found.dynamic_loading) == (12, False)


def test_a_json_file_gives_adapters_that_are_all_loaded(tmp_path: Path, model: str) -> None:
    config = file(tmp_path, {"expert-a": adapter(tmp_path / "a"), "expert-b": adapter(tmp_path / "b")}, "paths.json")
    found = made(config, model=model)
    assert list(found.spec.adapters) == ["expert-a", "expert-b"]
    assert (found.spec.lazy, found.dynamic_loading) == (frozenset(), True)


def test_without_auto_load_all_are_loaded_and_with_an_empty_one_none(tmp_path: Path, model: str) -> None:
    assert made(listed(tmp_path, "one"), model=model).spec.lazy == frozenset()
    (tmp_path / "other").mkdir()
    assert made(listed(tmp_path / "other", "two", auto_load=[]), model=model).spec.lazy == {"two"}


def test_without_a_model_the_demos_adapters_join_the_files(tmp_path: Path) -> None:
    spec = made(listed(tmp_path, "mine")).spec
    assert spec.served_names == (MODEL_NAME,)
    assert set(spec.adapters) == {*ADAPTERS, "mine"}


def test_a_flag_wins_over_the_file_for_the_same_name(tmp_path: Path, model: str) -> None:
    mine = adapter(tmp_path / "mine")
    spec = made(listed(tmp_path, "one", "two"), model=model, lora={"one": mine}).spec
    assert spec.adapters == {"one": mine, "two": str(tmp_path / "two")}


def test_a_model_given_by_flag_goes_by_its_own_name(tmp_path: Path, model: str) -> None:
    base = {"model_path": str(tmp_path / "nowhere"), "model_name": "nice"}
    spec = made(listed(tmp_path, "one", base_model=base), model=model).spec
    assert (spec.model, spec.served_names) == (model, (model,))


def test_a_served_name_given_to_the_engine_wins(tmp_path: Path, model: str) -> None:
    base = {"model_path": model, "model_name": "nice"}
    config = listed(tmp_path, "one", base_model=base)
    assert made(config, engine_args=("--served-model-name", "a", "b")).spec.served_names == ("a", "b")


def test_an_adapter_named_as_the_served_model_is_refused(tmp_path: Path, model: str) -> None:
    config = listed(tmp_path, "nice", base_model={"model_path": model, "model_name": "nice"})
    with pytest.raises(UsageError, match="the name of the model itself"):
        made(config)


@pytest.mark.parametrize(
    ("asked", "accepted"), [(1, 1), (2, 8), (8, 8), (9, 16), (20, 32), (65, 128), (200, 256), (257, 320), (512, 512)]
)
def test_a_rank_is_rounded_up_to_one_that_vllm_takes(tmp_path: Path, model: str, asked: int, accepted: int) -> None:
    config = listed(tmp_path, "one", lora_settings={"max_lora_rank": asked})
    assert made(config, model=model).spec.max_lora_rank == accepted


def test_a_rank_that_vllm_cannot_take_is_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(UsageError, match="513"):
        made(listed(tmp_path, "one", lora_settings={"max_lora_rank": 513}), model=model)


def test_without_a_limit_the_rank_is_the_adapters_highest(tmp_path: Path, model: str) -> None:
    config = file(tmp_path, {"a": adapter(tmp_path / "a", 24), "b": adapter(tmp_path / "b", 8)}, "p.json")
    assert made(config, model=model).spec.max_lora_rank == 32


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"VLLM_MAX_LORA_RANK": "20"}, (32, 3, 12)),
        ({"VLLM_MAX_LORAS": "5"}, (64, 5, 12)),
        ({"MIM_MAX_GPU_LORAS": "6"}, (64, 6, 12)),
        ({"MIM_MAX_GPU_LORAS": "6", "VLLM_MAX_LORAS": "5"}, (64, 5, 12)),
        ({"MIM_MAX_CPU_LORAS": "7"}, (64, 3, 7)),
        ({"MIM_MAX_CPU_LORAS": "2"}, (64, 3, 3)),
        ({"VLLM_MAX_LORAS": "20"}, (64, 20, 20)),
    ],
)
def test_the_environment_wins_over_the_file(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[int, ...]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = made(
        listed(tmp_path, "one", lora_settings={"max_lora_rank": 64, "max_loras": 3, "cache_size": 12}), model=model
    )
    assert (found.spec.max_lora_rank, found.spec.max_loras, found.spec.max_cpu_loras) == expected
    assert found.adapter_cap == expected[2]


def test_the_environment_counts_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MAX_LORA_RANK", "100")
    monkeypatch.setenv("MIM_MAX_CPU_LORAS", "9")
    found = plan.make(load({"engine": "sim"}), CPU)
    assert (found.spec.max_lora_rank, found.adapter_cap) == (128, 9)


@pytest.mark.parametrize("value", ["0", "-1", "many", " ", "1.5"])
def test_an_environment_that_is_no_number_is_refused(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("VLLM_MAX_LORAS", value)
    with pytest.raises(UsageError, match="VLLM_MAX_LORAS") as error:
        made(listed(tmp_path, "one"), model=model)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("flag", "field", "value"),
    [
        ("--max-lora-rank", "max_lora_rank", 16), ("--max-loras", "max_loras", 2),
        ("--max-cpu-loras", "max_cpu_loras", 5),
    ],
)  # fmt: skip
def test_what_is_given_to_the_engine_itself_wins_over_all(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, flag: str, field: str, value: int
) -> None:
    for variable, _ in ENVIRONMENT:
        monkeypatch.setenv(variable, "30")
    found = made(listed(tmp_path, "one"), model=model, engine_args=(flag, str(value)))
    assert getattr(found.spec, field) == value


def test_adapters_that_came_with_the_engines_flags_are_foreign(tmp_path: Path, model: str) -> None:
    found = made(listed(tmp_path, "one"), model=model, engine_args=("--lora-modules", "x=/x", "y=/y"))
    assert found.foreign_adapters == {"x", "y"}


def test_an_adapter_whose_folder_is_none_is_refused_by_name(tmp_path: Path, model: str) -> None:
    config = file(tmp_path, {"gone": str(tmp_path / "nowhere")}, "p.json")
    with pytest.raises(UsageError, match="gone"):
        made(config, model=model)
