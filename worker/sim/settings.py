"""The command line: vLLM's flags under vLLM's names, and the simulator's own."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.sim.engine.costs import PROFILES
from worker.sim.engine.lora import parse_module
from worker.sim.errors import ApiError
from worker.sim.faults import Fault, parse_text

_DEFAULT_CONTEXT = 4096
# Flags of vLLM that a launcher may pass and that change nothing here.
_IGNORED_VALUES = (
    "--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp",
    "--kv-cache-memory-bytes", "--gpu-memory-utilization", "--dtype",
    "--max-num-batched-tokens", "--max-num-queued-tokens", "--tokenizer", "--tokenizer-mode", "--revision",
    "--quantization", "-q", "--kv-cache-dtype", "--block-size", "--seed", "--load-format", "--download-dir",
    "--swap-space", "--lora-dtype", "--uvicorn-log-level", "--chat-template", "--generation-config",
    "--override-generation-config", "--hf-overrides",
    "--distributed-executor-backend", "--optimization-level", "-O",
    "--compilation-config", "-cc", "--max-log-len", "--max-logprobs", "--cuda-graph-sizes",
    "--chat-template-content-format", "--root-path", "--sse-keep-alive-interval", "--served-model-revision",
    "--speculative-config", "--attention-backend", "--scheduling-policy", "--config-format", "--ssl-keyfile",
    "--ssl-certfile", "--allowed-origins", "--allowed-methods", "--allowed-headers",
)  # fmt: skip
_IGNORED_SWITCHES = (
    "--enforce-eager", "--disable-log-requests", "--enable-log-requests", "--disable-log-stats",
    "--disable-uvicorn-access-log", "--enable-scale-out", "--enable-prefix-caching", "--enable-chunked-prefill",
    "--async-scheduling", "--trust-remote-code", "--fully-sharded-loras",
    "--enable-expert-parallel", "--enable-server-load-tracking", "--enable-prompt-tokens-details",
    "--enable-force-include-usage", "--return-tokens-as-token-ids", "--enable-sleep-mode",
    "--disable-fastapi-docs", "--disable-frontend-multiprocessing", "--headless", "--enable-lora-bias",
    "--disable-custom-all-reduce", "--enable-tower-connector-lora", "--log-error-stack",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SimSettings:
    """What one simulated worker is told; times in seconds, lengths in tokens."""

    host: str
    port: int
    uds: str | None
    model: str
    served_names: tuple[str, ...]
    enable_lora: bool
    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    lora_targets: tuple[str, ...]
    lora_modules: tuple[tuple[str, str], ...]
    max_model_len: int
    api_keys: tuple[str, ...]
    max_num_seqs: int
    max_num_queued_reqs: int | None
    shutdown_timeout_s: float
    request_id_headers: bool
    tool_parser: bool
    automatic_tools: bool
    reasoning_parser: bool
    runtime_lora: bool
    dev_mode: bool
    keep_alive_s: float
    ttft_s: float
    itl_s: float
    profile: str | None
    pace: float
    stream_interval: int
    startup_s: float
    exit_after_s: float
    faults: tuple[Fault, ...]


def parse(argv: Sequence[str], environ: Mapping[str, str], now: float) -> SimSettings:
    """Settings from command line and environment; exits with status 2 on a usage error, as vLLM does."""
    parser = _parser()
    args = parser.parse_args([_dashes(arg) for arg in argv])
    if args.api_server_count > 1 and _flag(environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        raise ValueError("VLLM_ALLOW_RUNTIME_LORA_UPDATING cannot be used with api_server_count > 1")
    keys = args.api_key or [environ.get("VLLM_API_KEY", "")]
    try:
        faults = tuple(parse_text(text, now) for text in args.fault)
    except ApiError as exc:
        parser.error(exc.message)
    model = args.model or args.model_tag or "demo"
    return SimSettings(
        host=args.host or "0.0.0.0",
        port=args.port,
        uds=args.uds,
        model=model,
        served_names=tuple(args.served_model_name or [model]),
        enable_lora=args.enable_lora,
        max_loras=args.max_loras,
        max_cpu_loras=max(args.max_cpu_loras or 0, args.max_loras),
        max_lora_rank=args.max_lora_rank,
        lora_targets=tuple(args.lora_target_modules),
        lora_modules=tuple(parse_module(text) for text in args.lora_modules),
        max_model_len=args.max_model_len or _context_of(model),
        api_keys=tuple(key for key in keys if key),
        max_num_seqs=args.max_num_seqs,
        max_num_queued_reqs=args.max_num_queued_reqs,
        shutdown_timeout_s=args.shutdown_timeout,
        request_id_headers=args.enable_request_id_headers,
        tool_parser=bool(args.tool_call_parser),
        automatic_tools=args.enable_auto_tool_choice,
        reasoning_parser=bool(args.reasoning_parser),
        runtime_lora=_flag(environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
        dev_mode=_flag(environ, "VLLM_SERVER_DEV_MODE"),
        keep_alive_s=float(environ.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5")),
        ttft_s=args.ttft_ms / 1000,
        itl_s=args.itl_ms / 1000,
        profile=args.profile,
        pace=args.pace,
        stream_interval=args.stream_interval,
        startup_s=args.startup_s,
        exit_after_s=args.exit_after_s,
        faults=faults,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.sim", description=__doc__, allow_abbrev=False)
    vllm = parser.add_argument_group("flags of vLLM")
    vllm.add_argument("model_tag", nargs="?", help="the model, as after `vllm serve`")
    vllm.add_argument("--host")
    vllm.add_argument("--port", type=int, default=8000)
    vllm.add_argument("--uds", help="listen on this Unix socket instead")
    vllm.add_argument("--model", help="name or folder; only config.json of a folder is read (default: demo)")
    vllm.add_argument("--served-model-name", nargs="+")
    vllm.add_argument("--enable-lora", action=argparse.BooleanOptionalAction, default=False)
    vllm.add_argument("--max-loras", type=int, default=1)
    vllm.add_argument("--max-cpu-loras", type=int, help="adapters in host memory, with --profile (default: max-loras)")
    vllm.add_argument("--max-lora-rank", type=int, default=16)
    vllm.add_argument("--lora-target-modules", nargs="+", default=[], help="adapt these modules only")
    vllm.add_argument("--lora-modules", nargs="+", default=[], help="name=path, or JSON")
    vllm.add_argument("--max-model-len", type=_count, help="tokens, also as 8k or 8K")
    vllm.add_argument("--api-key", nargs="*", help="default: VLLM_API_KEY")
    vllm.add_argument("--max-num-seqs", type=int, default=256)
    vllm.add_argument("--max-num-queued-reqs", type=int)
    vllm.add_argument("--stream-interval", type=_positive(int), default=1, help="steps a chunk, with --profile")
    vllm.add_argument("--shutdown-timeout", type=float, default=0, help="seconds to drain after SIGTERM")
    vllm.add_argument("--api-server-count", type=int, default=1)
    vllm.add_argument("--enable-request-id-headers", action="store_true")
    vllm.add_argument("--tool-call-parser", help="tools can be called, as by Hermes' models whatever is named")
    vllm.add_argument("--enable-auto-tool-choice", action=argparse.BooleanOptionalAction, default=False)
    vllm.add_argument("--reasoning-parser", help="chats think first, as Qwen's models whatever is named")
    own = parser.add_argument_group("the simulator's own")
    own.add_argument("--ttft-ms", type=float, default=20, help="time to the first token (default: 20)")
    own.add_argument("--itl-ms", type=float, default=10, help="time between tokens (default: 10)")
    text = "take the times of this machine, by what is in the batch, in place of the two above"
    own.add_argument("--profile", choices=sorted(PROFILES), help=text)
    text = "of the profile: 0.25 is four times slower than the machine (default: 1)"
    own.add_argument("--pace", type=_positive(float), default=1.0, help=text)
    own.add_argument("--startup-s", type=float, default=0, help="time before it listens (default: 0)")
    own.add_argument("--exit-after-s", type=float, default=1, help="from engine death to exit (default: 1)")
    own.add_argument("--fault", action="append", default=[], metavar="KIND[:name=value...]")
    hidden = parser.add_argument_group("accepted and ignored")
    for name in _IGNORED_VALUES:
        hidden.add_argument(name, help=argparse.SUPPRESS)
    for name in _IGNORED_SWITCHES:
        hidden.add_argument(name, action=argparse.BooleanOptionalAction, help=argparse.SUPPRESS)
    return parser


def _dashes(arg: str) -> str:
    """vLLM takes ``--max_model_len`` for ``--max-model-len``."""
    if not arg.startswith("--"):
        return arg
    name, equals, value = arg.partition("=")
    return name.replace("_", "-") + equals + value


def _count(text: str) -> int:
    scale = {"k": 1000, "m": 1000**2, "K": 1024, "M": 1024**2}.get(text[-1:], 1)
    return int(float(text[:-1]) * scale) if scale > 1 else int(text)


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not 0 < (value := kind(text)) < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
        return value

    return number


def _context_of(model: str) -> int:
    """The context length a model's folder names."""
    try:
        config = json.loads((Path(model) / "config.json").read_text())
        return int(config.get("max_position_embeddings", _DEFAULT_CONTEXT))
    except (OSError, ValueError):
        return _DEFAULT_CONTEXT


def _flag(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "0").strip().lower() in ("1", "true")
