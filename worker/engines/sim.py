"""The simulated worker: vLLM's API without a model, for speed, faults and scale."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from config.topology import Capabilities
from worker.engines import flags, forking, key_guard
from worker.engines.base import Command
from worker.spec import SLEEP_FLAG, EngineSpec, Fork, Slot, WorkerEndpoint

_MIB = 1024 * 1024


class SimEngine:
    name = "sim"
    startup_interval = 0.05
    busy_start = False
    uses_gpu = finds_gpus = computes = False
    capabilities = Capabilities(replay=True)

    def check(self) -> None:
        """Part of this package: always there."""

    def memory_estimate(self, spec: EngineSpec) -> int:
        return 100 * _MIB

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        argv = [sys.executable, "-m", "worker.sim", "--host", endpoint.host, "--port", str(endpoint.port)]
        argv += ["--model", spec.model, "--enable-lora"]
        argv += flags.unless_given(spec.extra_args, {
            "--served-model-name": spec.served_names, "--max-loras": (str(spec.max_loras),),
            "--max-cpu-loras": (str(spec.max_cpu_loras),), "--max-lora-rank": (str(spec.max_lora_rank),),
        })  # fmt: skip
        env = {
            **environ,
            "PYTHONSAFEPATH": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            key_guard.KEY: api_key,
        }
        if slot.gpus:  # of no use to it: for trials of how GPUs are shared out
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, slot.gpus))
        if flags.has(spec.extra_args, SLEEP_FLAG):
            env["VLLM_SERVER_DEV_MODE"] = "1"
        kept = forking.shared(env, {key_guard.KEY})
        fork = Fork("worker.zygote.engines.sim", kept, "a simulated worker starts in half a second anyway")
        return Command((*argv, *spec.extra_args), env, fork=fork)


ENGINE = SimEngine()
