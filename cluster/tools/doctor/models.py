"""Judges whether the model fits where `up` would put it. Pure; the arithmetic is that of `clusterctl plan`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from cluster.deployment.plan import Plan
from cluster.tools.doctor.facts import MachineFacts
from cluster.tools.doctor.finding import GIB, Finding, gib, ok, problem
from cluster.tools.sizing import fit as fits
from cluster.tools.sizing import memory
from cluster.tools.sizing.fit import Fit, Hardware, Load
from cluster.tools.sizing.model import DTYPE_BYTES, ModelShape
from worker.engines import flags


def findings(facts: MachineFacts) -> Iterator[Finding]:
    """Nothing where no model is served, or where the engine's own flags make it another question."""
    plan, sized = facts.plan, facts.model
    if plan is None or sized is None or plan.spec.engine != "vllm":
        return
    if plan.placement.on_gpu and not any(gpu.total for gpu in facts.gpus.gpus):
        return  # NVML answered once and then no more, or does not tell how large they are
    if sized.model is None:
        yield ok("model", f"how much memory it takes is not known: {sized.error}")
        return
    model = _served(sized.model, plan)
    context = _number(plan, "--max-model-len") or model.limit
    if not context or flags.has(plan.spec.extra_args, "--kv-cache-memory-bytes"):
        return
    weights = memory.weights(model, sized.stored)
    adapters = 0 if flags.has(plan.spec.extra_args, "--no-enable-lora") else plan.spec.max_loras
    ask = Load(adapters, plan.spec.max_lora_rank, context, 1, cpu_kv=int(plan.spec.cpu_kv_gib * GIB))
    fit = _on_gpu(facts, plan, model, weights, ask) if plan.placement.on_gpu else _on_cpu(plan, model, weights, ask)
    yield _said(plan, fit, context)


def _said(plan: Plan, fit: Fit, context: int) -> Finding:
    parts = f"weights {gib(fit.weights)}, adapters {gib(fit.adapters)}"
    longest = f"{gib(fit.cache.request_bytes(context))} for one request of {context:,} tokens"
    if fit.runs:
        return ok("model", f"{parts}, KV cache {gib(fit.kv)} a worker{'' if fit.ranks == 1 else ' and GPU'}: "
                           f"{fit.tokens:,} tokens")  # fmt: skip
    shorter = _shorter(fit, context)
    shown = f" --model {plan.spec.model}" if plan.settings.model else ""
    say = f"see clusterctl plan{shown}"
    if shorter:
        say = f"up … -- --max-model-len {shorter}; {say}"
    if plan.placement.on_gpu:
        left = f"{gib(max(0, fit.room))} are left for the KV cache of {gib(fit.budget)}"
        return problem("model", f"{parts}: {left}, and vLLM wants {longest}", say)
    wanted = math.ceil(fit.cache.request_bytes(context) / GIB * 4) / 4
    return problem("model", f"a KV cache of {gib(fit.kv)} is too small: vLLM wants {longest}",
                   f"CLUSTERCTL_CPU_KV_GIB={wanted:g}, or {say}")  # fmt: skip


def _shorter(fit: Fit, context: int) -> int:
    """The longest context, by halves, of which one request fits; 0 for none."""
    while context >= 2 * fit.cache.block:
        context //= 2
        if fit.blocks >= fit.cache.request_blocks(context):
            return context
    return 0


def _on_gpu(facts: MachineFacts, plan: Plan, model: ModelShape, weights: memory.Weights, ask: Load) -> Fit:
    placement = plan.placement
    used = {index for number in range(max(1, plan.settings.instances)) for index in placement.slot(number).gpus}
    sizes = {gpu.index: gpu.total for gpu in facts.gpus.gpus if gpu.total}
    place = Hardware(placement.ranks, min(sizes[index] for index in (used & sizes.keys()) or sizes))
    budget = int(place.memory * facts.memory_share)
    fit = replace(fits.on_gpus(model, weights, ask, place, placement.ranks), budget=budget)
    return replace(fit, kv=max(0, fit.room))


def _on_cpu(plan: Plan, model: ModelShape, weights: memory.Weights, ask: Load) -> Fit:
    """Whether all of it fits into main memory is `machine.memory`'s question: here the cache alone is."""
    fit = fits.on_cpu(model, weights, ask, Hardware(0, plan.placement.machine.memory), 1)
    return replace(fit, budget=fit.weights + fit.adapters + fit.overhead + fit.kv)


def _served(model: ModelShape, plan: Plan) -> ModelShape:
    given = flags.values(plan.spec.extra_args, "--dtype")
    dtype = given[0] if given else plan.spec.dtype
    return replace(model, dtype=dtype) if dtype in DTYPE_BYTES else model


def _number(plan: Plan, flag: str) -> int:
    """0 where the engine's flag is not there, or says it in another way."""
    given = flags.values(plan.spec.extra_args, flag)
    return int(given[0]) if given and given[0].isascii() and given[0].isdigit() else 0
