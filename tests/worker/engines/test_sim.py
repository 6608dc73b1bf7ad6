"""How the simulated worker is started."""

from __future__ import annotations

import sys

import pytest

from worker.engines import flags
from worker.engines.sim import SimEngine
from worker.spec import EngineSpec, Slot, WorkerEndpoint

SPEC = EngineSpec("sim", "path/m", ("m", "alias"), max_lora_rank=32, max_loras=6)


def _argv(*extra: str) -> tuple[str, ...]:
    spec = EngineSpec("sim", "path/m", ("m", "alias"), extra_args=extra, max_lora_rank=32, max_loras=6)
    return SimEngine().command(spec, WorkerEndpoint(20_001), "key", Slot(), {}).argv


def test_it_is_a_module_of_this_package_and_serves_the_models_names() -> None:
    argv = _argv()
    assert argv[:3] == (sys.executable, "-m", "worker.sim")
    for flag, values in {
        "--host": ["127.0.0.1"], "--port": ["20001"], "--model": ["path/m"], "--enable-lora": [],
        "--served-model-name": ["m", "alias"], "--max-lora-rank": ["32"], "--max-loras": ["6"],
    }.items():
        assert flags.values(argv, flag) == values


@pytest.mark.parametrize("flag", ["--served-model-name", "--max-lora-rank", "--max-loras"])
def test_what_the_user_gives_is_not_given_twice(flag: str) -> None:
    argv = _argv(flag, "9")
    assert argv.count(flag) == 1 and argv[-2:] == (flag, "9")


def test_adapters_can_be_changed_while_it_runs() -> None:
    given = {"VLLM_API_KEY": "theirs", "PYTHONSAFEPATH": ""}
    env = SimEngine().command(SPEC, WorkerEndpoint(1), "key", Slot(), given).env
    assert env == {"PYTHONSAFEPATH": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_API_KEY": "key"}


def test_it_is_always_there_and_needs_no_gpu() -> None:
    SimEngine().check()
    assert SimEngine.uses_gpu is False
