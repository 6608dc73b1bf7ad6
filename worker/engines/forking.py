"""Which workers of vLLM may be forked from a zygote (`worker.zygote`): those whose version, flags and environment have
been seen to work so. All others are started plainly, and `clusterctl doctor` says why. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from worker.engines import flags
from worker.spec import EngineSpec, Fork, Slot

_MODULE = "worker.zygote.engines.vllm"

#: Releases of vLLM with which that has been seen.
_SEEN = ("0.32",)

#: What a worker may have otherwise than its zygote: read when it is used, or applied in the fork.
_LATE = frozenset({
    "VLLM_API_KEY", "VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE", "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
})  # fmt: skip

#: Environment that says how processes are started.
_OTHERWISE = ("VLLM_WORKER_MULTIPROC_METHOD", "RAY_ADDRESS")

#: Flags that change nothing about which processes there are, and what they import.
_PROVEN = frozenset({
    "--api-server-count", "--async-scheduling", "--block-size", "--chat-template", "--chat-template-content-format",
    "--convert", "--disable-log-stats", "--disable-uvicorn-access-log", "--dtype", "--enable-auto-tool-choice",
    "--enable-chunked-prefill", "--enable-lora", "--enable-prefix-caching", "--enable-prompt-tokens-details",
    "--enable-request-id-headers", "--enable-scale-out", "--enforce-eager", "--generation-config",
    "--gpu-memory-utilization", "--host", "--kv-cache-memory-bytes", "--load-format", "--logging-config.formatter",
    "--logits-processors", "--lora-dtype", "--lora-modules", "--max-cpu-loras", "--max-log-len", "--max-logprobs",
    "--max-lora-rank", "--max-loras", "--max-model-len", "--max-num-batched-tokens", "--max-num-queued-reqs",
    "--max-num-seqs", "--middleware", "--model", "--no-async-scheduling", "--no-enable-chunked-prefill",
    "--no-enable-lora", "--no-enable-prefix-caching", "--num-gpu-blocks-override",
    "--override-generation-config", "--port", "--reasoning-parser", "--response-role", "--return-tokens-as-token-ids",
    "--revision", "--root-path", "--runner", "--seed", "--served-model-name", "--shutdown-timeout",
    "--structured-outputs-config", "--tensor-parallel-size", "--tokenizer", "--tool-call-parser",
    "--trust-request-chat-template", "--uvicorn-log-level",
})  # fmt: skip


#: What tells of the terminal or service that somebody started a cluster from. Nothing that is imported goes by it, and
#: the next supervisor, started from another one, should know its zygote again.
_OF_A_SESSION = frozenset({
    "_", "COLORTERM", "COLUMNS", "INVOCATION_ID", "JOURNAL_STREAM", "LINES", "LS_COLORS", "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE", "OLDPWD", "PS1", "PWD", "PYTEST_CURRENT_TEST", "SHLVL", "SSH_AUTH_SOCK", "SSH_CLIENT",
    "SSH_CONNECTION", "SSH_TTY", "STY", "SYSTEMD_EXEC_PID", "TERM", "TERM_PROGRAM", "TMUX", "TMUX_PANE", "WINDOWID",
    "XDG_SESSION_ID",
})  # fmt: skip


def shared(env: Mapping[str, str], late: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Of ``env``, what a zygote has to have been started with: without what is ``late`` enough in a fork."""
    kept = env.keys() - _OF_A_SESSION - set(late)
    return tuple((name, env[name]) for name in sorted(kept))


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
    # Only a single thread can be forked, and libraries that compute make theirs when they are imported.
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if slot.gpus else {"OMP_NUM_THREADS": "1"}
    unseen = "it has not been seen on a GPU yet" if slot.gpus else ""
    return Fork(_MODULE, tuple(sorted({**dict(shared(env, _LATE)), **alone}.items())), unseen)
