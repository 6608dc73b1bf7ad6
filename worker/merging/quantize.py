"""The job ``quantize``: a model folder with values of 8 bits, of one with larger ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.jobs import output
from worker.jobs.arguments import check_types
from worker.jobs.job import Job, JobFailed
from worker.jobs.kinds import require
from worker.merging import model_folder

_SCALE = "_scale"


def check(arguments: Mapping[str, Any]) -> None:
    """Raises JobFailed 400."""
    check_types(arguments, {"model": str, "out": str, "scheme": str}, {"overwrite": bool})


def run(arguments: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    """``arguments``: ``model``, ``out`` (folders), ``scheme`` (of `worker.merging.rounding.SCHEMES`), ``overwrite``.
    Raises JobFailed, OSError."""
    check(arguments)
    require("cpu", "torch", "transformers", "compressed_tensors")
    from worker.merging import shards
    from worker.merging.rounding import SCHEMES, RoundedWeights

    base, out, scheme = Path(arguments["model"]), Path(arguments["out"]), arguments["scheme"]
    if scheme not in SCHEMES:
        raise JobFailed(f"scheme: {scheme!r} is none of {', '.join(SCHEMES)}", 400)
    output.check(out, bool(arguments.get("overwrite")), model_folder.MARK)
    config = model_folder.read_config(base)
    rounded, (linear, ignored) = RoundedWeights(scheme), _linear(base)
    before = shards.shards(base, None)
    parts = [replace(shard, tensors=tuple(_smaller(shard.tensors, linear, rounded.file_type))) for shard in before]
    total = sum(shard.size for shard in parts)
    output.need_room(out, total)

    def change(name: str, values: Any) -> Any:
        if name.removesuffix(_SCALE) in linear:
            small, scale = rounded.rounded(values)
            return scale if name.endswith(_SCALE) else small
        return values

    with output.making(out) as made:
        shards.write_all(parts, made, change, job, "quantize")
        model_folder.copy_rest(base, made)
        model_folder.write_config(made, {**config, "quantization_config": rounded.config(ignored)})
    was = sum(shard.size for shard in before)
    return {"path": str(out), "bytes": total, "bytes_before": was, "rounded": len(linear), "scheme": scheme}


def _linear(base: Path) -> tuple[set[str], list[str]]:
    """The names of the weights of linear layers, but for the head, and the layers that stay. Raises JobFailed."""
    from torch import nn

    from worker.training.create import without_weights

    found = [name for name, each in without_weights(str(base)).named_modules() if isinstance(each, nn.Linear)]
    heads = [name for name in found if name.rpartition(".")[2] in ("lm_head", "embed_out", "output")]
    return {f"{name}.weight" for name in found if name not in heads}, heads


def _smaller(tensors: Sequence[Any], linear: set[str], file_type: str) -> Iterator[Any]:
    """With a scale a row in float32 beside each that is rounded."""
    for each in tensors:
        if each.name not in linear:
            yield each
            continue
        rows, columns = each.shape
        yield replace(each, dtype=file_type, size=rows * columns)
        yield replace(each, name=f"{each.name}{_SCALE}", dtype="F32", shape=(rows, 1), size=4 * rows)
