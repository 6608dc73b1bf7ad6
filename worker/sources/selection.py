"""Which files of a place are fetched: those that an engine reads, never programs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from worker.jobs.job import JobFailed
from worker.sources.remote import RemoteFile

ADAPTER, MODEL = "adapter", "model"

#: Bytes of an adapter, as `worker.adapters.store` takes one, and of a model; files of either.
MOST_BYTES = {ADAPTER: 4 * 1024**3, MODEL: 4 * 1024**4}
MOST_FILES = 2000

#: As a file of ours: no folder above it, nothing hidden, nothing that a shell or a terminal reads otherwise.
_NAME = re.compile(r"(?!\.)[A-Za-z0-9._+-]{1,200}(/(?!\.)[A-Za-z0-9._+-]{1,200}){0,2}")

_CONFIG, _WEIGHTS, _PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_MODEL_FILES = re.compile(
    r"[^/]+\.(json|safetensors|jinja|tiktoken|model)|(vocab|merges)\.txt|(additional_)?chat_templates/[^/]+\.jinja"
)
#: The same weights once more, as other programs read them.
_OTHERS_WEIGHTS = re.compile(r"consolidated.*\.safetensors|.*\.fp16\.safetensors|tf_model.*|flax_model.*")


def chosen(what: str, files: Iterable[RemoteFile], where: str) -> list[RemoteFile]:
    """Those of ``files`` that make the `ADAPTER` or the `MODEL` that ``where`` is. Raises JobFailed: 404 where what is
    needed is not among them, 400 for what cannot be taken."""
    there = {file.name: file for file in files if _NAME.fullmatch(file.name)}
    found = _adapter(there, where) if what == ADAPTER else _model(there, where)
    size, most = sum(file.size or 0 for file in found), MOST_BYTES[what]
    if len(found) > MOST_FILES or size > most:
        told = f"{len(found)} files of {size} bytes are more than the {MOST_FILES} of {most} bytes that are taken"
        raise JobFailed(f"{where}: {told}", 400)
    return found


def may_be_wanted(name: str) -> bool:
    """Whether a file of that name could be among what is chosen."""
    own = name in (_CONFIG, _PICKLE) or _MODEL_FILES.fullmatch(name) is not None
    return own and _NAME.fullmatch(name) is not None


def _adapter(there: dict[str, RemoteFile], where: str) -> list[RemoteFile]:
    weights = there.get(_WEIGHTS) or there.get(_PICKLE)
    if _CONFIG not in there or weights is None:
        missing = _CONFIG if _CONFIG not in there else _WEIGHTS
        hint = "; it looks like a whole model" if "config.json" in there else ""
        raise JobFailed(f"{where} is no LoRA adapter: there is no {missing}{hint}", 404)
    return [there[_CONFIG], weights]


def _model(there: dict[str, RemoteFile], where: str) -> list[RemoteFile]:
    if "config.json" not in there:
        hint = "; it is a LoRA adapter" if _CONFIG in there else ""
        raise JobFailed(f"{where} is no model: there is no config.json{hint}", 404)
    found = [file for name, file in there.items() if _MODEL_FILES.fullmatch(name)]
    own = [file for file in found if not _OTHERS_WEIGHTS.fullmatch(file.name)]
    if any(file.name.endswith(".safetensors") for file in own):
        found = own
    if not any(file.name.endswith(".safetensors") for file in found):
        pickles = sorted(name for name in there if name.endswith((".bin", ".pt", ".pth")))
        why = f"only pickles ({pickles[0]}), which are programs" if pickles else "no weights"
        raise JobFailed(f"{where} holds {why}: a model in safetensors is needed", 400)
    return found
