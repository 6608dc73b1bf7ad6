"""What an adapter's tensors are: pairs of matrices, one pair a module, as vLLM 0.32 reads their names. Pure.

Mirrors vllm/lora/lora_model.py and utils.py, and refuses what these load without a word although it is wrong: a rank
other than the config's (wrong scaling), a linear layer's matrices for an embedding, tensors outside target_modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from worker.adapters.rules import CONFIG, MAX_NAME, WEIGHTS, AdapterConfig, anchored, is_simple
from worker.adapters.tensors import FLOATING, AdapterRejected, Tensor, shown

_PREFIX = "base_model.model."
_NAME = re.compile(r"(?P<module>.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))", re.DOTALL)
_NAMED = re.compile(r".+\.lora_(?:[AB]\.(?P<a>[^.]+)\.weight|embedding_[AB]\.(?P<b>[^.]+))", re.DOTALL)
_IGNORED = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")  # PEFT's copies; vLLM skips them
_EMBEDDINGS = frozenset({"embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings"})


@dataclass(frozen=True, slots=True)
class Pair:
    """The two matrices of one module: ``a`` is [rank, in], ``b`` is [out, rank]; with their tensors' names."""

    module: str
    embedding: bool
    a_name: str
    a: tuple[int, ...]
    b_name: str
    b: tuple[int, ...]

    @property
    def fused(self) -> bool:
        """All experts of a layer in one tensor: its rank is a multiple, its shape not that of one matrix."""
        return self.module.endswith((".experts", ".experts.base_layer"))


def pair_up(tensors: Mapping[str, Tensor], config: AdapterConfig) -> list[Pair]:
    """The adapter's pairs, ordered by module; raises AdapterRejected 400 for a tensor that is part of none."""
    sides: dict[str, dict[str, str]] = {}
    embeddings: set[str] = set()
    for name, tensor in tensors.items():
        if name.endswith(_IGNORED):
            continue
        module, side, embedding = _parse(name)
        _check_tensor(name, tensor)
        if side in sides.setdefault(module, {}):
            raise AdapterRejected(400, f"{WEIGHTS} holds lora_{side} of {shown(module)} twice")
        sides[module][side] = name
        embeddings |= {module} if embedding else set()
    if not sides:
        raise AdapterRejected(400, f"{WEIGHTS} holds no LoRA tensor")
    pairs = [_pair(module, sides[module], tensors, module in embeddings) for module in sorted(sides)]
    config.check_work(len(pairs))
    for pair in pairs:
        _check_pair(pair, config)
    return pairs


def check_targets(pairs: list[Pair], config: AdapterConfig) -> str | None:
    """Raises AdapterRejected 400 for a module that the config does not name; returns what could not be checked."""
    targets = config.targets
    if targets is None or targets == "all-linear":
        return None
    if isinstance(targets, str):
        if not is_simple(targets):
            return "the tensors were not compared with target_modules: it is a pattern too involved to try"
        targets_pattern = anchored(targets)
        strangers = [pair for pair in pairs if not targets_pattern.match(pair.module)]
    else:
        # By the last component: tools that rename tensors leave the paths in the config as they were.
        known = {target.rpartition(".")[2] for target in targets}
        strangers = [pair for pair in pairs if pair.module.rpartition(".")[2] not in known]
    for pair in strangers:
        if not pair.fused:  # those are named by target_parameters
            raise AdapterRejected(400, f"tensor {shown(pair.a_name)} is of a module that target_modules does not name")
    return None


def _parse(name: str) -> tuple[str, str, bool]:
    """Module, side (A or B) and whether it is an embedding's, as vLLM reads them from a tensor's name."""
    if len(name) > MAX_NAME:
        raise AdapterRejected(400, f"tensor {shown(name)} has a name of more than {MAX_NAME} characters")
    found = _NAME.fullmatch(name.replace(_PREFIX, "") if name.startswith(_PREFIX) else name)
    if found:
        return found["module"], found["linear"] or found["embedding"], found["linear"] is None
    named = _NAMED.fullmatch(name)
    if named:
        inner = shown(named["a"] or named["b"])
        hint = f"has the adapter's name {inner} in it, which vLLM does not read: save it with PEFT's save_pretrained"
        raise AdapterRejected(400, f"tensor {shown(name)} {hint}")
    raise AdapterRejected(400, f"tensor {shown(name)} is no LoRA matrix: only lora_A and lora_B weights can be served")


def _check_tensor(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATING:
        raise AdapterRejected(400, f"tensor {shown(name)} is of type {tensor.dtype} and must be floating point")
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        raise AdapterRejected(400, f"tensor {shown(name)} has shape {list(tensor.shape)} and must be a matrix")


def _pair(module: str, names: Mapping[str, str], tensors: Mapping[str, Tensor], embedding: bool) -> Pair:
    if len(names) < 2:
        has, lacks = ("A", "B") if "A" in names else ("B", "A")
        raise AdapterRejected(400, f"tensor {shown(names[has])} has no lora_{lacks} to go with it")
    a, b = names["A"], names["B"]
    if ("lora_embedding_" in a) != ("lora_embedding_" in b):
        raise AdapterRejected(400, f"tensors {shown(a)} and {shown(b)} are of two kinds and make no pair")
    return Pair(module, embedding, a, tensors[a].shape, b, tensors[b].shape)


def _check_pair(pair: Pair, config: AdapterConfig) -> None:
    if not pair.embedding and pair.module.rpartition(".")[2] in _EMBEDDINGS:
        raise AdapterRejected(400, f"tensor {shown(pair.a_name)} is of an embedding and must be a lora_embedding_A")
    rank = config.rank_of(pair.module)
    for name, shape, found in ((pair.a_name, pair.a, pair.a[0]), (pair.b_name, pair.b, pair.b[1])):
        if found != rank and not (pair.fused and found % rank == 0):
            told = f"has shape {list(shape)}, which is rank {found}, and {CONFIG} says rank {rank}"
            raise AdapterRejected(400, f"tensor {shown(name)} {told}")
    if pair.a[0] != pair.b[1]:
        raise AdapterRejected(400, f"tensors {shown(pair.a_name)} and {shown(pair.b_name)} differ in rank")
