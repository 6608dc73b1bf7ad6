"""What vLLM 0.32 makes of an adapter_config.json: the same refusals, before a worker is asked. Pure.

Mirrors vllm/lora/peft_helper.py, which leaves out whether it is LoRA at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from worker.adapters.tensors import AdapterRejected, shown

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

MAX_NAME = 256
"""Characters of a tensor's name or a pattern; bounds the time that one can take on the other."""

HEADS = ("score", "classifier")
"""Modules that may be trained as a whole: a sequence classifier's head (PEFT names both where there is one)."""

_MAX_PATTERNS = 10_000
_MAX_TRIES = 1_000_000  # of a pattern on a module, each a microsecond or a few
_N = TypeVar("_N", int, float)

_REFUSED = {
    "use_dora": "DoRA",
    "lora_bias": "a LoRA bias",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer replication",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
}
# The others (PiSSA, OLoRA, CorDA, LoftQ …) change the base model's weights too.
_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """``targets``: module names, a pattern over them, or None where the config names none. ``saved``: modules that
    were trained as a whole."""

    rank: int
    targets: tuple[str, ...] | str | None
    base_model: str | None
    ranks: tuple[tuple[re.Pattern[str], int], ...]
    alphas: tuple[tuple[re.Pattern[str], float], ...]
    alpha: float
    saved: tuple[str, ...]
    transposed: bool

    @property
    def top_rank(self) -> int:
        """What ``max_lora_rank`` is held against: patterns that match nothing count too, as in vLLM."""
        return max([self.rank, *(rank for _, rank in self.ranks)])

    def rank_of(self, module: str) -> int:
        """The first pattern that matches wins, as in PEFT."""
        return _first(self.ranks, module, self.rank)

    def alpha_of(self, module: str) -> float:
        """As `rank_of`."""
        return _first(self.alphas, module, self.alpha)

    def check_work(self, modules: int) -> None:
        """Raises AdapterRejected 400 where trying each pattern on each of so many ``modules`` would take minutes, here
        and on every worker."""
        if (len(self.ranks) + len(self.alphas)) * modules > _MAX_TRIES:
            raise _refusal(f"rank_pattern and alpha_pattern have too many keys for its {modules} modules")


def _first(patterns: Iterable[tuple[re.Pattern[str], _N]], module: str, otherwise: _N) -> _N:
    # Fused experts are stored under other names than those the patterns are for.
    if module.endswith(".experts.base_layer"):
        module = module.removesuffix("base_layer") + "gate_up_proj"
    elif module.endswith(".experts"):
        module += ".down_proj"
    return next((value for pattern, value in patterns if pattern.match(module)), otherwise)


def read_config(raw: Mapping[str, Any], max_rank: int) -> AdapterConfig:
    """Raises AdapterRejected 400 for what vLLM refuses, and for another kind than LoRA."""
    _check_kind(raw)
    config = AdapterConfig(
        rank=_rank(raw.get("r"), "r"),
        targets=_targets(raw),
        base_model=_text(raw, "base_model_name_or_path"),
        ranks=tuple((anchored(key), _rank(rank, "rank_pattern")) for key, rank in _patterns(raw, "rank_pattern")),
        alphas=tuple((anchored(key), _alpha(alpha, key)) for key, alpha in _patterns(raw, "alpha_pattern")),
        alpha=_alpha(raw.get("lora_alpha"), "lora_alpha"),
        saved=_saved(raw),
        transposed=raw.get("fan_in_fan_out") is True,
    )
    if config.top_rank > max_rank:
        raise _refusal(f"rank {config.top_rank} is more than max_lora_rank, which is {max_rank} here")
    return config


def is_simple(pattern: str) -> bool:
    """A valid pattern that ends in reasonable time on any name: few quantifiers and groups, no quantified group."""
    bare = re.sub(r"\\.", "", pattern).replace("(?:", "(")
    quantifiers, groups = len(re.findall(r"[*+?{]+", bare)), bare.count("(")
    if len(pattern) > MAX_NAME or quantifiers > 3 or groups > 2 or re.search(r"\)[*+?{]", bare):
        return False
    try:
        anchored(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def anchored(pattern: str) -> re.Pattern[str]:
    """Matches a module of which ``pattern`` describes the last components: PEFT's rule."""
    return re.compile(rf"(.*\.)?({pattern})$")


def _refusal(sentence: str) -> AdapterRejected:
    return AdapterRejected(400, f"{CONFIG}: {sentence}")


def _check_kind(raw: Mapping[str, Any]) -> None:
    kind, init = raw.get("peft_type"), raw.get("init_lora_weights", True)
    if kind != "LORA":
        raise _refusal(f"peft_type is {shown(kind)} and only 'LORA' can be served")
    for field, what in _REFUSED.items():
        if raw.get(field):
            raise _refusal(f"{field} is set and vLLM does not serve {what}")
    if raw.get("bias", "none") != "none":
        raise _refusal(f"bias is {shown(raw['bias'])} and vLLM serves only 'none'")
    if isinstance(init, str) and init.lower() not in _INITS:
        raise _refusal(f"init_lora_weights is {shown(init)}, which changes the base model: convert it to plain LoRA")


def _rank(value: object, field: str) -> int:
    if type(value) is not int or value < 1:
        raise _refusal(f"{field} must be a whole number of at least 1, not {shown(value)}")
    return value


def _text(raw: Mapping[str, Any], field: str) -> str | None:
    value = raw.get(field)
    if value is not None and not isinstance(value, str):
        raise _refusal(f"{field} must be text, not {shown(value)}")
    return value or None


def _targets(raw: Mapping[str, Any]) -> tuple[str, ...] | str | None:
    if "target_modules" not in raw:
        raise _refusal("target_modules is missing")
    value = raw["target_modules"]
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise _refusal(f"target_modules must be a list of names or a pattern, not {shown(value)}")


def _saved(raw: Mapping[str, Any]) -> tuple[str, ...]:
    value = raw.get("modules_to_save") or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _refusal(f"modules_to_save must be a list of names, not {shown(value)}")
    others = [item for item in value if item not in HEADS]
    if others:
        raise _refusal(
            f"modules_to_save holds {shown(others[0])}; vLLM serves no fully trained modules but a classifier's head"
        )
    return tuple(value)


def _patterns(raw: Mapping[str, Any], field: str) -> list[tuple[str, Any]]:
    value = raw.get(field) or {}
    if not isinstance(value, dict):
        raise _refusal(f"{field} must be an object, not {shown(value)}")
    if len(value) > _MAX_PATTERNS:
        raise _refusal(f"{field} has more than the {_MAX_PATTERNS} keys that are allowed")
    for key in value:
        # The worker tries these on every module: one that never ends would hang it, and the supervisor.
        if not is_simple(key):
            raise _refusal(f"{field} has the key {shown(key)}, which is no pattern or one too involved to try")
    return list(value.items())


def _alpha(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e9 < value < 1e9:
        raise _refusal(f"the alpha of {shown(key)} must be a number, not {shown(value)}")
    return value
