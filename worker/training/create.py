"""The job ``create``: an adapter that nobody has trained, but that changes answers: for tests. Weights of the model are
not read: its configuration says which layers it has, and of which size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.jobs import output
from worker.jobs.arguments import check_types
from worker.jobs.job import Job, JobFailed
from worker.jobs.kinds import require
from worker.training.written import MARK, write_config


def check(arguments: Mapping[str, Any]) -> None:
    """Raises JobFailed 400."""
    check_types(arguments, {"model": str, "out": str}, {
        "base_name": str, "rank": int, "alpha": int | float, "targets": str | list, "embeddings": bool, "seed": int,
        "scale": int | float, "overwrite": bool,
    })  # fmt: skip
    if not 1 <= arguments.get("rank", 1) <= 1024:
        raise JobFailed("rank: 1 to 1024", 400)


def run(arguments: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    """``arguments``: ``model``, ``out``, ``base_name``, ``rank``, ``alpha``, ``targets``, ``embeddings``, ``seed``,
    ``scale`` (the standard deviation of B's values; those of A are as in PEFT), ``overwrite``. Raises JobFailed."""
    check(arguments)
    require("train", "torch", "peft", "transformers")
    from peft import LoraConfig
    from safetensors.torch import save_file

    out = Path(arguments["out"])
    output.check(out, bool(arguments.get("overwrite")), MARK)
    model = without_weights(arguments["model"])
    from worker.training.model import target_modules

    targets = target_modules(model, _targets(arguments), bool(arguments.get("embeddings")))
    rank = int(arguments.get("rank", 16))
    tensors = _matrices(model, targets, rank, int(arguments.get("seed", 42)), float(arguments.get("scale", 0.02)))
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=arguments.get("alpha", 2 * rank), target_modules=targets,
        base_model_name_or_path=arguments.get("base_name") or arguments["model"], inference_mode=True,
    )
    with output.making(out) as made:
        write_config(config, made)
        save_file(tensors, made / "adapter_model.safetensors", {"format": "pt"})
    return {"path": str(out), "targets": targets, "rank": rank, "tensors": len(tensors)}


def _targets(arguments: Mapping[str, Any]) -> str | list[str]:
    found = arguments.get("targets", "all")
    return found if isinstance(found, str) else list(map(str, found))


def without_weights(path: str) -> Any:
    """The model in the folder ``path``, its layers and their sizes alone. Raises JobFailed."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise JobFailed(f"the model {path} cannot be opened: {str(error).splitlines()[0][:300]}", 400) from None


def _matrices(model: Any, targets: list[str], rank: int, seed: int, scale: float) -> dict[str, Any]:
    """In bfloat16, by PEFT's names. An embedding's A has a column a token."""
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    random = torch.Generator().manual_seed(seed)
    found = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] not in targets or not hasattr(module, "weight"):
            continue
        rows, columns = module.weight.shape
        if isinstance(module, nn.Embedding | Conv1D):
            rows, columns = columns, rows
        parts = ("lora_embedding_A", "lora_embedding_B") if isinstance(module, nn.Embedding) else (
            "lora_A.weight", "lora_B.weight")  # fmt: skip
        a = torch.empty(rank, columns).uniform_(-(columns**-0.5), columns**-0.5, generator=random)
        b = torch.empty(rows, rank).normal_(0.0, scale, generator=random)
        for part, values in zip(parts, (a, b), strict=True):
            found[f"base_model.model.{name}.{part}"] = values.to(torch.bfloat16)
    return found
