"""The job ``merge``: a base model and an adapter become a model folder of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.jobs import output
from worker.jobs.arguments import check_types
from worker.jobs.job import Job, JobFailed
from worker.jobs.kinds import require
from worker.merging import model_folder

_HEAD = "lm_head.weight"


def check(arguments: Mapping[str, Any]) -> None:
    """Raises JobFailed 400."""
    check_types(arguments, {"model": str, "adapter": str, "out": str}, {"dtype": str, "overwrite": bool})


def run(arguments: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    """``arguments``: ``model``, ``adapter``, ``out`` (folders), ``dtype`` (bf16, fp16, fp32; None: the model's),
    ``overwrite``. Raises JobFailed, OSError."""
    check(arguments)
    require("train", "torch", "safetensors")
    from worker.merging import shards
    from worker.merging.deltas import AdapterDeltas

    base, out, dtype = Path(arguments["model"]), Path(arguments["out"]), arguments.get("dtype")
    if dtype is not None and dtype not in shards.DTYPES:
        raise JobFailed(f"dtype: {dtype!r} is none of {', '.join(shards.DTYPES)}", 400)
    output.check(out, bool(arguments.get("overwrite")), model_folder.MARK)
    config = model_folder.read_config(base)
    deltas = AdapterDeltas(Path(arguments["adapter"]))
    parts = _untied(shards.shards(base, dtype), config, deltas.targets)
    known = {each.name for shard in parts for each in shard.tensors}
    if missing := sorted(deltas.targets - known):
        raise JobFailed(f"the adapter is for another model: this one has no {missing[0][:200]!r}", 409)
    total = sum(shard.size for shard in parts)
    output.need_room(out, total)
    if dtype is not None:
        config["dtype"] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[dtype]
        config.pop("torch_dtype", None)
    with output.making(out) as made:
        shards.write_all(parts, made, deltas.apply, job, "merge")
        model_folder.copy_rest(base, made)
        model_folder.write_config(made, config)
    return {"path": str(out), "bytes": total, "changed": len(deltas.targets), "tensors": len(known)}


def _untied(parts: Sequence[Any], config: dict[str, Any], targets: set[str]) -> list[Any]:
    """A model that uses its embedding as its head too has to have both once an adapter changes only one of them."""
    from worker.merging.shards import ShardTensor

    text = config.get("text_config", config)
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
    found = list(parts)
    if not tied or any(each.name == _HEAD for shard in parts for each in shard.tensors):
        return found
    for at, shard in enumerate(found):
        for each in shard.tensors:
            if each.name.endswith("embed_tokens.weight") and targets & {each.name, _HEAD}:
                head: ShardTensor = replace(each, name=_HEAD)
                found[at] = replace(shard, tensors=(*shard.tensors, head))
                config["tie_word_embeddings"] = False
                if "tie_word_embeddings" in text:
                    text["tie_word_embeddings"] = False
    return found
