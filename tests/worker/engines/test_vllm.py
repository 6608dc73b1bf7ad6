"""How vLLM is started, for each package, version and machine. Nothing of vLLM is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from config.errors import UsageError
from worker.engines import flags
from worker.engines.base import Command
from worker.engines.replay import note
from worker.engines.vllm import VllmEngine
from worker.spec import EngineLog, EngineSpec, Slot, WorkerEndpoint

SPEC = EngineSpec("vllm", "org/m", ("m", "alias"), max_lora_rank=32, max_loras=6, tensor_parallel_size=2)
ALL = "api_server_count disable_uvicorn_access_log enable_scale_out kv_cache_memory_bytes logging_config"
GIB = 1024**3


def _engine(cpu: bool = True, source: str = ALL) -> VllmEngine:
    """As if such a package were installed."""
    engine = VllmEngine()
    vars(engine).update(is_cpu_package=cpu, _arguments_source=source, version="0.1")
    return engine


def _command(
    *extra: str, cpu: bool = True, source: str = ALL, slot: Slot | None = None, environ: dict[str, str] | None = None
) -> Command:
    spec = replace(SPEC, extra_args=extra)
    return _engine(cpu, source).command(spec, WorkerEndpoint(20_001), "secret", slot or Slot(), environ or {})


@pytest.mark.parametrize("slot", [Slot(), Slot(gpus=(0,)), Slot(cores=((0,),))])
def test_a_worker_serves_lora_on_loopback_with_one_api_server(slot: Slot) -> None:
    argv = _command(slot=slot).argv
    for flag, values in {
        "--host": ["127.0.0.1"], "--port": ["20001"], "--served-model-name": ["m", "alias"], "--max-loras": ["6"],
        "--max-lora-rank": ["32"], "--tensor-parallel-size": ["2"], "--enable-lora": [], "--api-server-count": ["1"],
        "--disable-uvicorn-access-log": [], "--enable-scale-out": [],
    }.items():
        assert flags.values(argv, flag) == values


def test_the_cpu_package_is_started_by_its_module() -> None:
    entry = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "org/m"]
    assert list(_command(cpu=True).argv[:5]) == entry


def test_the_gpu_package_is_started_by_its_script_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert _command(cpu=False).argv[1] == "-m"
    (tmp_path / "vllm").write_text("")
    assert _command(cpu=False).argv[:3] == (str(tmp_path / "vllm"), "serve", "org/m")
    assert _command(cpu=True).argv[1] == "-m"


@pytest.mark.parametrize(
    "flag", ["--served-model-name", "--max-loras", "--max-lora-rank", "--tensor-parallel-size", "--api-server-count",
             "--kv-cache-memory-bytes"],
)  # fmt: skip
def test_what_the_user_gives_is_not_given_twice(flag: str) -> None:
    argv = _command(flag.replace("-", "_").replace("__", "--", 1), "9").argv
    assert argv.count(flag) == 0 and argv[-5] == "9"


def test_our_middleware_is_the_outermost() -> None:
    """vLLM puts each that is named around those before it: without the key nobody gets to anything else."""
    argv = _command("--middleware", "theirs.Middleware", "--middleware=other.one").argv
    ours = ("--middleware", "worker.engines.replay.middleware.Replay")
    assert argv[-4:] == (*ours, "--middleware", "worker.engines.key_guard.KeyGuard")
    assert argv[-7:-4] == ("--middleware", "theirs.Middleware", "--middleware=other.one")


def test_a_worker_finds_our_logits_processor_by_its_path_and_by_no_flag() -> None:
    """The flag would end the start of a classifier, and of a worker with speculative decoding; a user's own stays."""
    made = _command("--logits-processors", "theirs:Processor", environ={"PYTHONPATH": "/theirs"})
    assert flags.values(made.argv, "--logits-processors") == ["theirs:Processor"]
    ours, *others = made.env["PYTHONPATH"].split(":")
    (package,) = importlib.metadata.distributions(path=[ours])
    (point,) = package.entry_points.select(group="vllm.logits_processors")
    assert point.value == note.PROCESSOR and others == ["/theirs"]
    assert _command().env["PYTHONPATH"] == ours
    everywhere = importlib.metadata.entry_points(group="vllm.logits_processors")
    assert point.value not in {found.value for found in everywhere}, "no other engine of the environment loads it"


def test_lora_can_be_switched_off() -> None:
    assert "--enable-lora" not in _command("--no-enable-lora").argv


def test_a_worker_is_pinned_to_its_gpus_as_nvml_counts_them() -> None:
    env = _command(slot=Slot(gpus=(3, 1)), environ={"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "x"}).env
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("3,1", "PCI_BUS_ID")
    assert not {"VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE"} & set(env)


@pytest.mark.parametrize("share", [2, 3, 4, 7])
def test_workers_that_share_a_gpu_get_fractions_that_fit(share: int) -> None:
    argv = _command(slot=Slot(gpus=(0,), share=share)).argv
    (fraction,) = flags.values(argv, "--gpu-memory-utilization") or []
    assert 0.8 < float(fraction) * share <= 0.9


@pytest.mark.parametrize(("workers", "told"), [(1, "0.80"), (2, "0.40"), (3, "0.26")])
def test_workers_together_take_the_share_that_is_allowed(workers: int, told: str) -> None:
    engine, slot = _engine(False, ALL), Slot(gpus=(0,), share=workers)
    argv = engine.command(replace(SPEC, gpu_memory=0.8), WorkerEndpoint(1), "secret", slot, {}).argv
    assert flags.values(argv, "--gpu-memory-utilization") == [told]
    slot = Slot(cores=((0,),))
    argv = engine.command(replace(SPEC, gpu_memory=0.8), WorkerEndpoint(1), "secret", slot, {}).argv
    assert not flags.has(argv, "--gpu-memory-utilization")


def _logged(log: EngineLog, source: str = ALL, **environ: str) -> Command:
    return _engine(source=source).command(replace(SPEC, log=log), WorkerEndpoint(1), "secret", Slot(), environ)


def test_the_log_is_vllms_own_unless_somebody_says_otherwise() -> None:
    made = _logged(EngineLog(), VLLM_LOGGING_LEVEL="WARNING", VLLM_MXEXT_LOG_LEVEL="DEBUG")
    assert not any(flag.startswith("--logging-config") for flag in made.argv)
    assert {name: value for name, value in made.env.items() if "LOG" in name} == {"VLLM_LOGGING_LEVEL": "WARNING"}


def test_how_a_worker_logs_is_told_by_vllms_own_variables_and_flag() -> None:
    made = _logged(EngineLog(set_up=False, level="debug"), VLLM_LOGGING_LEVEL="WARNING")
    assert (made.env["VLLM_CONFIGURE_LOGGING"], made.env["VLLM_LOGGING_LEVEL"]) == ("0", "DEBUG")
    made = _logged(EngineLog(config="/x.json", json=True))
    assert made.env["VLLM_LOGGING_CONFIG_PATH"] == "/x.json"
    assert flags.values(made.argv, "--logging-config.formatter") == ["json"] and not made.notes
    older = _logged(EngineLog(json=True), ALL.replace("logging_config", ""))
    assert not any(flag.startswith("--logging-config") for flag in older.argv)
    (note,) = older.notes
    assert note == "vLLM 0.1 (0.32 is tested) has no --logging-config.formatter: its log stays lines for people"


def test_one_alone_on_its_gpu_gets_what_vllm_thinks_best() -> None:
    assert not flags.has(_command(slot=Slot(gpus=(0,))).argv, "--gpu-memory-utilization")


def test_a_fraction_that_the_user_gives_holds() -> None:
    argv = _command("--gpu-memory-utilization", "0.2", slot=Slot(gpus=(0,), share=2)).argv
    assert argv.count("--gpu-memory-utilization") == 1


def test_without_gpus_a_worker_is_bound_to_its_cores() -> None:
    env = _command(slot=Slot(cores=((0, 1), (2, 3)))).env
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "0,1|2,3" and "OMP_NUM_THREADS" not in env


def test_more_workers_than_cores_are_not_bound_and_have_one_thread() -> None:
    env = _command().env
    assert (env["VLLM_CPU_OMP_THREADS_BIND"], env["OMP_NUM_THREADS"]) == ("nobind", "1")


def test_the_kv_cache_of_a_cpu_worker_has_an_explicit_size() -> None:
    assert flags.values(_command().argv, "--kv-cache-memory-bytes") == [str(GIB)]
    old = _command(source="api_server_count")
    assert not flags.has(old.argv, "--kv-cache-memory-bytes")
    assert old.env["VLLM_CPU_KVCACHE_SPACE"] == "1"


@pytest.mark.parametrize(
    "flag", ["--api-server-count", "--disable-uvicorn-access-log", "--enable-scale-out", "--kv-cache-memory-bytes"]
)
def test_what_an_older_version_lacks_is_left_away_with_one_line(flag: str) -> None:
    command = _command(source=ALL.replace(flag[2:].replace("-", "_"), ""))
    assert not flags.has(command.argv, flag)
    (note,) = command.notes
    assert note.startswith(f"vLLM 0.1 (0.32 is tested) has no {flag}: ") and _command().notes == ()


def test_the_environment_keeps_strangers_and_shadows_out() -> None:
    environ = {"OTHER": "x", "VLLM_API_KEY": "theirs", "VLLM_NO_USAGE_STATS": "0", "PYTHONSAFEPATH": ""}
    command = _command(environ=environ)
    env = command.env
    assert (env["OTHER"], env["VLLM_API_KEY"], env["PYTHONSAFEPATH"]) == ("x", "secret", "1")
    assert env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert env["VLLM_NO_USAGE_STATS"] == "0"  # a wish of the user's
    assert "secret" not in " ".join(command.argv) and environ["VLLM_API_KEY"] == "theirs"


def test_a_local_model_asks_no_hub(tmp_path: Path) -> None:
    def offline(model: str, **environ: str) -> str | None:
        command = _engine().command(replace(SPEC, model=model), WorkerEndpoint(1), "k", Slot(), environ)
        return command.env.get("HF_HUB_OFFLINE")

    assert offline(str(tmp_path)) == "1"
    assert offline(str(tmp_path), HF_HUB_OFFLINE="0") == "0"
    assert offline("org/m") is None


def test_memory_is_for_process_cache_and_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    estimate = VllmEngine().memory_estimate
    assert estimate(replace(SPEC, model=str(tmp_path))) - estimate(SPEC) == 1000
    assert estimate(replace(SPEC, cpu_kv_gib=2.5)) - estimate(SPEC) == 3 * GIB // 2


def test_an_engine_that_is_not_installed_names_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'clusterctl\[gpu\]'"):
        VllmEngine().check()
    assert all(word in VllmEngine()._arguments_source for word in ALL.split())


@pytest.mark.parametrize(
    ("installed", "cpu", "version"),
    [({"vllm": "0.33"}, False, "0.33"), ({"vllm-cpu": "0.32"}, True, "0.32"), ({}, True, "of unknown version")],
)
def test_the_package_tells_its_kind_and_version(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], cpu: bool, version: str
) -> None:
    def look_up(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", look_up)
    assert (VllmEngine().is_cpu_package, VllmEngine().version) == (cpu, version)


@pytest.mark.parametrize(("given", "environ", "told"), [
    ((), {}, "1"), (("--no-enable-lora",), {}, "1"), (("--enforce-eager",), {}, "1"), (("-O1",), {}, None),
    (("--no-enforce-eager",), {}, None), ((), {"TORCH_COMPILE_DISABLE": "0"}, "0"),
])  # fmt: skip
def test_on_a_processor_nothing_is_compiled_unless_somebody_asks_for_it(
    given: tuple[str, ...], environ: dict[str, str], told: str | None
) -> None:
    made = replace(SPEC, extra_args=given)
    command = VllmEngine().command(made, WorkerEndpoint(9001), "key", Slot(cores=((0,),)), environ)
    assert command.env.get("TORCH_COMPILE_DISABLE") == told
    on_gpu = VllmEngine().command(made, WorkerEndpoint(9001), "key", Slot(gpus=(0,)), {})
    assert "TORCH_COMPILE_DISABLE" not in on_gpu.env


def test_what_torch_compiles_is_found_by_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def told(**environ: str) -> str | None:
        slot, endpoint = Slot(gpus=(0,)), WorkerEndpoint(9001)
        return VllmEngine().command(SPEC, endpoint, "key", slot, environ).env.get("TORCHINDUCTOR_CACHE_DIR")

    first = told()
    assert first and Path(first).parent == tmp_path and told() == first
    assert told(TORCHINDUCTOR_CACHE_DIR="/x") == "/x"
    Path(first).chmod(0o777)
    assert told() is None, "it is code, and would be anybody's"
