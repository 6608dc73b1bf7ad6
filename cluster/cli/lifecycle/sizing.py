"""`plan`: what a model needs, and what of it fits. Starts nothing and asks no cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import click

from cluster.cli.common import Finite
from cluster.cli.render import say, say_json
from cluster.deployment import limits
from cluster.tools.sizing import files
from cluster.tools.sizing.fit import Hardware, Load, best, tensor_sizes
from cluster.tools.sizing.memory import GIB, weights
from cluster.tools.sizing.model import DTYPE_BYTES, ModelShape
from cluster.tools.sizing.remedies import Case
from cluster.tools.sizing.report import Sizing, lines, to_json
from config.disk.absolute import looks_like_path
from config.errors import UsageError
from config.manifests.file import entries
from config.settings import visible_gpus
from config.sources.names import variables
from config.values.setting_types import part
from worker import gpus
from worker.demo import MODEL_NAME, model_path
from worker.engine_spec import accepted_rank
from worker.engines.vllm import PROCESS_BYTES

_CONTEXT = 4096


def _share(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return part(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


@click.command("plan")
@click.option("--model", help="A model's folder, or a hub id that is in the cache; without one, the demo model.")
@click.option("--gpus", "count", type=click.IntRange(1, 1024), help="GPUs (default: those of this machine).")
@click.option("--gpu-memory", type=Finite(0, 4096, min_open=True), metavar="GIB", help="Of each GPU.")
@click.option("--max-gpu-memory", "share", metavar="SHARE", callback=_share, envvar=variables("max_gpu_memory"),
              help="Of each GPU's memory (default: as vLLM does).")
@click.option("--cpu", is_flag=True, help="Without GPUs, also where there are some.")
@click.option("--memory", type=Finite(0, 65536, min_open=True), metavar="GIB",
              help="Main memory, for a plan without GPUs (default: this machine's).")
@click.option("--adapters", type=click.IntRange(0, 1024), default=4, show_default=True,
              help="LoRA adapters in use at a time on one instance.")
@click.option("--rank", type=click.IntRange(1, 512), default=16, show_default=True, help="Their largest rank.")
@click.option("--context", type=click.IntRange(1), metavar="TOKENS",
              help=f"Prompt and answer of a request (default {_CONTEXT}, or the model's limit if that is less).")
@click.option("--concurrency", type=click.IntRange(1), default=1, show_default=True,
              help="Requests of that length at a time, over all instances.")
@click.option("--tensor-parallel-size", type=click.IntRange(1, 64), help="GPUs of an instance (default: the fewest).")
@click.option("--kv-cache-dtype", type=click.Choice(["auto", "fp8"]), default="auto", show_default=True)
@click.option("--dtype", type=click.Choice([*DTYPE_BYTES]), help="What the model is served in (default: as vLLM does).")
@click.option("--cpu-kv-gib", type=Finite(0, 65536, min_open=True), metavar="GIB",
              help="KV cache of an instance without GPU (default: what is needed).")
@click.option("--trace", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              help="How many GPUs this traffic takes (Azure's or Mooncake's format), by simulation.")
@click.option("--rps", type=Finite(0, 10_000, min_open=True), help="The same for so many requests a second.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def plan_command(
    model: str | None, count: int | None, gpu_memory: float | None, share: float | None, cpu: bool,
    memory: float | None, adapters: int, rank: int, context: int | None, concurrency: int,
    tensor_parallel_size: int | None, kv_cache_dtype: str, dtype: str | None, cpu_kv_gib: float | None,
    trace: str | None, rps: float | None, as_json: bool,
) -> int:  # fmt: skip
    """Say how much memory a model, its adapters and its requests take, and what of it fits on a machine.

    With --trace or --rps: how many GPUs carry that traffic for so many --adapters of that --rank in all, with how many
    slots and how much memory for adapters; an 8B model on H100s, routed by `adaptive` (docs/routing.md).

    Exit code 0 if what was asked for fits, 1 if it does not."""
    if trace is not None or rps is not None:
        return _simulated(trace, rps, adapters, rank)
    found, stored = files.read(_folder(model))
    served = dtype or ("float32" if model is None else None)  # as `up` serves the demo
    if served is not None:
        found = replace(found, dtype=served)
    place = _place(count, gpu_memory, cpu, memory)
    if share is not None:
        place = replace(place, share=share)
    ask = Load(
        adapters, accepted_rank(rank), _context(found, context), concurrency, kv_cache_dtype,
        None if cpu_kv_gib is None else int(cpu_kv_gib * GIB),
    )  # fmt: skip
    _check(found, place, ask, tensor_parallel_size)
    case = Case(found, weights(found, stored), ask, place, tensor_parallel_size)
    fit = best(case.model, case.weights, case.ask, case.place, case.ranks)
    sizing = Sizing(model, case, fit, dtype)
    if as_json:
        say_json(to_json(sizing))
    else:
        for line in lines(sizing):
            say(line)
    return 0 if fit.enough else 1


def _folder(model: str | None) -> str:
    """Where the files are that are read: a name in the shipped manifest stands for what it says."""
    entry = None if model is None or looks_like_path(model) else entries(None).get(model)
    place = entry.path if entry is not None else model
    return str(model_path()) if place is None or place == MODEL_NAME else place


def _simulated(trace: str | None, rps: float | None, adapters: int, rank: int) -> int:
    """In a process of its own: the simulation runs the balancer's policy, which nothing here imports."""
    if trace is not None and rps is not None:
        raise UsageError("either --trace or --rps", 2)
    load = ["--rps", str(rps)] if trace is None else ["--trace", trace]
    command = [sys.executable, "-m", "sim", "plan", *load, "--adapters", str(adapters), "--rank", str(rank)]
    return subprocess.run(command, check=False).returncode


def _place(count: int | None, gpu_memory: float | None, cpu: bool, memory: float | None) -> Hardware:
    """The machine in question: as it was described, else this one. Raises UsageError."""
    if (cpu or memory is not None) and (count is not None or gpu_memory is not None):
        raise UsageError("--gpus and --gpu-memory are for GPUs, --cpu and --memory for a plan without: which?", 2)
    if not (cpu or memory is not None):
        here = gpus.detect(visible_gpus()) if count is None or gpu_memory is None else []
        if gpu_memory is not None:
            return Hardware(count or len(here) or 1, int(gpu_memory * GIB))
        if sizes := [gpu.memory_total for gpu in here if gpu.memory_total]:
            return Hardware(count or len(here), min(sizes))
        if here:
            raise UsageError("the driver does not tell how much memory the GPUs have: --gpu-memory has to say it", 2)
        if count is not None:
            raise UsageError("--gpus: this machine has none, so --gpu-memory has to say how large they are", 2)
    cores = len(os.sched_getaffinity(0))
    size = int(memory * GIB) if memory is not None else limits.memory()
    return Hardware(0, size, cores, PROCESS_BYTES)


def _context(model: ModelShape, context: int | None) -> int:
    if context is None:
        return min(_CONTEXT, model.limit or _CONTEXT)
    if model.limit and context > model.limit:
        raise UsageError(f"--context {context}: the model's own limit is {model.limit} tokens", 2)
    return context


def _check(model: ModelShape, place: Hardware, ask: Load, ranks: int | None) -> None:
    if ask.kv_dtype != "auto" and not place.gpus:
        raise UsageError("--kv-cache-dtype fp8: it is known for GPUs only", 2)
    if ask.cpu_kv is not None and place.gpus:
        raise UsageError("--cpu-kv-gib: only for a plan without GPUs; on GPUs the cache takes what is left", 2)
    if ranks is None:
        return
    if not place.gpus or ranks > place.gpus:
        raise UsageError(f"--tensor-parallel-size {ranks}: there are {place.gpus} GPUs", 2)
    if ranks not in tensor_sizes(model, ranks):
        why = f"a power of two that divides the {model.heads} attention heads is needed"
        raise UsageError(f"--tensor-parallel-size {ranks}: {why}", 2)
