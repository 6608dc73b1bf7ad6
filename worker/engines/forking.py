"""Which workers of vLLM may be forked from a zygote (`worker.zygote`): those whose version, flags and environment have
been seen to work so. All others are started plainly, and `clusterctl doctor` says why. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker.engines import flags
from worker.spec import EngineSpec, Fork, Slot

_MODULE = "worker.zygote.engines.vllm"

#: Releases of vLLM with which that has been seen.
_SEEN = ("0.32",)

#: What a worker may have otherwise than its zygote: read when it is used, or applied in the fork.
_LATE = frozenset({
    "VLLM_API_KEY", "VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE", "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
})  # fmt: skip

#: Environment that says how processes are started.
_OTHERWISE = ("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_ENABLE_V1_MULTIPROCESSING", "RAY_ADDRESS")

#: Flags that change nothing about which processes there are, and what they import.
_PROVEN = frozenset({
    "--api-server-count", "--async-scheduling", "--block-size", "--chat-template", "--chat-template-content-format",
    "--disable-log-stats", "--disable-uvicorn-access-log", "--dtype", "--enable-auto-tool-choice",
    "--enable-chunked-prefill", "--enable-lora", "--enable-prefix-caching", "--enable-prompt-tokens-details",
    "--enable-request-id-headers", "--enable-scale-out", "--enforce-eager", "--generation-config",
    "--gpu-memory-utilization", "--host", "--kv-cache-memory-bytes", "--load-format", "--logging-config.formatter",
    "--logits-processors", "--lora-dtype", "--lora-modules", "--max-cpu-loras", "--max-log-len", "--max-logprobs",
    "--max-lora-rank", "--max-loras", "--max-model-len", "--max-num-batched-tokens", "--max-num-queued-reqs",
    "--max-num-seqs", "--middleware", "--model", "--no-async-scheduling", "--no-enable-chunked-prefill",
    "--no-enable-lora", "--no-enable-prefix-caching", "--num-gpu-blocks-override",
    "--override-generation-config", "--port", "--reasoning-parser", "--response-role", "--return-tokens-as-token-ids",
    "--revision", "--root-path", "--seed", "--served-model-name", "--shutdown-timeout", "--structured-outputs-config",
    "--tensor-parallel-size", "--tokenizer", "--tool-call-parser", "--trust-request-chat-template",
    "--uvicorn-log-level",
})  # fmt: skip


def of_vllm(spec: EngineSpec, slot: Slot, argv: Sequence[str], env: Mapping[str, str], version: str) -> Fork | str:
    """The zygote of a worker that is started by ``argv`` in ``env``, or why it cannot be forked, in words."""
    if not any(version == seen or version.startswith(f"{seen}.") for seen in _SEEN):
        return f"it has been seen with vLLM {' and '.join(_SEEN)}, and this is {version}"
    if spec.tensor_parallel_size > 1:
        return "it has not been seen with workers that span several ranks"
    for name in _OTHERWISE:
        if name in env:
            return f"{name} is set, which says how processes are started"
    unproven = [name for name in flags.names(argv) if name not in _PROVEN]
    if unproven:
        return f"it has not been seen with the engine flag {unproven[0]}"
    kept = {name: value for name, value in env.items() if name not in _LATE}
    # Only a single thread can be forked, and libraries that compute make theirs when they are imported.
    kept |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if slot.gpus else {"OMP_NUM_THREADS": "1"}
    unseen = "it has not been seen on a GPU yet" if slot.gpus else ""
    return Fork(_MODULE, tuple(sorted(kept.items())), unseen)
