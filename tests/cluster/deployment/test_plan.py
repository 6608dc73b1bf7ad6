"""Everything that can be wrong with a set-up is found before anything starts."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from certificates import issue
from cluster.deployment import extras, plan
from cluster.fleet.placement import Machine
from config import tls
from config.errors import UsageError
from config.settings import load
from worker import engine_spec
from worker.demo import ADAPTERS, MODEL_NAME, model_path
from worker.engines import base
from worker.engines.vllm import VllmEngine
from worker.spec import EngineLog, Slot

GIB = 1024**3
CPU = Machine((), (0, 1, 2, 3), 24 * GIB)
GPUS = Machine(((0, "0: H200 141 GiB"), (1, "1: H200 141 GiB")), (0, 1), 24 * GIB)


@pytest.fixture(autouse=True)
def _an_installed_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VllmEngine, "check", lambda self: None)


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return str(tmp_path / "model")


def _adapter(folder: Path, config: str = '{"r": 8}') -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(config)
    return folder


def _plan(machine: Machine = CPU, **flags: Any) -> plan.Plan:
    return plan.make(load({"engine": "sim", **flags}), machine)


def _refusal(machine: Machine = CPU, **flags: Any) -> UsageError:
    with pytest.raises(UsageError) as error:
        _plan(machine, **flags)
    assert "\n" not in str(error.value)
    return error.value


def test_without_a_model_the_demo_is_served_with_its_adapters() -> None:
    spec = _plan().spec
    assert (spec.model, spec.served_names) == (str(model_path()), (MODEL_NAME,))
    assert (*spec.served_names, *spec.adapters) == (MODEL_NAME, *ADAPTERS)
    assert all((Path(path) / "adapter_config.json").is_file() for path in spec.adapters.values())


def test_workers_may_be_kept_to_some_of_the_cores_and_of_a_gpus_memory() -> None:
    assert [_plan(max_cpu_threads=most).placement.slot(0).cores for most in (None, 2, 9)] == [
        ((0, 1, 2, 3),), ((0, 1),), ((0, 1, 2, 3),),
    ]  # fmt: skip
    assert (_plan().spec.gpu_memory, _plan(max_gpu_memory="80%").spec.gpu_memory) == (None, 0.8)


def test_how_workers_log_is_checked_before_one_starts(tmp_path: Path) -> None:
    assert _plan().spec.log == EngineLog()
    file = tmp_path / "log.json"
    file.write_text('{"version": 1}')
    spec = _plan(worker_log_config=file, worker_log_level="warning", worker_log_format="json").spec
    assert spec.log == EngineLog(True, str(file), "warning", True)
    for text, said in (("{", "Expecting"), ("[]", "a JSON object is needed"), ("", "Expecting value")):
        file.write_text(text)
        assert str(_refusal(worker_log_config=file)).startswith(f"worker_log_config {file}: {said}")
    file.unlink()
    assert "No such file" in str(_refusal(worker_log_config=file))


def test_a_model_may_be_called_otherwise(model: str) -> None:
    assert _plan(model=model).spec.served_names == (model,)
    assert _plan(model=model, served_names=["a", "b"]).spec.served_names == ("a", "b")
    named = _plan(model=model, served_names="a", engine_args=["--served-model-name", "c"])
    assert named.spec.served_names == ("c",)


def test_the_demos_adapters_are_joined_by_those_given(tmp_path: Path) -> None:
    mine = _adapter(tmp_path / "mine")
    adapters = _plan(lora=[f"mine={mine}", f"poet={mine}"]).spec.adapters
    assert set(adapters) == {*ADAPTERS, "mine"} and adapters["poet"] == str(mine)


@pytest.mark.parametrize("hub_id", ["org/model", "gpt2"])
def test_a_hub_id_goes_to_the_engine_as_it_is(hub_id: str) -> None:
    spec = _plan(model=hub_id).spec
    assert (spec.model, spec.served_names, spec.adapters) == (hub_id, (hub_id,), {})


def test_a_model_is_a_folder_with_a_configuration_or_a_gguf_file(model: str, tmp_path: Path) -> None:
    assert _plan(model=model).spec.model == model
    (tmp_path / "m.gguf").write_text("")
    assert _plan(model=str(tmp_path / "m.gguf")).spec.model.endswith("m.gguf")


@pytest.mark.parametrize("path", ["/no/such", "./no", "../no", "~/no/such", "~no_such_user/x", "./" + "x" * 300])
def test_a_model_path_that_does_not_exist_is_named(path: str) -> None:
    said = str(_refusal(model=path))
    assert re.match(rf"--model(: ~| /.*){re.escape(path.lstrip('./~'))}: ", said), said


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    assert "holds no model" in str(_refusal(model=str(tmp_path)))
    (tmp_path / "file").write_text("")
    assert "holds no model" in str(_refusal(model=str(tmp_path / "file")))


@pytest.mark.parametrize("path", ["/no/such", "x" * 300, "~no_such_user/x"])
def test_an_adapter_folder_that_is_missing_is_named(path: str) -> None:
    assert re.match(r"--lora( mine|: mine): ", str(_refusal(lora=[f"mine={path}"])))


@pytest.mark.parametrize("config", ["", "{", "[]", "{}", '{"r": "x"}', '{"r": null}', '{"r": Infinity}', '{"r": [8]}'])
def test_a_folder_that_is_no_adapter_is_named(tmp_path: Path, config: str) -> None:
    folder = _adapter(tmp_path / "a", config)
    assert str(_refusal(lora=[f"mine={folder}"])).startswith("--lora mine: ")


def test_a_folder_without_an_adapters_configuration_says_so(tmp_path: Path) -> None:
    assert "no adapter_config.json" in str(_refusal(lora=[f"mine={tmp_path}"]))


@pytest.mark.parametrize("args", [(), ("--served-model-name", "other", "mine")])
def test_an_adapter_cannot_be_called_like_the_model(tmp_path: Path, args: tuple[str, ...]) -> None:
    name = "mine" if args else MODEL_NAME
    error = _refusal(lora=[f"{name}={_adapter(tmp_path / 'a')}"], engine_args=args)
    assert "name of the model itself" in str(error) and error.exit_code == 2


def test_the_name_the_engine_is_given_is_the_models_name() -> None:
    assert _plan(engine_args=["--served-model-name", "a", "b"]).spec.served_names == ("a", "b")


@pytest.mark.parametrize(("rank", "accepted"), [(1, 1), (2, 8), (8, 8), (17, 32), (300, 320), (512, 512)])
def test_the_rank_is_rounded_up_to_one_that_vllm_takes(rank: int, accepted: int) -> None:
    assert engine_spec.accepted_rank(rank) == accepted


def test_the_highest_rank_of_all_adapters_is_made_room_for(tmp_path: Path, model: str) -> None:
    low, high = _adapter(tmp_path / "l", '{"r": 4}'), _adapter(tmp_path / "h", '{"r": 100}')
    assert _plan(model=model, lora=[f"l={low}"]).spec.max_lora_rank == 16
    assert _plan(model=model, lora=[f"l={low}", f"h={high}"]).spec.max_lora_rank == 128
    assert _plan(model=model, lora=[f"h={high}"], engine_args=["--max-lora-rank", "64"]).spec.max_lora_rank == 64


def test_a_rank_that_vllm_cannot_take_is_refused(tmp_path: Path) -> None:
    assert "513" in str(_refusal(lora=[f"a={_adapter(tmp_path / 'a', json.dumps({'r': 513}))}"]))


@pytest.mark.parametrize(("adapters", "slots"), [(1, 4), (5, 5), (20, 16)])
def test_there_is_a_slot_for_each_adapter_within_bounds(tmp_path: Path, model: str, adapters: int, slots: int) -> None:
    folder = _adapter(tmp_path / "a")
    assert _plan(model=model, lora=[f"a{n}={folder}" for n in range(adapters)]).spec.max_loras == slots


def test_the_adapters_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _adapter(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert _plan(lora=["mine=a"]).spec.adapters["mine"] == str(tmp_path / "a")


def test_parallel_sizes_are_read_from_the_engines_flags_too() -> None:
    args = ["--pipeline-parallel-size", "2"]
    assert _plan(GPUS, engine="vllm", engine_args=args).placement.ranks == 2
    assert _plan(GPUS, engine="vllm", engine_args=["-tp", "2"]).placement.slot(0).gpus == (0, 1)
    assert _plan(GPUS, engine="vllm", tensor_parallel_size=2).spec.tensor_parallel_size == 2
    assert "need 4" in str(_refusal(GPUS, engine="vllm", tensor_parallel_size=2, engine_args=args))


def test_two_different_parallel_sizes_are_a_contradiction() -> None:
    error = _refusal(GPUS, engine="vllm", tensor_parallel_size=2, engine_args=["-tp", "4"])
    assert error.exit_code == 2 and "which?" in str(error)


@pytest.mark.parametrize("flags", [{"instances": 3}, {"max_instances": 3}, {"gpus": "1", "instances": 2}])
def test_too_few_gpus_are_an_error_before_anything_starts(flags: dict[str, Any]) -> None:
    assert "not enough GPUs" in str(_refusal(GPUS, engine="vllm", **flags))


def test_only_the_gpus_named_are_used() -> None:
    placement = _plan(GPUS, engine="vllm", gpus="1").placement
    assert (placement.capacity, placement.slot(0).gpus) == (1, (1,))
    assert "no such GPU" in str(_refusal(GPUS, engine="vllm", gpus="5"))


@pytest.mark.parametrize(("machine", "engine"), [(CPU, "vllm"), (GPUS, "sim")])
def test_gpus_that_cannot_be_used_are_refused(machine: Machine, engine: str) -> None:
    assert str(_refusal(machine, engine=engine, gpus="0")).startswith("--gpus: ")


def test_a_worker_can_share_a_gpu_if_asked() -> None:
    assert _plan(GPUS, engine="vllm", instances=4, instances_per_gpu=2).most == 4


def test_the_bounds_of_scaling_are_what_was_set_or_what_fits() -> None:
    assert (_plan(GPUS, engine="vllm").least, _plan(GPUS, engine="vllm").most) == (1, 2)
    assert (_plan().least, _plan().most) == (1, 16)
    assert (_plan(instances=20).most, _plan(max_instances=3).most) == (20, 3)
    assert _plan(instances=0, backend=["http://a"]).least == 0
    assert _plan(instances=2, min_instances=0).least == 0


def test_an_unknown_engine_names_the_known() -> None:
    error = _refusal(engine="vlm")
    assert error.exit_code == 2
    assert str(error) == f"unknown engine 'vlm' (did you mean 'vllm'?); known: {', '.join(base.names())}"


def test_a_cluster_of_attached_backends_needs_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: VllmEngine) -> None:
        raise UsageError("not installed")

    monkeypatch.setattr(VllmEngine, "check", missing)
    assert "not installed" in str(_refusal(engine="vllm"))
    assert _plan(engine="vllm", instances=0, backend=["http://a"]).settings.instances == 0


def test_traces_without_the_extra_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load({"engine": "sim", "otlp_endpoint": "http://127.0.0.1:4318"})
    assert plan.make(settings).settings.otlp_endpoint

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(extras, "find_spec", missing)
    with pytest.raises(UsageError, match=r"clusterctl\[otel\]"):
        plan.make(settings)
    assert plan.make(load({"engine": "sim"}))


def test_a_store_of_limits_without_the_extra_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load({"engine": "sim", "limits_store": "redis://:secret@127.0.0.1"})
    assert plan.make(settings).settings.limits_store
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"clusterctl\[redis\]") as refused:
        plan.make(settings)
    assert "secret" not in str(refused.value)


def test_grpc_without_the_extra_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load({"engine": "sim", "grpc_port": 9000})
    assert plan.make(settings).settings.grpc_port == 9000
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "grpc_health" else object())
    with pytest.raises(UsageError, match=r"clusterctl\[grpc\]") as refused:
        plan.make(settings)
    assert "\n" not in str(refused.value)


def test_without_workers_there_are_no_adapters_of_the_demo() -> None:
    assert not _plan(instances=0, min_instances=0, backend=["http://127.0.0.1:1"]).spec.adapters


def test_a_certificate_is_checked_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served, other = issue(tmp_path / "a"), issue(tmp_path / "b", "other")
    state = tmp_path / "state"
    state.mkdir()

    def make(key: Path) -> None:
        plan.make(load({"engine": "sim", "state_dir": state, "tls_cert": served.cert, "tls_key": key}))

    make(served.key)
    with pytest.raises(UsageError, match="not the key of"):
        make(other.key)
    found = tls.load(served.files)
    tls.keep(state / "tls.json", served.files, found)
    with pytest.raises(UsageError, match="not the key of"):
        make(other.key)  # these were never served
    monkeypatch.setattr(time, "time", lambda: found.expires + 1)
    make(served.key)  # a cluster that runs, or was killed, has to come up again, whatever the date
    (state / "tls.json").unlink()
    with pytest.raises(UsageError, match="it has expired"):
        make(served.key)


def test_an_engine_that_takes_no_adapters_is_given_none() -> None:
    made = _plan(engine="transformers")
    assert made.spec.adapters == {} and made.no_lora == "engine transformers takes no adapters"
    assert _plan().no_lora == "" and "--no-enable-lora" in _plan(engine_args=["--no-enable-lora"]).no_lora


def test_workers_in_pods_have_the_gpus_of_their_pods(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setitem(vars(base.load("vllm")), "is_cpu_package", False)  # which it remembers, once it was asked
    flags = {"engine": "vllm", "model": model, "driver": "kubernetes", "instances": 40, "tensor_parallel_size": 2}
    made = _plan(**flags)
    assert made.placement.slot(39) == Slot(gpus=(0, 1)) and made.most == 1024
    assert "--gpus" in str(_refusal(**flags, gpus="0"))
    assert "--instances-per-gpu" in str(_refusal(**flags, instances_per_gpu=2))
    monkeypatch.setitem(vars(base.load("vllm")), "is_cpu_package", True)
    assert _plan(**flags).placement.slot(39) == Slot()
