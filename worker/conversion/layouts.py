"""Which tensors and which configuration PEFT would have written for what a trainer wrote. Pure.

Where the forms come from: PEFT (`get_peft_model_state_dict` leaves the adapter's name away, a plain state dict has it:
``lora_A.default.weight``), ms-swift (`swift_type`, names without ``base_model.model.``; what its
`save_to_peft_format` does), wrappers of PyTorch (DDP, FSDP, activation checkpoints, `torch.compile`) that Axolotl and
plain loops save along, DeepSpeed's ``zero_to_fp32.py`` (the frozen base in the same file), and fused projections of
checkpoints that were rewritten before they were trained on (``qkv_proj``, ``gate_up_proj``, ``W_pack``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from config.text import printable

PREFIX = "base_model.model."

#: Fused modules and those that they are made of, by rows in this order.
FUSED: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"), "W_pack": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}  # fmt: skip

_WRAPPERS = re.compile(
    r"(?:^(?:module\.)+)|(?:(?<=\.)|^)(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\."
)
_NAMED = re.compile(
    r"(?P<before>.+\.lora_(?:[AB]|embedding_[AB]|magnitude_vector))\.(?P<name>[^.]+)(?P<after>\.weight)?"
)
_SAVED = re.compile(r"(?P<before>.+)\.modules_to_save\.(?P<name>[^.]+)\.(?P<after>weight|bias)")
_MATRIX = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_LORA = re.compile(r"\.lora_(?:[AB]|embedding_[AB]|magnitude_vector)(?:\.|$)")
_BASE = re.compile(r"(?:^|\.)(?:base_layer|original_module)\.")

#: PEFT's copies of resized embeddings, which the engine skips.
_SKIPPED = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")

_MOST_TENSORS = 1_000_000
_MOST_NAME = 1024


class Unservable(Exception):
    """Why an adapter cannot be brought to what the engine loads, and how to mend it: one sentence."""


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """A tensor of the result: ``source``, ``transposed`` if so, and of that the ``rows`` (from, to) or all."""

    source: str
    rows: tuple[int, int] | None = None
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The result's tensors and configuration, and what was done for them, in words."""

    cuts: Mapping[str, Cut]
    config: Mapping[str, Any]
    done: tuple[str, ...] = ()


@dataclass(slots=True)
class _Arrangement:
    """Between the steps."""

    tensors: dict[str, Shape]
    cuts: dict[str, Cut]
    config: dict[str, Any]
    done: list[str] = field(default_factory=list)


def arrange(
    config: Mapping[str, Any], tensors: Mapping[str, Shape], base: Mapping[str, int] | None = None
) -> Layout:
    """Of an adapter_config.json and the shapes of the tensors beside it, by name. ``base``: rows of the base model's
    weights by module, where they are known. Whether the engine serves the result is not asked here. Raises
    Unservable."""
    if len(tensors) > _MOST_TENSORS or any(len(name) > _MOST_NAME for name in tensors):
        raise Unservable(f"more than {_MOST_TENSORS} tensors, or names of more than {_MOST_NAME} characters")
    state = _Arrangement(dict(tensors), {name: Cut(name) for name in tensors}, dict(config))
    for step in (_check_whole, _kind, _drop_base, _rename):
        step(state)
    _transpose(state)
    _split(state, base or {})
    _name_targets(state)
    return Layout(state.cuts, state.config, tuple(state.done))


def _check_whole(state: _Arrangement) -> None:
    empty = [name for name, shape in state.tensors.items() if 0 in shape]
    if empty and all(_LORA.search(name) for name in empty):
        raise Unservable(
            f"{len(empty)} of its {len(state.tensors)} tensors are empty ({_shown(empty[0])}), as DeepSpeed's ZeRO-3 "
            "leaves them: bring the checkpoint's shards together first (python zero_to_fp32.py . pytorch_model.bin, in "
            "its folder)"
        )
    if state.tensors and not any(_LORA.search(name) for name in state.tensors):
        first = _shown(next(iter(state.tensors)))
        raise Unservable(
            f"none of its {len(state.tensors)} tensors, such as {first}, is a LoRA matrix: a whole or merged model is "
            "served as a model, not as an adapter"
        )


def _kind(state: _Arrangement) -> None:
    """ms-swift's own form of the configuration."""
    config = state.config
    kind = config.pop("swift_type", None)
    if kind is None:
        return
    if kind != "LORA" or config.get("use_merged_linear") or config.get("use_qa_lora"):
        what = "merged linear layers" if config.get("use_merged_linear") else _shown(kind)
        told = "merge it into its base model (swift export --merge_lora true)"
        raise Unservable(f"ms-swift's {what} is no plain LoRA: {told}")
    config.setdefault("peft_type", "LORA")
    state.done.append("took ms-swift's swift_type LORA for PEFT's peft_type")


def _drop_base(state: _Arrangement) -> None:
    """A state dict of the whole wrapped model holds the frozen base, too."""
    frozen = [
        name for name in state.tensors
        if _BASE.search(name) and not (name.endswith(_SKIPPED) or _LORA.search(name))
    ]
    if not frozen:
        return
    if not all(".original_module." in name for name in frozen):  # all that is not the adapter's is the base model's
        frozen = [name for name in state.tensors if not (_LORA.search(name) or _SAVED.fullmatch(name))]
    for name in frozen:
        del state.tensors[name], state.cuts[name]
    state.done.append(f"left out {_count(len(frozen), 'tensor')} of the base model ({_example(frozen)})")


def _rename(state: _Arrangement) -> None:
    names = {name: _canonical(name) for name in state.tensors}
    adapters = {adapter for _, adapter in names.values() if adapter is not None}
    if len(adapters) > 1:
        raise Unservable(
            f"it holds {len(adapters)} adapters ({', '.join(map(_shown, sorted(adapters)[:5]))}): save one of "
            "them with PEFT's save_pretrained(selected_adapters=[...])"
        )
    twice = [new for new, count in Counter(new for new, _ in names.values()).items() if count > 1]
    if twice:
        raise Unservable(f"it holds {_shown(twice[0])} twice, under two names")
    changed = {old: new for old, (new, _) in names.items() if old != new}
    # The engine reads names without the prefix as well; the others' are left as they are then.
    if all(new == PREFIX + old for old, new in changed.items()) and len(changed) == len(names):
        return
    state.tensors = {new: state.tensors[old] for old, (new, _) in names.items()}
    state.cuts = {new: state.cuts[old] for old, (new, _) in names.items()}
    if changed:
        old, new = next(iter(changed.items()))
        state.done.append(f"renamed {_count(len(changed), 'tensor')}: {_shown(old)} is {_shown(new)}")


def _canonical(name: str) -> tuple[str, str | None]:
    """PEFT's name for it, and the name of the adapter that was in it."""
    bare, before = name, ""
    while bare != before:  # one wrapper may be in another, in any order
        before, bare = bare, _WRAPPERS.sub("", bare).removeprefix(PREFIX)
    adapter = None
    if found := _SAVED.fullmatch(bare):
        bare, adapter = f"{found['before']}.{found['after']}", found["name"]
    elif (found := _NAMED.fullmatch(bare)) and found["name"] != "weight":
        plain = "lora_embedding" in found["before"] or found["before"].endswith("lora_magnitude_vector")
        bare, adapter = found["before"] + ("" if plain else found["after"] or ".weight"), found["name"]
    return PREFIX + bare, adapter


def _transpose(state: _Arrangement) -> None:
    """Matrices that lie the other way round, [in, rank] and [rank, out], such as those of a Conv1D saved as it
    computes: only where the rank says so of both of a pair, and of all pairs."""
    rank = state.config.get("r")
    sides = _pairs(state.tensors)
    if not sides or state.config.get("rank_pattern") or type(rank) is not int:
        return
    for pair in sides.values():
        a, b = (state.tensors[pair[side]] if side in pair else () for side in "AB")
        if len(a) != 2 or len(b) != 2 or (a[0] == rank and b[1] == rank) or a[1] != rank or b[0] != rank:
            return
    for pair in sides.values():
        for name in pair.values():
            state.tensors[name] = state.tensors[name][::-1]
            state.cuts[name] = replace(state.cuts[name], transposed=True)
    state.done.append(f"transposed {2 * len(sides)} matrices that lay as [in, rank] and [rank, out]")


def _split(state: _Arrangement, base: Mapping[str, int]) -> None:
    """A fused module's pair into one for each of its parts, where the base model has the parts: the same A for each,
    and of B its rows."""
    split: Counter[str] = Counter()
    for module, pair in _pairs(state.tensors).items():
        parent, _, last = module.rpartition(".")
        parts = [f"{parent}.{part}" for part in FUSED.get(last, ())]
        if not parts or len(pair) < 2 or _find(module, base) is not None:
            continue
        rows = [_find(part, base) for part in parts]
        if any(each is None for each in rows):
            continue
        _split_pair(state, module, parts, [each for each in rows if each is not None])
        split[last] += 1
    for last, count in split.items():
        _replace_keys(state.config, last)
        parts_told = " and ".join(FUSED[last])
        state.done.append(f"split {_count(count, 'module')} {last} into {parts_told}, as the base model has them")


def _split_pair(state: _Arrangement, module: str, parts: list[str], rows: list[int]) -> None:
    a, b = (PREFIX + f"{module}.lora_{side}.weight" for side in "AB")
    a, b = (name if name in state.tensors else name.removeprefix(PREFIX) for name in (a, b))
    shape = state.tensors[b]
    if sum(rows) != shape[0]:
        raise Unservable(
            f"{_shown(module)} has {shape[0]} rows, and {', '.join(part.rpartition('.')[2] for part in parts)} of the "
            f"base model have {' + '.join(map(str, rows))}: it was trained on another model"
        )
    begin = 0
    for part, count in zip(parts, rows, strict=True):
        for name in (a, b):
            new = name.replace(module, part)
            made, cut = state.tensors[name], state.cuts[name]
            if name == b:
                made, cut = (count, shape[1]), replace(cut, rows=(begin, begin + count))
            state.tensors[new], state.cuts[new] = made, cut
        begin += count
    for name in (a, b):
        del state.tensors[name], state.cuts[name]


def _replace_keys(config: dict[str, Any], fused: str) -> None:
    """What the configuration says of a fused module holds for each of its parts."""
    def parts(text: str, *, there: bool) -> list[str]:
        return [text.replace(fused, part) for part in FUSED[fused]] if there else [text]

    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key)
        if isinstance(patterns, dict):
            config[key] = {new: of for old, of in patterns.items() for new in parts(old, there=fused in old)}
    targets = config.get("target_modules")
    if isinstance(targets, list):
        texts = [target for target in targets if isinstance(target, str)]
        config["target_modules"] = [new for old in texts for new in parts(old, there=old.endswith(fused))]
    else:
        config.pop("target_modules", None)  # named anew below


def _name_targets(state: _Arrangement) -> None:
    """A configuration without them is none for the engine; ms-swift leaves them out for a pattern of its own."""
    if state.config.get("target_modules") is None:
        modules = sorted({module.rpartition(".")[2] for module in _modules(state.tensors)})
        if modules:
            state.config["target_modules"] = modules
            state.done.append(f"named the target modules: {', '.join(map(_shown, modules[:20]))}")


def _pairs(tensors: Iterable[str]) -> dict[str, dict[str, str]]:
    """Names of tensors by module, without the prefix, and side."""
    found: dict[str, dict[str, str]] = {}
    for name in tensors:
        if matrix := _MATRIX.fullmatch(name.removeprefix(PREFIX)):
            found.setdefault(matrix["module"], {})[matrix["side"]] = name
    return found


def _modules(tensors: Iterable[str]) -> set[str]:
    return {name.removeprefix(PREFIX)[: found.start()] for name in tensors
            if (found := _LORA.search(name.removeprefix(PREFIX)))}


def _find(module: str, base: Mapping[str, int]) -> int | None:
    """Models of other versions, or with a vision tower, differ in how their names begin."""
    if module in base:
        return base[module]
    place = module.find("layers.")
    tail = module[place:] if place >= 0 else module
    found = {rows for name, rows in base.items() if name.endswith(f".{tail}") or name == tail}
    return found.pop() if len(found) == 1 else None


def _example(names: list[str]) -> str:
    return _shown(names[0]) + (" …" if len(names) > 1 else "")


def _count(count: int, one: str) -> str:
    return f"{count} {one}{'' if count == 1 else 's'}"


def _shown(name: object) -> str:
    text = printable(str(name))
    return text if len(text) <= 120 else f"{text[:60]}…{text[-50:]}"
