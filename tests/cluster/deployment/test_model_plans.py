"""Each of several models has a plan of its own, and what does not fit is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.deployment import model_plans, plan
from cluster.fleet.placement import Machine
from config.errors import UsageError
from config.models import definition, definitions
from config.settings import load
from worker.demo import MODEL_NAME, adapters, model_path
from worker.engines.vllm import VllmEngine

GIB = 1024**3
CPU = Machine((), (0, 1, 2, 3), 24 * GIB)
GPUS = Machine(((0, "0: H200 141 GiB"), (1, "1: H200 141 GiB")), (0, 1), 24 * GIB)
_ADAPTER = str(next(iter(adapters().values())))


@pytest.fixture(autouse=True)
def _an_installed_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VllmEngine, "check", lambda self: None)


def _make(machine: Machine = CPU, flags: dict[str, Any] | None = None, **model: Any) -> plan.Plan:
    settings = load({"engine": "sim", **(flags or {})})
    return model_plans.make_group(settings, "a", definition({"path": "org/a", **model}), machine)


def test_what_a_model_says_holds_for_its_workers_and_the_rest_is_the_clusters() -> None:
    made = _make(
        flags={"drain_timeout": 7, "model": "org/other", "max_instances": 9, "engine_args": ["--x"]},
        instances=2, max=4, args="--max-loras 3", cpu_kv_gib=2, served_names="a2", startup_timeout=5,
    )  # fmt: skip
    assert (made.group, made.spec.model, made.spec.served_names) == ("a", "org/a", ("a", "a2"))
    assert (made.spec.extra_args, made.spec.max_loras, made.spec.cpu_kv_gib) == (("--max-loras", "3"), 3, 2)
    assert (made.placement.planned, made.least, made.most) == (2, 1, 4)
    assert (made.settings.drain_timeout, made.settings.startup_timeout) == (7, 5)


@pytest.mark.parametrize(
    ("model", "cluster", "mode"),
    [({}, "on", "off"), ({"max": 2}, "off", "on"), ({"min": 1}, "on", "on"), ({"max": 2}, "advise", "advise")],
)
def test_a_model_is_scaled_where_it_says_between_what(model: dict[str, Any], cluster: str, mode: str) -> None:
    assert _make(flags={"autoscale": cluster}, **model).settings.autoscale == mode


def test_the_demo_can_be_one_of_several_without_its_adapters() -> None:
    spec = _make(path=MODEL_NAME).spec
    assert (spec.model, spec.dtype, spec.served_names, spec.adapters) == (str(model_path()), "float32", ("a",), {})
    assert _make(path=MODEL_NAME, adapters={"mine": _ADAPTER}).spec.adapters == {"mine": _ADAPTER}


@pytest.mark.parametrize(
    ("model", "sleeps"),
    [
        ({}, False), ({"args": "--enable-sleep-mode"}, True), ({"engine": "vllm", "args": "--enable-sleep-mode"}, True),
        ({"engine": "mlx", "args": "--enable-sleep-mode"}, False),
    ],
)  # fmt: skip
def test_a_model_sleeps_where_its_flags_say_so_and_its_engine_can(model: dict[str, Any], sleeps: bool) -> None:
    assert _make(GPUS, **model).can_sleep == sleeps


@pytest.mark.parametrize(
    ("machine", "model", "says"),
    [
        (CPU, {"engine": "vlm"}, "model a: unknown engine 'vlm' (did you mean 'vllm'?)"),
        (CPU, {"path": "/none/such"}, "model a: path /none/such: no such file or folder"),
        (CPU, {"args": "--served-model-name b"}, "model a: args: --served-model-name is the model's name"),
        (CPU, {"engine": "vllm", "instances": 9}, "instances 6 would fit"),
        (CPU, {"engine": "vllm", "cpu_kv_gib": 90}, "a smaller cpu_kv_gib, or a smaller model, would fit"),
        (CPU, {"engine": "vllm", "args": "--enable-sleep-mode"}, "engine vllm sleeps on GPUs only"),
        (CPU, {"gpus": "0"}, "model a: gpus: engine sim can use no GPU here"),
        (GPUS, {"engine": "vllm", "gpus": "7"}, "model a: gpus 7: there is no such GPU"),
        (GPUS, {"engine": "vllm", "instances": 3}, "model a: not enough GPUs: 3 instances"),
        (CPU, {"adapters": {"x": "/none"}}, "model a: lora x: no folder /none"),
        (
            CPU, {"path": MODEL_NAME, "engine": "vllm", "args": "--no-enable-lora",
                  "adapters": {"x": _ADAPTER}}, "take no adapters",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_a_line_that_names_the_model(
    machine: Machine, model: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as error:
        _make(machine, **model)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_model_whose_files_are_gone_is_known_with_why() -> None:
    settings = load({"engine": "sim"})
    models = definitions({"a": "/none", "b": "org/b", "c": {"path": "x", "engine": "gone"}})
    made = {one.group: one for one in model_plans.make_all(settings, models, strict=False)}
    assert "no such file" in made["a"].broken and "unknown engine" in made["c"].broken and not made["b"].broken
    assert made["a"].spec.served_names == ("a",) and made["a"].definition == models["a"]
    with pytest.raises(UsageError):
        model_plans.make_all(settings, models)


@pytest.mark.parametrize(
    ("flags", "crowd"),
    [
        ({}, 0), ({"models": {"a": {"path": "x", "instances": 2}, "b": "y"}}, 3),
        ({"models": {"a": {"path": "x", "instances": 2}, "b": "y"}, "max_concurrent_models": 1}, 2),
        ({"models": {"a": {"path": "x", "instances": 2}, "b": "y"}, "model": "m", "max_concurrent_models": 2}, 3),
    ],
)  # fmt: skip
def test_so_many_workers_may_be_up_at_the_same_time(flags: dict[str, Any], crowd: int) -> None:
    assert plan.make(load({"engine": "sim", **flags}), CPU).placement.crowd == crowd


def test_a_cluster_of_models_alone_has_no_workers_beside_them(tmp_path: Path) -> None:
    made = plan.make(load({"engine": "vllm", "models": {"a": "x"}, "state_dir": str(tmp_path)}), CPU)
    assert (made.placement.planned, made.spec.adapters, made.least) == (0, {}, 0)
