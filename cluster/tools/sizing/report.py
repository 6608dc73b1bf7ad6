"""A sizing in words, with the formula and its numbers, and for programs. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from cluster.tools.sizing import matrices, memory, remedies
from cluster.tools.sizing.fit import CPU_SHARE, Fit
from cluster.tools.sizing.memory import GIB
from cluster.tools.sizing.model import DTYPE_BYTES
from cluster.tools.sizing.remedies import Case


@dataclass(frozen=True, slots=True)
class Sizing:
    """``name`` as `up` is to be told the model, None for the demo. ``dtype`` if it has to be told."""

    name: str | None
    case: Case
    fit: Fit
    dtype: str | None = None

    @property
    def verdict(self) -> str:
        """fits, fewer (it runs, and holds fewer requests at a time than asked) or does not fit."""
        return "fits" if self.fit.enough else "fewer" if self.fit.runs else "does not fit"


def command(sizing: Sizing) -> str:
    """What to type. Without instances there is nothing to type: ''."""
    fit, ask, case = sizing.fit, sizing.fit.ask, sizing.case
    if not fit.runs:
        return ""
    words = ["clusterctl", "up", "--instances", str(fit.instances)]
    if sizing.name is not None:
        words += ["--model", sizing.name]
    if fit.ranks > 1:
        words += ["--tensor-parallel-size", str(fit.ranks)]
    words += ["--", "--max-model-len", str(ask.context)]
    if ask.adapters:
        words += ["--max-loras", str(ask.adapters), "--max-lora-rank", str(ask.rank)]
    else:
        words += ["--no-enable-lora"]
    if ask.kv_dtype != "auto":
        words += ["--kv-cache-dtype", ask.kv_dtype]
    if sizing.dtype is not None:
        words += ["--dtype", sizing.dtype]
    share = "" if case.place.share == memory.UTILIZATION else f"CLUSTERCTL_MAX_GPU_MEMORY={case.place.share:g} "
    setting = share if case.place.gpus else f"CLUSTERCTL_CPU_KV_GIB={fit.kv / GIB:g} "
    return setting + shlex.join(words)


def lines(sizing: Sizing) -> list[str]:
    """The whole answer, the verdict first."""
    out = [_verdict(sizing), ""]
    out += [f"  {name:<9} {formula} = {gib(size)}" for name, formula, size in _formulas(sizing)]
    out += ["", *_capacity(sizing)]
    if notes := _notes(sizing):
        out += ["", *notes]
    if not sizing.fit.enough and (found := remedies.find(sizing.case)):
        out += ["", "What would make it fit, each alone:", *(f"  - {text}" for text in found)]
    elif not sizing.fit.enough:
        out += ["", "Nothing single makes it fit: neither less to hold nor twice the machine several times over."]
    if typed := command(sizing):
        out += ["", f"  {typed}"]
    return out


def to_json(sizing: Sizing) -> dict[str, Any]:
    """Bytes are of one GPU, or of one instance on a CPU."""
    fit, case = sizing.fit, sizing.case
    place, ask, cache = case.place, fit.ask, fit.cache
    return {
        "model": sizing.name, "family": case.model.family, "parameters": _parameters(sizing),
        "parameters_from": "files" if case.weights.counted else "config", "dtype": case.model.dtype,
        "machine": {"gpus": place.gpus, "memory_bytes": place.memory, "cores": place.cores},
        "asked": {"adapters": ask.adapters, "rank": ask.rank, "context": ask.context, "concurrency": ask.concurrency},
        "verdict": sizing.verdict, "instances": fit.instances if fit.runs else 0, "tensor_parallel_size": fit.ranks,
        "bytes": {
            "budget": fit.budget, "weights": fit.weights, "weights_total": case.weights.bytes,
            "adapters": fit.adapters, "overhead": fit.overhead, "room_for_kv": max(0, fit.room), "kv": fit.kv,
            "needed": fit.needed,
        },
        "kv": {
            "bytes_per_token": cache.token_bytes * case.model.layers, "block_size": cache.block,
            "blocks": fit.blocks, "tokens": fit.tokens, "bytes_per_request": cache.request_bytes(ask.context),
            "requests_per_instance": round(cache.at_once(fit.kv, ask.context), 2), "requests": fit.holds,
        },
        "estimated": ["overhead"] + ([] if case.model.exact or case.weights.counted else ["weights", "adapters"]),
        "command": command(sizing), "notes": _notes(sizing),
        "remedies": [] if fit.enough else remedies.find(case),
    }  # fmt: skip


def gib(number: int) -> str:
    """With as many digits as say something."""
    if abs(number) < GIB // 10:
        return f"{number / 1024**2:.1f} MiB"
    return f"{number / GIB:.2f} GiB"


def _where(sizing: Sizing) -> str:
    place = sizing.case.place
    if place.gpus:
        return f"{place.gpus} GPU{'s' * (place.gpus > 1)} of {place.memory / GIB:.0f} GiB"
    return f"{place.memory / GIB:.1f} GiB of main memory and {place.cores} core{'s' * (place.cores != 1)}"


def _verdict(sizing: Sizing) -> str:
    fit, ask = sizing.fit, sizing.fit.ask
    name = sizing.name or "the demo model"
    asked = f"{ask.concurrency} request{'s' * (ask.concurrency != 1)} of {ask.context:,} tokens at a time"
    if not fit.runs:
        lacking = fit.least - fit.budget
        if lacking > 0:
            why = f"{gib(fit.least)} are needed for a single request and {gib(max(0, fit.budget))} may be used"
        else:
            why = f"a KV cache of {gib(fit.kv)} is too much or too little"
        each = f"each of the {fit.ranks} GPUs of an instance" if fit.ranks > 1 else "an instance"
        return f"{name} does not fit on {_where(sizing)}: for {each} {why}."
    spans = f", each over {fit.ranks} GPUs" if fit.ranks > 1 else ""
    runs = f"{name} fits on {_where(sizing)}: {fit.instances} instance{'s' * (fit.instances != 1)}{spans}"
    if fit.enough:
        return f"{runs}, room for {asked} ({fit.holds:,} in all)."
    return f"{runs}, but room for {fit.holds:,} requests of {ask.context:,} tokens at a time, not {ask.concurrency:,}."


def _parameters(sizing: Sizing) -> int | None:
    case = sizing.case
    return case.weights.parameters if case.weights.counted else matrices.parameters(case.model)


def _formulas(sizing: Sizing) -> list[tuple[str, str, int]]:
    """Name, formula with numbers put in, bytes; of one GPU, or of one instance."""
    fit, case = sizing.fit, sizing.case
    model, ask, ranks = case.model, fit.ask, fit.ranks
    size = DTYPE_BYTES[model.dtype]
    across = f", over {ranks} GPUs" if ranks > 1 else ""
    source = "the files' headers" if case.weights.counted else "config.json"
    count = _parameters(sizing)
    if model.quantization is None and count is not None:
        held = f"{count:,} parameters ({source}) × {size} bytes ({model.dtype}){across}"
    else:
        method = model.quantization.method if model.quantization else "mixed types"
        held = f"{gib(case.weights.bytes)} as stored ({source}, {method}){across}"
    numbers = memory.adapted_numbers(model, ranks)
    twice = "" if case.place.gpus else "2 × "
    rows = [
        ("weights", held, fit.weights),
        ("adapters", f"{twice}{ask.adapters} × rank {ask.rank} × {numbers:,} inputs and outputs × {size} bytes",
         fit.adapters),
        ("overhead", _overhead(sizing), fit.overhead),
    ]  # fmt: skip
    return [*rows, ("KV cache", _request(sizing), fit.cache.request_bytes(ask.context))]


def _overhead(sizing: Sizing) -> str:
    if not sizing.case.place.gpus:
        return "an estimate: the engine's processes"
    tokens, requests = memory.batch(sizing.case.place.memory)
    return f"an estimate: CUDA, a step of {tokens:,} tokens or the logits of {requests:,} requests"


def _request(sizing: Sizing) -> str:
    model, cache, context = sizing.case.model, sizing.fit.cache, sizing.fit.ask.context
    size = cache.token_bytes // model.cached(sizing.fit.ranks)
    if model.latent is not None:
        each = f"{model.layers} layers × ({model.latent.rank} + {model.latent.rope}) × {size} bytes"
    else:
        heads = model.kv_heads_each(sizing.fit.ranks)
        each = f"2 × {model.layers} layers × {heads} KV heads × {model.head_dim} × {size} bytes"
    if model.windowed:
        near = f"{model.windowed} of the layers keep {model.window:,} tokens and those of a step"
        return f"{each} × {context:,} tokens a request, at most: {near}"
    return f"{each} × {context:,} tokens a request"


def _capacity(sizing: Sizing) -> list[str]:
    fit, case = sizing.fit, sizing.case
    if case.place.gpus:
        share = f"{case.place.share:g} × {gib(case.place.memory)}"
    else:
        share = f"{CPU_SHARE:g} × {gib(case.place.memory)} / {fit.instances}"
    each = "a GPU" if case.place.gpus else "an instance"
    head = f"Of {share} = {gib(fit.budget)} for {each}, {gib(max(0, fit.room))} are left for the KV cache"
    if fit.room <= 0:
        return [f"Of {share} = {gib(fit.budget)} for {each}, nothing is left for the KV cache."]
    blocks = f"{fit.blocks:,} blocks of {fit.cache.block} tokens"
    held = f"{fit.tokens:,} tokens, {fit.cache.at_once(fit.kv, fit.ask.context):.1f} requests an instance"
    taken = "" if case.place.gpus else f", {gib(fit.kv)} of them taken"
    return [f"{head}{taken}: {blocks} = {held}."]


def _notes(sizing: Sizing) -> list[str]:
    model, case, fit = sizing.case.model, sizing.case, sizing.fit
    notes = []
    if not model.exact:
        what = "Room for adapters is" if case.weights.counted else "Weights and room for adapters are"
        notes.append(f"{what} an estimate: the architecture {model.family or 'of no name'} is counted like Llama.")
    elif not case.weights.counted:
        notes.append("There are no safetensors files whose headers could be read: weights follow from config.json.")
    if fit.ranks > model.kv_heads and model.latent is None:
        notes.append(f"With {model.kv_heads} KV heads on {fit.ranks} GPUs some GPUs hold the same cache.")
    if case.place.gpus and fit.runs and (idle := case.place.gpus - fit.instances * fit.ranks):
        notes.append(f"{idle} of the GPUs stay{'s' * (idle == 1)} idle.")
    return notes
