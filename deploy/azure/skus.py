"""`skus.md`: what fits on Azure's machines with GPUs of NVIDIA, reckoned as `clusterctl plan` does.

    python deploy/azure/skus.py > deploy/azure/skus.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.tools.sizing import model as models
from cluster.tools.sizing.fit import Fit, Hardware, Load, best
from cluster.tools.sizing.memory import GIB, weights

#: What is asked of each: adapters of that rank in use, requests of so many tokens (prompt and answer) at a time.
ADAPTERS, RANK, CONTEXT, REQUESTS = 4, 16, 4096, 8


@dataclass(frozen=True, slots=True)
class Sku:
    """A size of machine, as Azure's documentation of its sizes has it: ``gpus`` of ``memory`` GiB each, rounded down
    from what drivers tell."""

    name: str
    gpu: str
    gpus: int
    memory: int


SKUS = (
    Sku("Standard_NC4as_T4_v3", "T4", 1, 15),
    Sku("Standard_NC64as_T4_v3", "T4", 4, 15),
    Sku("Standard_NV36ads_A10_v5", "A10", 1, 22),
    Sku("Standard_NV72ads_A10_v5", "A10", 2, 22),
    Sku("Standard_NC24ads_A100_v4", "A100", 1, 80),
    Sku("Standard_NC48ads_A100_v4", "A100", 2, 80),
    Sku("Standard_NC96ads_A100_v4", "A100", 4, 80),
    Sku("Standard_ND96asr_v4", "A100", 8, 40),
    Sku("Standard_ND96amsr_A100_v4", "A100", 8, 80),
    Sku("Standard_NC40ads_H100_v5", "H100 NVL", 1, 93),
    Sku("Standard_NC80adis_H100_v5", "H100 NVL", 2, 93),
    Sku("Standard_ND96isr_H100_v5", "H100", 8, 79),
    Sku("Standard_ND96isr_H200_v5", "H200", 8, 140),
)

_QWEN: dict[str, Any] = {
    "model_type": "qwen2", "max_position_embeddings": 32768, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "vocab_size": 152064, "num_key_value_heads": 8, "hidden_size": 5120, "intermediate_size": 13824,
    "num_attention_heads": 40, "num_hidden_layers": 48,
}  # fmt: skip

#: What the config.json of each says of sizes.
MODELS: dict[str, dict[str, Any]] = {
    "Qwen2.5-7B": {
        **_QWEN, "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_hidden_layers": 28,
        "num_key_value_heads": 4,
    },
    "Qwen2.5-14B": _QWEN,
    "Qwen2.5-32B": {**_QWEN, "intermediate_size": 27648, "num_hidden_layers": 64},
    "Llama-3.3-70B": {
        "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "max_position_embeddings": 131072,
        "num_attention_heads": 64, "num_hidden_layers": 80, "num_key_value_heads": 8, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "vocab_size": 128256,
    },
}  # fmt: skip


def fit(sku: Sku, config: dict[str, Any]) -> Fit:
    shape = models.parse(config)
    ask = Load(ADAPTERS, RANK, CONTEXT, REQUESTS)
    return best(shape, weights(shape, None), ask, Hardware(sku.gpus, sku.memory * GIB))


def lines() -> Iterator[str]:
    yield "<!-- Written by: python deploy/azure/skus.py > deploy/azure/skus.md -->"
    yield ""
    yield f"Instances × GPUs of each, in 16 bits (T4: float16), with {ADAPTERS} adapters of rank {RANK} in use and"
    yield f"{REQUESTS} requests of {CONTEXT} tokens at a time; – where that does not fit. `clusterctl plan` says it for"
    yield "any model, type and load."
    yield ""
    yield f"| size | GPUs | {' | '.join(MODELS)} |"
    yield f"|---|---|{'---|' * len(MODELS)}"
    for sku in SKUS:
        cells = [_cell(fit(sku, config)) for config in MODELS.values()]
        yield f"| {sku.name} | {sku.gpus} × {sku.gpu}, {sku.memory} GiB | {' | '.join(cells)} |"


def _cell(found: Fit) -> str:
    return f"{found.instances} × {found.ranks}" if found.enough else "–"


if __name__ == "__main__":
    print(*lines(), sep="\n")
