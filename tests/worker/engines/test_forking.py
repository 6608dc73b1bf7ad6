from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from worker.engines import base, forking, key_guard
from worker.spec import EngineSpec, Fork, Slot, WorkerEndpoint

_SPEC = EngineSpec("vllm", "/none", ("demo",))
_ENVIRON = {"PATH": "/bin", "TERM": "xterm", "PWD": "/here", "HF_HOME": "/there"}


def _fork(spec: EngineSpec = _SPEC, slot: Slot | None = None, version: str = "0.32.0", **env: str) -> Fork | str:
    command = base.load("vllm").command(spec, WorkerEndpoint(9), "s3cret", slot or Slot(), {**_ENVIRON, **env})
    args = command.argv[command.argv.index("--host") :]
    return forking.of_vllm(spec, slot or Slot(), args, command.env, version)


def test_what_our_own_flags_start_is_forked_in_an_environment_without_what_is_a_workers_own() -> None:
    fork = _fork()
    assert isinstance(fork, Fork) and fork.module == "worker.zygote.engines.vllm" and not fork.unless_asked
    kept = dict(fork.environment)
    assert kept["OMP_NUM_THREADS"] == "1" and kept["HF_HOME"] == "/there" and kept["PYTHONSAFEPATH"] == "1"
    assert key_guard.KEY not in kept and "TERM" not in kept and "s3cret" not in repr(fork.environment)


def test_workers_of_one_cluster_have_one_zygote_wherever_they_are_bound_and_whoever_starts_it() -> None:
    assert _fork() == _fork(slot=Slot(cores=((0, 1),))) == _fork(TERM="dumb", PWD="/elsewhere", SHLVL="3")
    assert _fork() != _fork(HF_HOME="/elsewhere")


def test_one_process_less_is_no_other_zygote() -> None:
    assert _fork(VLLM_ENABLE_V1_MULTIPROCESSING="0") == _fork()


@pytest.mark.parametrize(("engine", "asked"), [("sim", True), ("llamacpp", False)])
def test_the_zygote_is_there_for_the_worker_of_the_command(engine: str, asked: bool) -> None:
    command = base.load(engine).command(replace(_SPEC, engine=engine), WorkerEndpoint(9), "s3cret", Slot(), _ENVIRON)
    assert isinstance(command.fork, Fork) and bool(command.fork.unless_asked) == asked
    assert importlib.import_module(command.fork.module).obstacle() is None
    assert "s3cret" not in repr(command.fork.environment)


@pytest.mark.parametrize(
    ("spec", "slot", "version", "env", "why"),
    [
        (_SPEC, Slot(), "0.33.0", {}, "this is 0.33.0"),
        (_SPEC, Slot(), "0.320", {}, "this is 0.320"),
        (replace(_SPEC, tensor_parallel_size=2), Slot(), "0.32.0", {}, "several ranks"),
        (_SPEC, Slot(), "0.32.0", {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}, "VLLM_WORKER_MULTIPROC_METHOD is set"),
        (replace(_SPEC, extra_args=("--data-parallel-size", "2")), Slot(), "0.32.0", {}, "--data-parallel-size"),
        (replace(_SPEC, extra_args=("--config=x.yaml",)), Slot(), "0.32.0", {}, "--config"),
        (replace(_SPEC, extra_args=("-pp", "2")), Slot(), "0.32.0", {}, "--pipeline-parallel-size"),
        (replace(_SPEC, extra_args=("-O3",)), Slot(), "0.32.0", {}, "-O3"),
    ],
)  # fmt: skip
def test_what_has_not_been_seen_to_work_is_started_plainly(
    spec: EngineSpec, slot: Slot, version: str, env: dict[str, str], why: str
) -> None:
    found = _fork(spec, slot, version, **env)
    assert isinstance(found, str) and why in found


def test_numbers_are_no_flags() -> None:
    assert isinstance(_fork(replace(_SPEC, extra_args=("--seed", "-1", "--max_model_len", "64"))), Fork)


def test_on_a_gpu_somebody_has_to_ask_for_it() -> None:
    fork = _fork(slot=Slot(gpus=(0,)))
    assert isinstance(fork, Fork) and "GPU" in fork.unless_asked
    assert "CUDA_VISIBLE_DEVICES" not in dict(fork.environment)


@pytest.mark.parametrize(
    ("given", "eager"),
    [
        (("--no-enable-lora",), True), ((), False), (("--no-enable-lora", "-O2"), False),
        (("--no-enable-lora", "--no-enforce-eager"), False), (("--no-enable-lora", "--enforce_eager"), False),
        (("--no-enable-lora", "--compilation-config", "{}"), False),
    ],
)  # fmt: skip
def test_without_lora_a_processor_does_not_compile_the_model_unless_somebody_asks_for_it(
    given: tuple[str, ...], eager: bool, tmp_path: Path
) -> None:
    command = base.load("vllm").command(replace(_SPEC, extra_args=given), WorkerEndpoint(9), "key", Slot(), {})
    assert ("--enforce-eager" in command.argv) is eager
    on_gpu = base.load("vllm").command(
        replace(_SPEC, extra_args=given), WorkerEndpoint(9), "key", Slot(gpus=(0,)), {}
    )
    assert "--enforce-eager" not in on_gpu.argv
