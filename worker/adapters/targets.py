"""Which of an adapter's modules the engine would use: the others it drops without a word. Pure.

The rules are those of vLLM 0.32: vllm/lora/model_manager.py (_create_lora_modules, activate_adapter) and
vllm/lora/utils.py (is_in_target_modules).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from worker.adapters.rules import HEADS
from worker.adapters.tensors import AdapterRejected, shown
from worker.engines.lora_names import PACKED, LoraNames

_MOST_PATTERNS = 40
_EXPERTS = ".experts"


@dataclass(frozen=True, slots=True)
class EngineSide:
    """``names``: how the engine calls modules, None where that is not known. ``targets``: `--lora-target-modules`,
    None for all. ``towers``: `--enable-tower-connector-lora`. ``pooling``: it may serve no text. ``most_labels``:
    `--max-lora-cls-labels`."""

    names: LoraNames | None = None
    targets: tuple[str, ...] | None = None
    towers: bool = False
    pooling: bool = False
    most_labels: int | None = None


@dataclass(frozen=True, slots=True)
class _Fate:
    """Of one module: why it is dropped, or why that is not known; neither: it is used."""

    dropped: str = ""
    unknown: str = ""


def check_used(
    modules: Sequence[str], renamed: Mapping[str, str], base: Collection[str], side: EngineSide
) -> tuple[str, ...]:
    """What of ``modules``, the adapter's, could not be checked, in sentences that name all of it.

    ``renamed``: those that the files of the model have under another name; ``base``: all modules of these files. Raises
    AdapterRejected 400 where the engine would use none or only some, with which and why."""
    known = {side.names.engine_name(name) for name in base} if side.names is not None and renamed else set()
    fates = {module: _fate(module, renamed.get(module), known, side) for module in modules}
    dropped = [module for module, fate in fates.items() if fate.dropped]
    if dropped:
        used = [module for module, fate in fates.items() if not fate.dropped]
        whys = dict.fromkeys(fates[module].dropped for module in dropped)
        others = f"it would use {named(used)}" if used else "it would use none"
        raise AdapterRejected(
            400, f"the engine would drop {len(dropped)} of the adapter's {len(modules)} modules without a word: "
            f"{named(dropped)} ({'; '.join(whys)}); {others}",
        )  # fmt: skip
    sentences = []
    for why in dict.fromkeys(fate.unknown for fate in fates.values() if fate.unknown):
        sentences.append(f"{why}: {named(module for module, fate in fates.items() if fate.unknown == why)}")
    return tuple(sentences)


def named(modules: Iterable[str]) -> str:
    """All of them, those that differ in numbers as one: ``model.layers.*.mlp.up_proj (32)``."""
    counts = Counter(re.sub(r"\.\d+(?=\.|$)", ".*", module) for module in modules)
    words = [f"{name} ({count})" if count > 1 else name for name, count in counts.items()]
    rest = f" and {len(words) - _MOST_PATTERNS} more" if len(words) > _MOST_PATTERNS else ""
    return ", ".join(repr(word)[1:-1] for word in words[:_MOST_PATTERNS]) + rest


def _fate(module: str, found: str | None, known: Collection[str], side: EngineSide) -> _Fate:
    names = side.names
    name = module if names is None else names.engine_name(module)
    if found is not None:
        if module.startswith(f"{found}."):
            return _Fate(unknown="the model's files hold the experts of a layer in one, and the parts were not checked")
        begins, wanted = _beginnings(module, found)
        if names is None:
            return _Fate(
                unknown=f"the names begin with {begins} and those of the model's files with {wanted}, and whether the "
                "engine takes one for the other was not checked"
            )
        if not _is_known(name, known, side.pooling):
            return _Fate(dropped=f"it knows no names that begin with {begins}, as the model's begin with {wanted}")
    if names is not None and names.language is not None and not name.startswith(names.language):
        if side.towers:
            return _Fate(unknown="whether the engine adapts what is beside the language model")
        return _Fate(dropped="beside the language model it adapts nothing without --enable-tower-connector-lora")
    if side.pooling and name in HEADS:
        return _Fate()  # a classifier's head is adapted whatever the flag says
    if side.targets is not None and not _is_target(name, side.targets, PACKED if names is None else names.packed):
        return _Fate(dropped=f"--lora-target-modules names {', '.join(side.targets[:_MOST_PATTERNS])} only")
    return _Fate()


def _is_known(name: str, known: Collection[str], pooling: bool) -> bool:
    if name in known or (pooling and f"model.{name}" in known):
        return True
    # Files of a model without a head, such as an embedding model's, leave away what all names in the engine begin with.
    bare = name.removeprefix("model.")
    return bare != name and bare in known and not any(other.startswith("model.") for other in known)


def _beginnings(one: str, other: str) -> tuple[str, str]:
    """What is left of two names without the components at their ends that are the same, as text to show."""
    parts, others = one.split("."), other.split(".")
    same = 0
    while same < min(len(parts), len(others)) and parts[-1 - same] == others[-1 - same]:
        same += 1
    begins, wanted = parts[: len(parts) - same], others[: len(others) - same]
    if not begins or not wanted:  # one is the end of the other: with what follows, or nothing could be shown
        begins, wanted = parts[: len(begins) + 1], others[: len(wanted) + 1]
    return shown(".".join(begins)), shown(".".join(wanted))


def _is_target(name: str, targets: tuple[str, ...], packed: Mapping[str, Sequence[str]]) -> bool:
    """Whether the engine's module in which ``name`` ends is adapted: one that is packed is, for any of its parts."""
    if _EXPERTS in name:
        whole = name[: name.index(_EXPERTS) + len(_EXPERTS)]
        return whole in targets or any(target == "experts" or target.startswith("experts.") for target in targets)
    path, _, last = name.rpartition(".")
    wholes = [whole for whole, parts in packed.items() if last in parts] or [last]
    for whole in wholes:
        if {whole, f"{path}.{whole}", *packed.get(whole, ())} & set(targets):
            return True
        if any(whole in parts and parent in targets for parent, parts in packed.items()):
            return True
    return False
