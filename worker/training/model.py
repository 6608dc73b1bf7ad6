"""The model that an adapter is trained for, and the names of its layers. Imports torch where it is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.jobs.job import JobFailed
from worker.training.presets import EMBEDDINGS, UnknownTargets, targets

#: Parts of a model that see and hear: adapters are for its text.
_OTHER_SENSES = re.compile(r"(^|[._])(vision|visual|audio)")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """``model`` on ``device``, ``dtype`` its name in torch; ``context``: its longest text in tokens."""

    model: Any
    tokenizer: Any
    device: str
    dtype: str
    context: int


def open_model(path: str, dtype: str) -> BaseModel:
    """``path``: a folder, or an id of the hub that lies in its cache: nothing is fetched, no code of the model's is
    run. ``dtype`` as in the settings. On the first GPU that is visible; where there are several, the model's layers are
    spread over them. Raises JobFailed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gpus = torch.cuda.device_count()
    sixteen = dtype == "bf16" or (dtype == "auto" and gpus > 0 and torch.cuda.is_bf16_supported())
    kind = torch.bfloat16 if sixteen else torch.float32
    spread: Any = {"device_map": "auto"} if gpus > 1 else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=kind, local_files_only=True, trust_remote_code=False, **spread
        )
    except (OSError, ValueError, ImportError) as error:
        raise JobFailed(f"the model {path} cannot be opened: {_line(error)}", 400) from None
    if not tokenizer.is_fast:
        raise JobFailed(f"the model {path} has no tokenizer.json, which says where a token lies in its text", 400)
    device = "cuda" if gpus else "cpu"
    if gpus == 1:
        model.to(device)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return BaseModel(model, tokenizer, device, str(kind).removeprefix("torch."), int(context or 1 << 20))


def target_modules(model: Any, wanted: str | Sequence[str], embeddings: bool) -> list[str]:
    """As `presets.targets`, of the layers of ``model``, which may have no weights. Raises JobFailed."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    named = [(name, each) for name, each in model.named_modules() if not _OTHER_SENSES.search(name)]
    linear = [name for name, each in named if isinstance(each, nn.Linear | Conv1D)]
    others = [name for name, each in named if isinstance(each, nn.Embedding) and name.rpartition(".")[2] in EMBEDDINGS]
    try:
        return targets(wanted, linear, embeddings, others)
    except UnknownTargets as error:
        raise JobFailed(str(error), 400) from None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
