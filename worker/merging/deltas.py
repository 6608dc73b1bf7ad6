"""What an adapter adds to each tensor of its base model: ``W + scale · B·A`` (arXiv 2106.09685, section 4.1).

As in PEFT's ``merge_and_unload``, but computed in float32 whatever the files hold.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from worker.adapters.rules import anchored, is_simple
from worker.jobs.job import JobFailed

_MATRIX = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?:(?P<side>[AB])(?:\.default)?\.weight"
    r"|embedding_(?P<embedding>[AB])(?:\.default)?)"
)
_WHOLE = re.compile(
    r"(?:base_model\.model\.)?(?P<name>.+?)(?:\.modules_to_save(?:\.default)?)?(?P<rest>\.weight|\.bias)"
)

#: What is more than matrices that are added.
_REFUSED = {"use_dora": "DoRA", "lora_bias": "a LoRA bias", "use_bdlora": "block-diagonal LoRA",
            "use_qalora": "QALoRA", "layer_replication": "layer replication"}  # fmt: skip


class AdapterDeltas:
    """Of the adapter in a folder. ``added``: by tensor of the base model, the names of B and A; ``replaced``: the
    tensors that were trained as a whole. Raises JobFailed."""

    def __init__(self, folder: Path) -> None:
        try:
            self._config: Mapping[str, Any] = json.loads((folder / "adapter_config.json").read_bytes())
            opened: Any = safe_open(folder / "adapter_model.safetensors", framework="pt")
            names = list(opened.keys())
        except (OSError, ValueError, SafetensorError) as error:
            raise JobFailed(f"{folder} holds no adapter that can be read: {error}", 400) from None
        self._file = opened
        for key, what in _REFUSED.items():
            if self._config.get(key):
                raise JobFailed(f"an adapter with {what} cannot be merged", 400)
        self._alphas = list(_alphas(self._config))
        self.replaced: dict[str, str] = {}
        self.added: dict[str, tuple[str, str]] = {}
        self._embeddings: set[str] = set()
        self._sort(names)

    def _sort(self, names: list[str]) -> None:
        sides: dict[str, dict[str, str]] = {}
        for name in names:
            if found := _MATRIX.fullmatch(name):
                target = f"{found['module']}.weight"
                sides.setdefault(target, {})[found["side"] or found["embedding"]] = name
                if found["embedding"]:
                    self._embeddings.add(target)
            elif (whole := _WHOLE.fullmatch(name)) and ".lora_" not in name:
                self.replaced[f"{whole['name']}{whole['rest']}"] = name
            else:
                raise JobFailed(f"the adapter has a tensor {name[:200]!r} of which it is not known where it goes", 400)
        for target, pair in sides.items():
            if set(pair) != {"A", "B"}:
                raise JobFailed(f"the adapter has half of what it adds to {target[:200]!r}", 400)
            self.added[target] = (pair["B"], pair["A"])

    def __contains__(self, name: str) -> bool:
        return name in self.added or name in self.replaced

    @property
    def targets(self) -> set[str]:
        return {*self.added, *self.replaced}

    def apply(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The tensor ``name`` of the merged model, as float32 where it is another than ``weight``. Raises JobFailed
        where the shapes do not fit."""
        if name in self.replaced:
            changed = self._file.get_tensor(self.replaced[name]).float()
        elif name in self.added:
            b, a = (self._file.get_tensor(each).float() for each in self.added[name])
            if b.shape[-1:] != a.shape[:1]:
                raise JobFailed(f"the adapter's matrices for {name[:200]!r} do not fit each other", 409)
            delta = (b @ a) * self._scale(name.removesuffix(".weight"), a.shape[0])
            turned = name in self._embeddings or self._config.get("fan_in_fan_out") is True
            delta = delta.T if turned else delta
            if delta.shape != weight.shape:
                raise JobFailed(f"the adapter is for another model: {name[:200]!r} has shape {tuple(weight.shape)}, "
                                f"and it adds {tuple(delta.shape)}", 409)
            return weight.float() + delta
        else:
            return weight
        if changed.shape != weight.shape:
            raise JobFailed(f"the adapter is for another model: {name[:200]!r} has another shape there", 409)
        return changed

    def _scale(self, module: str, rank: int) -> float:
        """By the rank that the matrices have: `r` and `rank_pattern` say the same."""
        alpha = next((value for pattern, value in self._alphas if pattern.match(module)), None)
        given = float(self._config.get("lora_alpha", 8) if alpha is None else alpha)
        return given / (math.sqrt(rank) if self._config.get("use_rslora") else rank)


def _alphas(config: Mapping[str, Any]) -> Iterator[tuple[re.Pattern[str], float]]:
    """Those of modules of their own. Raises JobFailed for patterns that could take for ever."""
    given = config.get("alpha_pattern") or {}
    for key, value in given.items():
        if not is_simple(key) or isinstance(value, bool) or not isinstance(value, int | float):
            raise JobFailed(f"the adapter's alpha_pattern has {str(key)[:100]!r}, which is not understood", 400)
        yield anchored(key), float(value)
