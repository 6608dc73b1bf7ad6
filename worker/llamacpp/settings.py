"""The flags of ``python -m worker.llamacpp``, and what follows from them for a model. Reads the model's header."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.engines.key_guard import KEY
from worker.gguf.header import GgufHeader

#: Requests at a time unless `--max-num-seqs` says otherwise: each has its own part of the KV cache.
SLOTS = 4

#: Tokens of a prompt in one step: no step of a model that a CPU can serve takes as long as a hang.
BATCH = 128

_LEAST_CONTEXT = 512  # tokens a slot


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """``context``: tokens of prompt and answer together, of each of ``slots`` requests at a time. ``cores``: bound to
    those, or to none. ``adapters``: (name, folder) of those it begins with."""

    host: str
    port: int
    key: str
    model: Path
    names: tuple[str, ...]
    slots: int
    context: int
    batch: int
    threads: int
    cores: tuple[int, ...]
    gpu_layers: int
    most_adapters: int
    adapters: tuple[tuple[str, str], ...]
    lora: bool


def parser() -> argparse.ArgumentParser:
    """vLLM's names for what vLLM has too."""
    made = argparse.ArgumentParser(prog="worker.llamacpp", allow_abbrev=False)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, required=True)
    made.add_argument("--model", type=Path, required=True)
    made.add_argument("--served-model-name", nargs="+", default=[])
    made.add_argument("--max-num-seqs", type=_positive, help="requests at a time")
    made.add_argument("--max-model-len", type=_positive, help="tokens of prompt and answer together")
    made.add_argument("--kv-cache-memory-bytes", type=_positive, default=1 << 30)
    made.add_argument("--max-num-batched-tokens", type=_positive, default=BATCH, help="of a prompt, in one step")
    made.add_argument("--threads", type=_positive, default=1)
    made.add_argument("--cores", type=_cores, default=(), help="0,1: bound to these")
    made.add_argument("--n-gpu-layers", type=int, default=-1, help="with a wheel built for GPUs")
    made.add_argument("--max-cpu-loras", type=_positive, default=32)
    made.add_argument("--max-loras", type=_positive, default=4, help="counts nothing here")
    made.add_argument("--max-lora-rank", type=_positive, default=16, help="counts nothing here")
    made.add_argument("--enable-lora", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument("--lora-modules", nargs="+", type=_named, default=[], metavar="NAME=FOLDER")
    return made


def read(argv: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """Raises ValueError where there is no key: a worker that everybody may use does not start."""
    if not environ.get(KEY):
        raise ValueError(f"{KEY} is not set")
    return parser().parse_args(argv)


def settle(given: argparse.Namespace, environ: Mapping[str, str], header: GgufHeader) -> LlamaSettings:
    """With what the model and the memory for its KV cache leave open."""
    slots, context = room(header, given.kv_cache_memory_bytes, given.max_num_seqs, given.max_model_len)
    return LlamaSettings(
        host=given.host, port=given.port, key=environ[KEY], model=given.model,
        names=tuple(given.served_model_name) or (str(given.model),), slots=slots, context=context,
        batch=given.max_num_batched_tokens, threads=given.threads, cores=given.cores, gpu_layers=given.n_gpu_layers,
        most_adapters=given.max_cpu_loras, adapters=tuple(given.lora_modules), lora=given.enable_lora,
    )  # fmt: skip


def room(header: GgufHeader, memory: int, slots: int | None, context: int | None) -> tuple[int, int]:
    """How many requests at a time, and tokens of each, that ``memory`` (bytes) has room for in the KV cache; what is
    given stands. A long context goes before many requests."""
    tokens = memory // header.kv_bytes_per_token
    wanted = context or min(header.context, max(tokens, _LEAST_CONTEXT))
    slots = slots or max(1, min(SLOTS, tokens // wanted))
    return slots, context or max(_LEAST_CONTEXT, min(header.context, tokens // slots))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _cores(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",")) if text else ()


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ValueError
    return name, path
