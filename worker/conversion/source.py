"""Where in a folder the adapter is: trainers leave checkpoints, converted copies, shards and merged models beside it.

Names only; nothing is opened but, for its size, no file. Blocking.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.text import printable
from worker.conversion.layouts import Unservable

CONFIG = "adapter_config.json"

#: Of an adapter's weights, the best form first; shards of several files count as one.
_WHOLE = (
    "adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "pytorch_model.bin",
)  # fmt: skip
_SHARD = re.compile(r"adapter_model-(\d{5})-of-(\d{5})\.(safetensors|bin)")
_MODEL = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)|.*\.gguf")
_FSDP = re.compile(r"pytorch_model_fsdp_\d+|.*\.distcp|\.metadata")
_DEEPSPEED = re.compile(r"global_step\d+|(bf16_|fp16_)?zero_pp_rank_.*|zero_to_fp32\.py")

#: How trainers call the folder of the last or best result.
_FINAL = ("final", "final_checkpoint", "best", "default", "adapter", "lora")
_CHECKPOINT, _RUN = re.compile(r"checkpoint-(\d{1,12})"), re.compile(r"v(\d{1,6})-.*")

_DEEPEST, _MOST_ENTRIES = 3, 10_000


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """``folder`` holds the configuration and the ``weights``, in order; ``done``: how it was chosen, in words."""

    folder: Path
    weights: tuple[Path, ...]
    done: tuple[str, ...] = ()


def locate(folder: Path) -> AdapterSource:
    """Raises Unservable, which says what there is instead; OSError."""
    names = _names(folder)
    if CONFIG in names:
        return AdapterSource(folder, _weights(folder, names))
    candidates = sorted(_adapters(folder, _DEEPEST))
    if not candidates:
        raise Unservable(_instead(folder, names))
    chosen = _choose(folder, candidates)
    others = "" if len(candidates) == 1 else f" of {len(candidates)} adapters below {_shown(folder.name)}"
    return AdapterSource(
        chosen, _weights(chosen, _names(chosen)), (f"took {_shown(chosen.relative_to(folder))}{others}",)
    )


def converted(source: AdapterSource, init: object) -> AdapterSource:
    """LLaMA-Factory leaves a plain LoRA beside one that began as PiSSA (``init``: init_lora_weights) and needs a
    changed base model."""
    folder = source.folder / "pissa_converted"
    if isinstance(init, str) and init.lower().startswith("pissa") and (folder / CONFIG).is_file():
        return AdapterSource(
            folder, _weights(folder, _names(folder)), (*source.done, "took pissa_converted, the plain LoRA beside it")
        )
    return source


def _weights(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    shards = sorted(name for name in names if _SHARD.fullmatch(name))
    if shards and _WHOLE[0] not in names:
        return _whole_shards(folder, shards)
    for name in _WHOLE:
        if name in names:
            return (folder / name,)
    raise Unservable(_instead(folder, names))


def _whole_shards(folder: Path, names: list[str]) -> tuple[Path, ...]:
    found = [match for name in names if (match := _SHARD.fullmatch(name))]
    kinds, totals = {match[3] for match in found}, {int(match[2]) for match in found}
    if len(kinds) > 1 and "safetensors" in kinds:
        return _whole_shards(folder, [name for name in names if name.endswith(".safetensors")])
    if len(totals) > 1 or {int(match[1]) for match in found} != set(range(1, max(totals) + 1)):
        raise Unservable(f"{_shown(folder.name)} holds {len(names)} shards of an adapter and not all of them")
    return tuple(folder / name for name in names)


def _adapters(folder: Path, depth: int) -> Iterator[Path]:
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            below = Path(entry.path)
            if (below / CONFIG).is_file():
                yield below
            elif depth > 1:
                yield from _adapters(below, depth - 1)


def _choose(folder: Path, candidates: list[Path]) -> Path:
    """The only one, the one that is called the last, or the last checkpoint of the last run."""
    if len(candidates) == 1:
        return candidates[0]
    for name in _FINAL:
        if folder / name in candidates:
            return folder / name
    numbered = {_numbers(path.relative_to(folder)): path for path in candidates}
    if None not in numbered and len(numbered) == len(candidates):
        return numbered[max(key for key in numbered if key is not None)]
    told = ", ".join(_shown(path.relative_to(folder)) for path in candidates[:5])
    more = " …" if len(candidates) > 5 else ""
    raise Unservable(f"{_shown(folder.name)} holds {len(candidates)} adapters ({told}{more}): name one of them")


def _numbers(path: Path) -> tuple[int, ...] | None:
    """Of runs (``v3-20260101``, ms-swift's) and checkpoints, to compare; None for other names."""
    found = [_CHECKPOINT.fullmatch(part) or _RUN.fullmatch(part) for part in path.parts]
    return tuple(int(match[1]) for match in found if match) if all(found) else None


def _instead(folder: Path, names: Sequence[str]) -> str:
    """What the folder holds, if no adapter."""
    name = _shown(folder.name or str(folder))
    if shard := next((each for each in names if _FSDP.fullmatch(each)), None):
        return (
            f"{name} holds shards of FSDP ({_shown(shard)}) and no adapter: bring them together first (accelerate "
            "merge-weights; axolotl merge-sharded-fsdp-weights CONFIG.yml)"
        )
    if shard := next((each for each in names if _DEEPSPEED.fullmatch(each)), None):
        return (
            f"{name} holds a checkpoint of DeepSpeed ({_shown(shard)}) and no adapter: bring it together first (python "
            "zero_to_fp32.py . pytorch_model.bin, in its folder)"
        )
    has_weights = any(each in _WHOLE[:-1] or _SHARD.fullmatch(each) for each in names)
    if has_weights and CONFIG not in names:
        return f"{name} holds no {CONFIG}: rank, alpha and modules are in it; copy it from where it was trained"
    if any(_MODEL.fullmatch(each) for each in names) and CONFIG not in names:
        return (
            f"{name} holds a whole model and no adapter, as a merge leaves it (Axolotl's merged/): serve it as a model "
            "(clusterctl up --model)"
        )
    if "adapters.safetensors" in names:
        return f"{name} holds an adapter of mlx-lm, which is served by mlx workers only"
    if CONFIG in names:
        return f"{name} holds no adapter_model.safetensors, .bin or .pt"
    return f"{name} holds no {CONFIG}, nor does a folder below it"


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        found = [entry for entry, _ in zip(entries, range(_MOST_ENTRIES), strict=False)]
    return found


def _shown(name: object) -> str:
    return printable(str(name))[:120]
